"""A replay hands on what was asked for, once, whatever happens meanwhile, and says what came of it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mira_stream.core.errors import MiraStreamError, Missing, Transient, TransientKind
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.replay import Refused, RefusedRange, ReplayAnswer, ReplayRequest
from mira_stream.core.segment import ObjectRange
from mira_stream.core.sight import ObjectEnd
from mira_stream.pipeline import replays
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Channel
from mira_stream.pipeline.left_objects import LeftObjects, ReadSettings
from mira_stream.pipeline.raw import RawChannel, RawRecord
from mira_stream.pipeline.read import Reader
from mira_stream.pipeline.replays import Replayer, ReplayTools
from mira_stream.pipeline.rows import Subject
from mira_stream.sink.replays import ReplayFolder
from mira_stream.sink.retry import Patience
from mira_stream.telemetry import registry as metrics
from tests.fakes.lab import SINK_SETTINGS, Lab, committing, laboratory
from tests.fakes.memory_source import MemorySource

A = ObjectVersion("s3://lake/raw/claude_cli/a.jsonl", "e")
B = ObjectVersion("s3://lake/raw/else/b.jsonl", "e")
SETTINGS = ReadSettings(list_seconds=0.001, open_objects_max=2, once=True)
RESET = Transient(TransientKind.RESET, "connection reset")
LINES = 12


class Desk:
    """A replayer over a laboratory; what it hands on ends as `no_text` when the test says so."""

    def __init__(self, lab: Lab, ends: dict[ObjectVersion, ObjectEnd | int]) -> None:
        self.lab = lab
        self.source = MemorySource(ends)
        self.folder = ReplayFolder(lab.store, patience=Patience(SINK_SETTINGS))
        self.channel: RawChannel = Channel(items_max=100, bytes_max=1 << 20)
        self.pools = {"claude_cli"}
        reader = Reader(
            self.source,
            lab.ledger,
            lab.committer,
            route=lambda _: self.channel,
            meters=lab.meters,
            left=LeftObjects(
                lab.ledger, settings=SETTINGS, clock=asyncio.get_running_loop().time, meters=lab.meters
            ),
        )
        self.tools = ReplayTools(
            source_of=lambda uri: uri.split("/")[-2] if uri.startswith("s3://lake/raw/") else None,
            can_score=lambda name: name in self.pools,
            route=lambda _: self.channel,
            emit=reader.emit,
            settings=SETTINGS,
            meters=lab.meters,
        )
        self.replayer = self.another()

    def another(self) -> Replayer:
        """One that knows nothing yet, as after a restart."""
        return Replayer(
            self.folder, self.source, self.lab.ledger, committer=self.lab.committer, tools=self.tools
        )

    async def ask(self, *ranges: ObjectRange, at: str = "2026-01-01T00:00:00.000Z") -> str:
        return await self.folder.ask(ReplayRequest(asked_at=at, ranges=ranges))

    def taken(self) -> list[RawRecord]:
        """What was handed on."""
        return [record for record, _ in self.channel._items]

    async def end(self, *keys: RecordKey) -> None:
        """Those records end, and are received."""
        for key in keys:
            row = self.lab.rows.unasked(Subject(key=key, source="claude_cli"), Reason.NO_TEXT)
            await self.lab.committer.finish(row, source="claude_cli", stage=Stage.PREPARING)

    async def end_taken(self) -> list[int]:
        """All that was handed on ends; its ordinals."""
        records = [await self.channel.get() for _ in range(len(self.channel))]
        await self.end(*(record.key for record in records))
        return [record.key.ordinal for record in records]


def _play(
    tmp_path: Path,
    story: Callable[[Desk], Awaitable[None]],
    ends: dict[ObjectVersion, ObjectEnd | int] | None = None,
) -> None:
    """A story in a house where the first ten lines of A are published."""

    async def run() -> None:
        async with asyncio.timeout(20), laboratory(tmp_path, roll_seconds=0.001) as lab, committing(lab):
            first = [
                lab.rows.unasked(Subject(key=RecordKey(A, n), source="claude_cli"), Reason.NO_TEXT)
                for n in range(10)
            ]
            await lab.finish(*first)
            await lab.account.until(lambda: lab.account.ended == 10)
            await story(Desk(lab, ends if ends is not None else {A: LINES}))

    asyncio.run(run())


def _range(*spans: tuple[int, int], version: ObjectVersion = A, generation: int = 1) -> ObjectRange:
    return ObjectRange(version.uri, version.etag, generation, spans)


def test_each_line_that_was_asked_for_is_handed_on_once(tmp_path: Path) -> None:
    """In its generation; neither a second request, nor a restart, nor what is under way or received repeats it."""

    async def story(desk: Desk) -> None:
        name = await desk.ask(_range((1, 3), (6, 7)))
        await desk.replayer.run()
        assert [record.key for record in desk.taken()] == [RecordKey(A, n, 1) for n in (1, 2, 6)]
        await desk.ask(_range((2, 4)), at="2026-01-02T00:00:00.000Z")
        await desk.replayer.run()
        await desk.another().run()
        assert [record.key.ordinal for record in desk.taken()] == [1, 2, 6, 3]
        assert await desk.folder.answered(name) is None
        assert await desk.end_taken() == [1, 2, 6, 3]
        await desk.lab.account.until(lambda: desk.lab.account.ended == 14)
        reads = len(desk.source.reads)
        await desk.another().run()
        assert (len(desk.channel), len(desk.source.reads)) == (0, reads)
        assert await desk.folder.unanswered() == []
        assert await desk.folder.answered(name) == ReplayAnswer(records=3)
        assert desk.lab.meters.value(metrics.RECORDS_REPLAYED) == 4
        await desk.lab.published_once()

    _play(tmp_path, story)


def test_no_more_of_an_object_is_read_than_is_wanted(tmp_path: Path) -> None:
    """The last line that is wanted is the last that is read."""

    async def story(desk: Desk) -> None:
        desk.source.ends[A] = 10**9
        await desk.ask(_range((0, 2)))
        await desk.replayer.run()
        assert len(desk.taken()) == 2

    _play(tmp_path, story)


def test_passing_trouble_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that fails is tried again, for what was not handed on."""
    monkeypatch.setattr(replays, "_RETRY_SECONDS", 0.001)

    async def story(desk: Desk) -> None:
        errors: list[MiraStreamError] = [RESET, RESET]
        desk.source.errors[A.uri] = errors
        await desk.ask(_range((0, 2)))
        await desk.replayer.run()
        assert len(desk.taken()) == 2
        assert desk.lab.meters.value(metrics.SOURCE_RETRIES) == 2

    _play(tmp_path, story)


@pytest.mark.parametrize(
    ("end", "because"),
    [
        (Missing("gone"), Refused.GONE),
        (ObjectEnd(3, reason=Reason.OVERWRITTEN), Refused.OVERWRITTEN),
        (ObjectEnd(3, reason=Reason.CORRUPT), Refused.UNREADABLE),
        (ObjectEnd(3), Refused.UNREADABLE),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, end: ObjectEnd | Missing, because: Refused) -> None:
    """The answer says what and why; what could be read before that is replayed."""

    async def story(desk: Desk) -> None:
        readable = 0
        if isinstance(end, Missing):
            desk.source.errors[A.uri] = [end]
        else:
            desk.source.ends[A], readable = end, end.lines
        name = await desk.ask(_range((0, 5)))
        await desk.replayer.run()
        assert await desk.end_taken() == list(range(readable))
        await desk.lab.account.until(lambda: desk.lab.account.ended == 10 + readable)
        await desk.replayer.answer_finished()
        refused = RefusedRange(because, A.uri, A.etag, 1, ((readable, 5),))
        assert await desk.folder.answered(name) == ReplayAnswer(records=readable, refused=(refused,))

    _play(tmp_path, story)


def test_a_line_that_may_still_come_is_waited_for(tmp_path: Path) -> None:
    """Of a file that is not settled nothing is refused."""

    async def story(desk: Desk) -> None:
        desk.source.ends[A] = ObjectEnd(9, settled=False)
        await desk.ask(_range((8, 10)))
        await desk.replayer.run()
        await desk.replayer.run()
        assert [record.key.ordinal for record in desk.taken()] == [8]
        desk.source.ends[A] = 10
        await desk.replayer.run()
        assert [record.key.ordinal for record in desk.taken()] == [8, 9]

    _play(tmp_path, story)


def test_a_source_without_a_pool_waits_for_one(tmp_path: Path) -> None:
    """It would be skipped once more; the others go on, and a generation without the one below it is refused."""

    async def story(desk: Desk) -> None:
        waiting = await desk.ask(_range((0, 1), version=B))
        odd = await desk.ask(_range((0, 1), generation=2), _range((11, 12)), at="2026-01-02T00:00:00.000Z")
        await desk.ask(_range((0, 1)), at="2026-01-03T00:00:00.000Z")
        await desk.replayer.run()
        assert [record.key for record in desk.taken()] == [RecordKey(A, 0, 1)]
        answer = await desk.folder.answered(odd)
        assert answer is not None
        assert {one.because for one in answer.refused} == {Refused.UNPUBLISHED}
        assert await desk.folder.answered(waiting) is None
        assert waiting in await desk.folder.unanswered()

    _play(tmp_path, story, {A: LINES, B: 1})


def test_requests_that_wait_do_not_starve_newer_ones(tmp_path: Path) -> None:
    """More of them than are looked at at once have no pool, and came first: each gets its turn."""

    async def story(desk: Desk) -> None:
        for number in range(40):
            await desk.ask(_range((0, 1), version=B), at=f"2026-01-01T00:00:{number:02}.000Z")
        await desk.ask(_range((0, 2)), at="2026-01-02T00:00:00.000Z")
        await desk.replayer.run()
        assert desk.taken() == []
        await desk.replayer.run()
        assert [record.key for record in desk.taken()] == [RecordKey(A, 0, 1), RecordKey(A, 1, 1)]

    _play(tmp_path, story, {A: LINES, B: 1})
