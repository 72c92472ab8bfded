"""Reading: every line once, the last one only after the end is known, and what is owed where an object ends badly."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import PendingObject
from mira_stream.core.errors import (
    Denied,
    MiraStreamError,
    Missing,
    Refusal,
    Saturated,
    Transient,
    TransientKind,
)
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import PublishedKey, Trailer
from mira_stream.core.sight import ObjectEnd
from mira_stream.pipeline import object_reading, read
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Channel
from mira_stream.pipeline.left_objects import LeftObjects, ReadSettings
from mira_stream.pipeline.object_reading import ObjectReading
from mira_stream.pipeline.raw import RawChannel, RawRecord
from mira_stream.pipeline.read import Discovery, Reader
from mira_stream.pipeline.rows import Subject
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters
from tests.fakes.lab import Lab, committing, laboratory
from tests.fakes.ledgers import outcomes, rival_rows, rival_trailer, seen, version
from tests.fakes.scripted_source import Reading, ScriptedSource

A, B = version("a"), version("b")
NEWER = version("a", "e2")
NOTHING = IntervalSet()
RESET = Transient(TransientKind.RESET, "connection reset")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after trouble are milliseconds."""
    monkeypatch.setattr(object_reading, "_READ_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(read, "_LIST_RETRY_SECONDS", 0.001)


class EventLog:
    """A ledger's part for a single reading, and the sink of its records: events in the order they happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.meters = Meters()

    async def end_object(self, version: ObjectVersion, lines: int, sight: object = None) -> None:
        await asyncio.sleep(0)
        self.events.append(f"end {lines}")

    async def postpone(self, version: ObjectVersion, sight: object = None) -> None:
        await asyncio.sleep(0)
        self.events.append("postpone")

    async def emit(self, record: RawRecord) -> None:
        await asyncio.sleep(0)
        self.events.append(f"{record.key.ordinal} {record.reason or 'line'}")

    def read(
        self, *readings: Reading, done: IntervalSet = NOTHING, **known: bool | int
    ) -> tuple[bool, list[str]]:
        """One reading to its end: whether the object is closed, and what happened."""
        pending = PendingObject(seen(A), done, **known)
        source = ScriptedSource({A: list(readings)})
        reading = ObjectReading(pending, source, self, self.emit, self.meters)
        closed = asyncio.run(reading.run(once=False))
        return closed, self.events


def _done(*spans: tuple[int, int]) -> IntervalSet:
    return IntervalSet.from_spans(spans)


def test_the_last_line_waits_until_the_end_is_known_to_the_ledger() -> None:
    """So that the segment which completes an object always carries its number of lines."""
    assert EventLog().read(Reading(3)) == (True, ["0 line", "1 line", "end 3", "2 line"])


def test_an_empty_object_ends_without_a_row() -> None:
    """Absent from the sink it is clean."""
    assert EventLog().read(Reading(0)) == (True, ["end 0"])


def test_what_is_done_is_not_read_on() -> None:
    """Published or received ordinals need no second reading; the line held back is the last that is not done."""
    closed, events = EventLog().read(Reading(6), done=_done((0, 2), (3, 4), (5, 6)))
    assert (closed, events) == (True, ["2 line", "end 6", "4 line"])


def test_an_oversized_line_is_handed_on_with_its_reason() -> None:
    """It has an ordinal like every line, and no bytes."""
    _, events = EventLog().read(Reading(3, oversized=frozenset({1})))
    assert events == ["0 line", "1 line_too_long", "end 3", "2 line"]


@pytest.mark.parametrize("error", [RESET, Saturated("slow down")])
def test_trouble_in_the_middle_reads_on_without_doubling(error: MiraStreamError) -> None:
    """The object is opened again from its start; nothing is handed on twice, nothing left out."""
    log = EventLog()
    closed, events = log.read(Reading(2, error), Reading(0, error), Reading(4, error), Reading(5))
    assert (closed, events) == (True, ["0 line", "1 line", "2 line", "3 line", "end 5", "4 line"])
    assert log.meters.value(metrics.SOURCE_RETRIES) == 3


def test_an_object_that_is_gone_before_it_was_read_is_not_ended() -> None:
    """It has no row, and is wanted if it comes back unchanged: its folder may have been unmounted for a moment."""
    assert EventLog().read(Reading(0, Missing("gone"))) == (True, ["postpone"])


def test_an_object_deleted_while_it_is_read_ends_truncated() -> None:
    """What was read stays; the dead letter stands behind it."""
    closed, events = EventLog().read(Reading(3, Missing("gone")))
    assert (closed, events) == (True, ["0 line", "1 line", "end 4", "2 line", "3 truncated"])


def test_an_object_deleted_between_two_processes_owes_what_was_on_its_way() -> None:
    """Ordinals below those that are done can never be read again: each gets its dead letter, and the end its own."""
    closed, events = EventLog().read(Reading(0, Missing("gone")), done=_done((1, 2), (4, 6)))
    assert closed
    assert events == ["end 7", "0 truncated", "2 truncated", "3 truncated", "6 truncated"]


def test_a_bad_end_stands_at_the_next_ordinal() -> None:
    """Whatever the reason is, the rows before it stay."""
    end = ObjectEnd(2, reason=Reason.CORRUPT, message="checksum")
    assert EventLog().read(Reading(2, end))[1] == ["0 line", "end 3", "1 line", "2 corrupt"]


def test_a_bad_end_whose_row_is_done_is_not_told_twice() -> None:
    """A restart reads the object again because another row was lost on its way."""
    end = ObjectEnd(2, reason=Reason.CORRUPT)
    assert EventLog().read(Reading(2, end), done=_done((0, 1), (2, 3)))[1] == ["end 3", "1 line"]


def test_an_object_that_is_overwritten_at_once_owes_its_gaps() -> None:
    """Nothing can be read any more: gaps are closed, the end stands above all that is done."""
    end = ObjectEnd(0, reason=Reason.OVERWRITTEN)
    _, events = EventLog().read(Reading(0, end), done=_done((0, 1), (2, 3)))
    assert events == ["end 4", "1 overwritten", "3 overwritten"]


def test_an_object_shorter_than_what_was_read_of_it_was_overwritten() -> None:
    """Fewer lines than are done: it is not the version it was, whatever its first line says."""
    _, events = EventLog().read(Reading(2), done=_done((0, 5)))
    assert events == ["end 6", "5 overwritten"]


def test_an_unsettled_object_is_left_for_later() -> None:
    """Its complete lines are handed on, the last one too; its end is not known."""
    closed, events = EventLog().read(Reading(2, ObjectEnd(2, settled=False)))
    assert (closed, events) == (False, ["0 line", "1 line", "postpone"])


def test_a_superseded_version_gets_one_row() -> None:
    """Under `on_overwrite = "first"`: nothing of it is read."""
    assert EventLog().read(Reading(9), superseded=True) == (True, ["end 1", "0 superseded"])


# The reader, over a real ledger.


class Desk:
    """A reader and its discovery over a lab; what is read comes out of one channel, but for `others` by source."""

    def __init__(
        self,
        lab: Lab,
        source: ScriptedSource,
        *,
        once: bool,
        items_max: int = 100,
        others: Mapping[str, RawChannel] | None = None,
        vanished_seconds: float = 0.0,
    ) -> None:
        self.lab = lab
        self.ahead = 0.0
        self.channel: RawChannel = Channel(items_max=items_max, bytes_max=1 << 20)
        settings = ReadSettings(
            list_seconds=0.001, open_objects_max=2, once=once, vanished_seconds=vanished_seconds
        )
        clock = asyncio.get_running_loop().time
        self.discovery = Discovery(
            source, lab.ledger, meters=lab.meters, settings=settings, clock=clock, wall=clock
        )
        self.reader = Reader(
            source,
            lab.ledger,
            lab.committer,
            route=lambda name: (others or {}).get(name, self.channel),
            meters=lab.meters,
            left=LeftObjects(lab.ledger, settings=settings, clock=self.clock, meters=lab.meters),
        )

    def clock(self) -> float:
        """The reader's; `ahead` may be set to let its waits pass."""
        return asyncio.get_running_loop().time() + self.ahead

    async def run(self) -> None:
        """Discover and read to the end, or until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.discovery.run())
            group.create_task(self.reader.run(self.discovery))

    async def take(self, records: int) -> list[RecordKey]:
        """The next so many records."""
        return [(await self.channel.get()).key for _ in range(records)]

    async def end(self, *keys: RecordKey) -> None:
        """Those records end, skipped."""
        for key in keys:
            row = self.lab.rows.unasked(Subject(key=key, source="claude_cli"), Reason.BLANK)
            await self.lab.committer.finish(row, source="claude_cli", stage=Stage.PREPARING)


def _keys(version: ObjectVersion, *ordinals: int) -> list[RecordKey]:
    return [RecordKey(version, n) for n in ordinals]


def _play(tmp_path: Path, story: Callable[[Lab], object]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), laboratory(tmp_path) as lab:
            await story(lab)

    asyncio.run(run())


def test_once_reads_everything_and_ends(tmp_path: Path) -> None:
    """One listing, all objects, each record counted as read; trouble of the listing is tried again."""

    async def story(lab: Lab) -> None:
        source = ScriptedSource({A: [Reading(3)], B: [Reading(2)]}, trouble=[RESET, RESET])
        desk = Desk(lab, source, once=True)
        await desk.run()
        assert sorted(await desk.take(5)) == _keys(A, 0, 1, 2) + _keys(B, 0, 1)
        assert lab.account.read == 5
        assert lab.meters.value(metrics.SOURCE_OBJECTS_DISCOVERED) == 2
        assert lab.meters.value(metrics.SOURCE_RETRIES) == 2

    _play(tmp_path, story)


def test_nothing_is_read_before_a_place_is_free(tmp_path: Path) -> None:
    """A full channel holds the reader; a record is counted as read when it is inside, not before."""

    async def story(lab: Lab) -> None:
        desk = Desk(lab, ScriptedSource({A: [Reading(9)]}), once=True, items_max=2)
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run())
            await lab.account.until(lambda: lab.account.read == 2)
            for _ in range(50):
                await lab.ledger.chains()
            assert lab.account.read == 2
            assert len(await desk.take(9)) == 9
        assert lab.account.read == 9

    _play(tmp_path, story)


def test_a_pool_that_stands_still_does_not_hold_up_another(tmp_path: Path) -> None:
    """However many objects of it lie before the other one's; it takes its own places alone, and goes on later."""

    async def story(lab: Lab) -> None:
        stuck = [version(f"stuck/{n:02}") for n in range(40)]
        well = [version(f"well/{n}") for n in range(9)]
        source = ScriptedSource(
            {one: [Reading(2)] for one in (*stuck, *well)}, source_of=lambda one: one.uri.split("/")[-2]
        )
        still: RawChannel = Channel(items_max=1, bytes_max=1 << 20)
        desk = Desk(lab, source, once=True, items_max=1, others={"stuck": still})
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run())
            assert sorted(await desk.take(18)) == [key for one in well for key in _keys(one, 0, 1)]
            assert set(source.reads) == {*stuck[:2], *well}
            lab.meters.refresh()
            assert lab.meters.value(metrics.SOURCE_OBJECTS_OPEN) >= 2
            left = [(await still.get()).key for _ in range(80)]
        assert sorted(left) == [key for one in stuck for key in _keys(one, 0, 1)]
        assert lab.meters.value(metrics.SOURCE_OBJECTS_ENDED, ("none",)) == 49

    _play(tmp_path, story)


def test_a_growing_object_is_not_handed_on_again_while_its_records_are_under_way(tmp_path: Path) -> None:
    """It is read anew after each listing: what is received, and what is still in flight, is left out."""
    growing = [Reading(n, ObjectEnd(n, settled=False)) for n in (2, 2, 3)]

    async def story(lab: Lab) -> None:
        source = ScriptedSource({A: [*growing, Reading(4)]})
        desk = Desk(lab, source, once=False)
        async with committing(lab), asyncio.TaskGroup() as group:
            running = group.create_task(desk.run())
            first, second = await desk.take(2)
            await desk.end(first)
            assert [first, second, *await desk.take(2)] == _keys(A, 0, 1, 2, 3)
            await source.until(lambda one: len(one.reads) >= 4)
            running.cancel()
            assert lab.account.read == 4
            await desk.end(second, *_keys(A, 2, 3))
        assert lab.account.ended == 4
        assert await lab.published_once()

    _play(tmp_path, story)


def test_once_reads_a_version_that_waits_for_another_one_of_its_object(tmp_path: Path) -> None:
    """Both versions of an overwritten object are pending: the second is read after the first, and the run ends then."""

    async def story(lab: Lab) -> None:
        gate = asyncio.Event()
        await lab.ledger.discover([seen(A)])
        await lab.ledger.next_pending(1, frozenset())  # another process began to read it
        source = ScriptedSource({A: [Reading(1, gate=gate)]})
        desk = Desk(lab, source, once=True)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(desk.run())
            await source.until(lambda one: one.reads == [A])
            await lab.ledger.discover([seen(NEWER)])
            await source.until(lambda one: one.listings == 1)
            for _ in range(10):
                await lab.ledger.chains()
            assert not running.done()
            gate.set()
        records = [await desk.channel.get() for _ in range(2)]
        assert [(one.key, one.reason) for one in records] == [
            (RecordKey(A, 0), None),
            (RecordKey(NEWER, 0), Reason.SUPERSEDED),
        ]

    _play(tmp_path, story)


class SlowAnswers:
    """The lab's ledger, but that what is open ends while it is asked for more, before its answer is there."""

    def __init__(self, lab: Lab, gate: asyncio.Event, last: frozenset[str]) -> None:
        self._lab = lab
        self._gate = gate
        self._last = last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab.ledger, name)

    async def next_pending(
        self, limit: int, exclude: frozenset[str], **wanted: Any
    ) -> Sequence[PendingObject]:
        answer = await self._lab.ledger.next_pending(limit, exclude, **wanted)
        if exclude == self._last:
            self._gate.set()
            while self._lab.meters.value(metrics.SOURCE_OBJECTS_ENDED, ("none",)) < 16:
                await self._lab.ledger.chains()
            for _ in range(10):
                await self._lab.ledger.chains()
        return answer


def test_once_does_not_end_because_all_that_was_open_ended_at_one_moment(tmp_path: Path) -> None:
    """The ledger names no further object while every place is taken; when it answers, all places may be free."""

    async def story(lab: Lab) -> None:
        gate = asyncio.Event()
        every = [version(f"{n:02}") for n in range(18)]
        held = every[14:16]
        source = ScriptedSource({one: [Reading(1, gate=gate if one in held else None)] for one in every})
        desk = Desk(lab, source, once=True)
        desk.reader._ledger = SlowAnswers(lab, gate, frozenset(one.uri for one in held))
        await lab.ledger.discover([seen(one) for one in every])
        await desk.run()
        assert sorted(await desk.take(18)) == [RecordKey(one, 0) for one in every]

    _play(tmp_path, story)


def test_what_a_rival_published_meanwhile_is_not_handed_on(tmp_path: Path) -> None:
    """Adopted while the object is open, or waits to be opened: its records are left out."""

    async def story(lab: Lab) -> None:
        gate = asyncio.Event()
        source = ScriptedSource({A: [Reading(1, gate=gate)], B: [Reading(4)]})
        desk = Desk(lab, source, once=True, items_max=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run())
            await lab.account.until(lambda: lab.account.read == 1)
            lab.committer.under_way.adopt(rival_rows(B, 1, 2, 3))
            gate.set()
            assert sorted(await desk.take(2)) == _keys(A, 0) + _keys(B, 0)
        assert lab.account.read == 2

    _play(tmp_path, story)


def test_an_adoption_reaches_objects_that_wait_to_be_opened(tmp_path: Path) -> None:
    """They are fetched from the ledger ahead of time, and in use from then on."""

    async def story(lab: Lab) -> None:
        gate = asyncio.Event()
        third = version("c")
        held = [Reading(0, gate=gate)]
        source = ScriptedSource({A: list(held), B: list(held), third: [Reading(3)]})
        desk = Desk(lab, source, once=True)
        await lab.ledger.discover([seen(A), seen(B), seen(third)])
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run())
            await source.until(lambda one: len(one.reads) == 2)
            rows: list[PublishedKey] = rival_rows(third, 0, 1)
            trailer: Trailer = rival_trailer(third, (0, 2))
            await lab.ledger.adopt(trailer, rows)
            lab.committer.under_way.adopt(rows)
            gate.set()
            assert await desk.take(1) == _keys(third, 2)
        assert lab.account.read == 1

    _play(tmp_path, story)


# Objects that vanish or are overwritten get one closing row, however often they are found so.


def test_a_vanished_object_is_closed_once() -> None:
    """The start after a kill finds it gone: what was not delivered below its end is said, and nothing is added."""
    log = EventLog()
    known = {"done": _done((0, 4), (10, 11)), "lines": 11}
    assert log.read(Reading(0, Missing("gone")), **known) == (
        True,
        ["end 11", *(f"{n} truncated" for n in range(4, 10))],
    )


def test_an_object_that_was_whole_before_it_vanished_is_left_alone() -> None:
    """All its rows are there."""
    log = EventLog()
    assert log.read(Reading(0, Missing("gone")), done=_done((0, 5)), lines=5) == (True, ["end 5"])


@pytest.mark.parametrize(
    ("lines", "done", "closed", "expected"),
    [
        (5, (0, 5), False, ["end 6", "5 overwritten"]),
        (6, (0, 6), True, ["end 6"]),
        (6, (0, 4), False, ["end 6", "4 overwritten", "5 overwritten"]),
    ],
)
def test_an_overwritten_object_is_closed_once(
    lines: int, done: tuple[int, int], closed: bool, expected: list[str]
) -> None:
    """One row says it: the next ordinal, or those that cannot be delivered any more; later starts add none."""
    log = EventLog()
    end = ObjectEnd(2, reason=Reason.OVERWRITTEN)
    assert log.read(Reading(2, end), done=_done(done), lines=lines, closed=closed)[1] == expected


def test_two_versions_of_one_object_take_turns(tmp_path: Path) -> None:
    """Both are pending at the start: while one is read the other waits, and none is read twice."""
    gate = asyncio.Event()

    async def story(lab: Lab) -> None:
        await lab.ledger.discover([seen(A)])
        await lab.ledger.receive(outcomes(A, 0, 1))
        await lab.ledger.discover([seen(NEWER)])
        source = ScriptedSource({A: [Reading(3, gate=gate)], NEWER: [Reading(2)]})
        desk = Desk(lab, source, once=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run())
            await source.until(lambda one: bool(one.reads))
            for _ in range(20):
                await lab.ledger.chains()
            gate.set()
            found = await desk.take(3)
        assert sorted(found) == _keys(A, 1, 2) + _keys(NEWER, 0)
        assert source.reads == [A]

    _play(tmp_path, story)


# Objects that cannot be read while others can are left for later, and hold up nothing.


@pytest.mark.parametrize("trouble", [RESET, Saturated("slow down"), Denied("archived")])
def test_objects_that_cannot_be_read_take_no_places(tmp_path: Path, trouble: MiraStreamError) -> None:
    """There are more of them than places, and they come first: all others are read, and `once` ends."""

    async def story(lab: Lab) -> None:
        bad = [version(f"bad{n}") for n in range(5)]
        source = ScriptedSource({one: [Reading(0, trouble)] for one in bad} | {B: [Reading(2)]})
        desk = Desk(lab, source, once=True)
        await desk.run()
        assert await desk.take(2) == _keys(B, 0, 1)
        lab.meters.refresh()
        assert lab.meters.value(metrics.SOURCE_OBJECTS_PUT_OFF) == 5

    _play(tmp_path, story)


def test_an_object_that_was_put_off_is_read_when_it_can_be(tmp_path: Path) -> None:
    """What was read of it before is not handed on again; while its wait lasts nobody asks for it."""

    async def story(lab: Lab) -> None:
        failing = [Reading(2, RESET), *(Reading(0, RESET) for _ in range(4))]
        source = ScriptedSource({A: [*failing, Reading(0, RESET), Reading(3)]})
        desk = Desk(lab, source, once=False)
        async with committing(lab), asyncio.TaskGroup() as group:
            running = group.create_task(desk.run())
            await desk.end(*await desk.take(2))
            await lab.account.until(lambda: lab.account.at(Stage.RECEIVED) == 2)
            for asked, seconds in ((5, 31.0), (6, 61.0)):
                await source.until(lambda one, asked=asked: len(one.reads) == asked)
                listed = source.listings
                await source.until(lambda one, listed=listed: one.listings >= listed + 20)
                assert len(source.reads) == asked
                desk.ahead += seconds
            assert await desk.take(1) == _keys(A, 2)
            running.cancel()
            await desk.end(*_keys(A, 2))
            lab.meters.refresh()
            assert lab.meters.value(metrics.SOURCE_OBJECTS_PUT_OFF) == 0

    _play(tmp_path, story)


@pytest.mark.parametrize("trouble", [RESET, Saturated("slow down")])
def test_an_outage_puts_nothing_off(tmp_path: Path, trouble: MiraStreamError) -> None:
    """While the source as a whole does not answer an object keeps its place, and is read at once when it does."""

    async def story(lab: Lab) -> None:
        source = ScriptedSource({A: [*(Reading(0, trouble) for _ in range(8)), Reading(2)]})
        source.outage = trouble
        desk = Desk(lab, source, once=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run())
            assert await desk.take(2) == _keys(A, 0, 1)
        assert len(source.reads) == 9

    _play(tmp_path, story)


def test_a_source_that_is_denied_as_a_whole_ends_the_process() -> None:
    """Not one object alone: the credentials are not right, and somebody has to be told."""
    log = EventLog()
    source = ScriptedSource({A: [Reading(0, Denied("cannot read a"))]})
    source.outage = Denied("cannot list")
    reading = ObjectReading(PendingObject(seen(A), NOTHING), source, log, log.emit, log.meters)
    with pytest.raises(Refusal, match="cannot list"):
        asyncio.run(reading.run(once=False))


# Objects that are gone for a while.


def test_an_object_deleted_while_it_is_read_and_put_back_is_read_on(tmp_path: Path) -> None:
    """Nothing is told of it before it has been gone for long."""

    async def story(lab: Lab) -> None:
        source = ScriptedSource({A: [Reading(2, Missing("gone")), Reading(0, Missing("gone")), Reading(4)]})
        desk = Desk(lab, source, once=False, vanished_seconds=1e6)
        async with committing(lab), asyncio.TaskGroup() as group:
            running = group.create_task(desk.run())
            found = await desk.take(4)
            assert found == _keys(A, 0, 1, 2, 3)
            running.cancel()
            await desk.end(*found)
        assert set(await lab.published_once()) == {(Outcome.SKIPPED, Reason.BLANK)}

    _play(tmp_path, story)


def test_an_object_that_stays_gone_ends_truncated(tmp_path: Path) -> None:
    """It is in no listing any more; once it has been gone for long enough what it owes is told, once."""

    async def story(lab: Lab) -> None:
        source = ScriptedSource({A: [Reading(2, Missing("gone")), Reading(0, Missing("gone"))]})
        desk = Desk(lab, source, once=False, vanished_seconds=60.0)
        async with committing(lab), asyncio.TaskGroup() as group:
            running = group.create_task(desk.run())
            await desk.end(*await desk.take(2))
            del source.versions[A]
            await source.until(lambda one: len(one.reads) > 5)
            assert lab.account.read == 2
            desk.ahead = 61.0
            last = await desk.channel.get()
            assert (last.key, last.reason) == (RecordKey(A, 2), Reason.TRUNCATED)
            await desk.end(last.key)
            running.cancel()

    _play(tmp_path, story)
