"""The prepare stage: every record is offered or ends, long ones are counted exactly, nothing waits for ever."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mira_stream.core.errors import MiraStreamError, Permanent, Transient, TransientKind
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import RecordKey
from mira_stream.core.tokens import Estimator
from mira_stream.pipeline import prepare
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Channel, Closed
from mira_stream.pipeline.draft import Prepared, Prompting
from mira_stream.pipeline.prepare import PoolEntry, Preparer, Tools
from mira_stream.pipeline.raw import RawRecord
from mira_stream.telemetry import registry as metrics
from tests.fakes.lab import GatedStore, Lab, committing, laboratory
from tests.fakes.ledgers import version
from tests.fakes.pool import GROUP, prompting

A = version("a")
SMALL = prompting(context_tokens=4096, max_tokens=1024)
Counts = list[int | MiraStreamError | None]


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause before a count is asked for again is a millisecond."""
    monkeypatch.setattr(prepare, "_COUNT_AGAIN_SECONDS", 0.001)


class Desk:
    """A preparer, and what it offers and counts."""

    def __init__(self, lab: Lab, pool: Prompting, counts: Counts, executor: ThreadPoolExecutor) -> None:
        self.lab = lab
        self.counts = counts
        self.counted: list[bytes] = []
        self.offered: list[Prepared] = []
        self.is_closed = False
        self.channel: Channel[RawRecord] = Channel(items_max=100, bytes_max=1 << 30)
        entry = PoolEntry(prompting=pool, count=self._count, offer=self._offer)
        self.preparer = Preparer(
            lambda source: entry if source == "claude_cli" else None,
            name_field=None,
            meta_fields=(),
            tools=Tools(
                estimator=Estimator(),
                committer=lab.committer,
                rows=lab.rows,
                meters=lab.meters,
                clock=lambda: 0.0,
                executor=executor,
            ),
        )

    async def _count(self, body: bytes) -> int | None:
        self.counted.append(body)
        await asyncio.sleep(0)
        counted = self.counts.pop(0)
        if isinstance(counted, MiraStreamError):
            raise counted
        return counted

    async def _offer(self, prepared: Prepared) -> None:
        await asyncio.sleep(0)
        if self.is_closed:
            raise Closed
        self.lab.account.move(Stage.PREPARING, Stage.WINDOW)
        self.offered.append(prepared)

    async def put(self, *lines: bytes, source: str = "claude_cli", reason: Reason | None = None) -> None:
        """Lines that were read, with ordinals from 1 on."""
        for ordinal, line in enumerate(lines, 1):
            key = RecordKey(A, ordinal)
            await self.channel.put(RawRecord(key, source, line, reason), len(line))
            self.lab.committer.enter(key)

    async def work(self) -> None:
        """Prepare what is in the channel."""
        await self.channel.close()
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self.preparer.work(self.channel))


def _play(
    tmp_path: Path,
    story: Callable[[Desk], Coroutine[None, None, None]],
    *,
    pool: Prompting = SMALL,
    counts: Counts | None = None,
    **settings: object,
) -> Desk:
    async def run() -> Desk:
        async with asyncio.timeout(20), laboratory(tmp_path, **settings) as lab:
            with ThreadPoolExecutor(1) as executor:
                desk = Desk(lab, pool, counts or [], executor)
                async with committing(lab):
                    await story(desk)
                await lab.published_once()
                return desk

    return asyncio.run(run())


def _line(words: int) -> bytes:
    text = "\n".join(f"step {n} of many" for n in range(words // 4))
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


def _near(pool: Prompting) -> bytes:
    """A record about as long as the limit."""
    estimator = Estimator()
    words = 400
    while (
        estimator.estimate(_line(words).decode(), "claude_cli", overhead=50).tokens < pool.prompt_tokens_max
    ):
        words += 40
    return _line(words)


def test_each_record_is_offered_or_ends(tmp_path: Path) -> None:
    """Good ones are offered in order, bad ones end with their reason."""

    async def story(desk: Desk) -> None:
        await desk.put(_line(40), b"not json", b"", _line(80))
        await desk.work()
        await desk.lab.account.until(lambda: desk.lab.account.at(Stage.RECEIVED) == 2)

    desk = _play(tmp_path, story)
    assert sorted(one.subject.key.ordinal for one in desk.offered) == [1, 4]
    outcomes = desk.lab.account.outcomes()
    assert (outcomes[Outcome.DEAD_LETTERED], outcomes[Outcome.SKIPPED]) == (1, 1)


@pytest.mark.parametrize("reason", [Reason.LINE_TOO_LONG, Reason.TRUNCATED, Reason.SUPERSEDED])
def test_a_row_that_needs_no_preparing_ends_with_its_reason(tmp_path: Path, reason: Reason) -> None:
    """A line over the limit, a bad end, a superseded version: whatever the source is."""

    async def story(desk: Desk) -> None:
        await desk.put(b"", source="nobody", reason=reason)
        await desk.work()

    desk = _play(tmp_path, story)
    assert sum(desk.lab.account.outcomes().values()) == 1
    assert desk.lab.meters.sum(metrics.RECORDS_RECEIVED) == 1


def test_a_large_record_is_prepared_beside_the_loop(tmp_path: Path) -> None:
    """The same result, whatever its size."""

    async def story(desk: Desk) -> None:
        await desk.put(_line(200_000), _line(40))
        await desk.work()

    desk = _play(tmp_path, story)
    assert sorted(one.subject.key.ordinal for one in desk.offered) == [1, 2]
    large = next(one for one in desk.offered if one.subject.key.ordinal == 1)
    assert large.prompt_tokens <= SMALL.prompt_tokens_max
    assert desk.counted == []
    assert desk.lab.meters.value(metrics.PREPARE_TRUNCATED, ("claude_cli",)) > 0


def test_a_record_near_the_limit_is_counted_exactly(tmp_path: Path) -> None:
    """It fits by one token: sent whole, and admission counts the exact number."""

    async def story(desk: Desk) -> None:
        await desk.put(_near(SMALL))
        await desk.work()

    desk = _play(tmp_path, story, counts=[SMALL.prompt_tokens_max])
    assert [one.prompt_tokens for one in desk.offered] == [SMALL.prompt_tokens_max]
    assert desk.offered[0].subject.truncated_tokens == 0
    assert desk.lab.meters.value(metrics.PREPARE_COUNTED, (GROUP,)) == 1


def test_a_record_that_is_over_by_count_is_cut_and_counted_again(tmp_path: Path) -> None:
    """As often as it takes, and no more than three times; what is sent was counted."""
    limit = SMALL.prompt_tokens_max

    async def story(desk: Desk) -> None:
        await desk.put(_near(SMALL))
        await desk.work()

    desk = _play(tmp_path, story, counts=[limit + 300, limit + 1, limit - 5])
    (prepared,) = desk.offered
    assert prepared.prompt_tokens == limit - 5
    assert prepared.subject.truncated_tokens > 300
    assert len(set(desk.counted)) == 3
    assert max(map(len, desk.counted)) == len(desk.counted[0])


def test_counts_that_never_agree_end_in_a_cut_by_estimate(tmp_path: Path) -> None:
    """A replica that says that everything is too long cannot hold a record for ever."""

    async def story(desk: Desk) -> None:
        await desk.put(_near(SMALL))
        await desk.work()

    limit = SMALL.prompt_tokens_max
    desk = _play(tmp_path, story, counts=[limit + 10] * 3)
    assert len(desk.counted) == 3
    assert desk.offered[0].prompt_tokens <= limit


def test_while_no_replica_is_there_the_record_waits_for_its_count(tmp_path: Path) -> None:
    """None: all breakers are open, and nothing could be sent anyway."""

    async def story(desk: Desk) -> None:
        await desk.put(_near(SMALL))
        await desk.work()

    desk = _play(tmp_path, story, counts=[None, None, None, None, None, 500])
    assert [one.prompt_tokens for one in desk.offered] == [500]


@pytest.mark.parametrize(
    ("error", "asked"),
    [(Permanent(404, "no such path"), 1), (Transient(TransientKind.PROTOCOL, "not a count"), 3)],
)
def test_replicas_that_cannot_count_hold_up_nothing(
    tmp_path: Path, error: MiraStreamError, asked: int
) -> None:
    """The upper end of the estimate has to do: the record is cut to be safe, after a bounded number of tries."""

    async def story(desk: Desk) -> None:
        await desk.put(_near(SMALL))
        await desk.work()

    desk = _play(tmp_path, story, counts=[error] * 9)
    assert len(desk.counted) == asked
    assert desk.offered[0].prompt_tokens < SMALL.prompt_tokens_max
    assert desk.offered[0].subject.truncated_tokens > 0


def test_a_count_that_fails_once_is_asked_for_again(tmp_path: Path) -> None:
    """Passing trouble must not cost a record its middle."""

    async def story(desk: Desk) -> None:
        await desk.put(_near(SMALL))
        await desk.work()

    reset = Transient(TransientKind.RESET, "reset")
    desk = _play(tmp_path, story, counts=[reset, SMALL.prompt_tokens_max])
    assert desk.offered[0].subject.truncated_tokens == 0


def test_a_record_over_by_count_is_a_dead_letter_if_so_configured(tmp_path: Path) -> None:
    """`overflow = "dead_letter"`."""
    pool = prompting(context_tokens=4096, max_tokens=1024, truncate=False)

    async def story(desk: Desk) -> None:
        await desk.put(_near(pool), _line(40_000))
        await desk.work()

    desk = _play(tmp_path, story, pool=pool, counts=[pool.prompt_tokens_max + 1])
    assert desk.offered == []
    assert desk.lab.account.outcomes()[Outcome.DEAD_LETTERED] == 2
    assert desk.lab.meters.value(metrics.RECORDS_ENDED, ("dead_lettered", "over_length")) == 2


def test_records_that_end_without_asking_wait_for_the_sink_too(tmp_path: Path) -> None:
    """A lake of records without a pool must not fill the ledger's disk while the store is away."""

    async def story(desk: Desk) -> None:
        store = desk.lab.store
        assert isinstance(store, GatedStore)
        await desk.put(*[b"x"] * 50, source="nobody")
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.work())
            await store.until_waiting(1)
            for _ in range(30):
                await desk.lab.ledger.chains()
            assert desk.lab.account.at(Stage.PREPARING) >= 40
            store.gate.set()

    desk = _play(tmp_path, story, store=GatedStore(), backlog_rows_max=3)
    assert desk.lab.account.outcomes()[Outcome.SKIPPED] == 50


def test_shutting_down_leaves_the_record_counted(tmp_path: Path) -> None:
    """The pool takes nothing more: the preparer ends, its record stays in its stage and is read again next time."""

    async def story(desk: Desk) -> None:
        desk.is_closed = True
        await desk.put(_line(40), _line(40), _line(40))
        await desk.work()
        assert desk.lab.account.at(Stage.PREPARING) == 3

    assert _play(tmp_path, story).offered == []
