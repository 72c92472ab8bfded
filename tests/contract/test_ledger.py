"""What `ports.Ledger` promises, held against the ledger in SQLite, before and after it is opened anew."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import PendingObject
from mira_stream.control.sealing import RollLimits
from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import Cumulated, ObjectLines, Plan, Trailer
from mira_stream.core.sight import Beside, FileSight, Prefix, SeenObject
from mira_stream.ports import Ledger
from tests.fakes.ledgers import (
    ONE,
    ROLL,
    TWO,
    open_ledger,
    outcome,
    outcomes,
    rival_rows,
    rival_trailer,
    seen,
    version,
)

A, B, C = version("a"), version("b"), version("c")
A2 = version("a", "e2")
LOCAL = version("a", scheme="file://")
NONE: frozenset[str] = frozenset()

Story = Callable[["Shelf"], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


class Shelf:
    """Where a story's ledger lies, so that it can be closed and opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger: Ledger = open_ledger(path)

    async def reopen(self, **options: Any) -> Ledger:
        """End and begin again, as after a restart."""
        await self.ledger.close()
        self.ledger = open_ledger(self.path, **options)
        return self.ledger


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Runs a story on a new ledger."""

    def run(story: Story) -> None:
        async def whole() -> None:
            shelf = Shelf(tmp_path / "ledger.sqlite3")
            try:
                await story(shelf)
            finally:
                await shelf.ledger.close()

        asyncio.run(whole())

    return run


async def _pending(ledger: Ledger) -> list[ObjectVersion]:
    return [one.seen.version for one in await ledger.next_pending(99, NONE)]


async def _only(ledger: Ledger) -> PendingObject:
    (one,) = await ledger.next_pending(99, NONE)
    return one


async def _publish(ledger: Ledger, partition: str = ONE) -> Trailer:
    plan = await ledger.seal(partition)
    assert plan is not None
    await ledger.advance(plan)
    return plan.trailer


async def _score(ledger: Ledger, one: ObjectVersion, lines: int) -> Trailer:
    """A whole object from its listing to its segment."""
    await ledger.discover([seen(one)])
    await ledger.end_object(one, lines)
    await ledger.receive(outcomes(one, 0, lines))
    return await _publish(ledger)


# Discovery and reading.


def test_objects_are_pending_in_order_of_discovery(play: Play) -> None:
    """Up to the limit, without the excluded, again and again until they end."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        assert await ledger.discover([seen(B), seen(A)]) == 2
        assert await ledger.discover([seen(C), seen(B)]) == 1
        assert await _pending(ledger) == [B, A, C]
        assert [one.seen for one in await ledger.next_pending(1, frozenset({B.uri}))] == [seen(A)]
        assert await _pending(await shelf.reopen()) == [B, A, C]

    play(story)


def test_objects_are_pending_by_source(play: Play) -> None:
    """Only of the sources that are wanted, in the order of discovery over all of them."""

    def at(one: ObjectVersion, source: str) -> SeenObject:
        return msgspec.structs.replace(seen(one), source=source)

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        many = [at(version(f"m{n}"), "many") for n in range(50)]
        await ledger.discover([*many, at(C, "z"), at(A, "y"), at(B, "z")])
        few = await ledger.next_pending(9, NONE, wanted=lambda source: source != "many")
        assert [one.seen.version for one in few] == [C, A, B]
        assert await ledger.next_pending(9, NONE, wanted=lambda _: False) == []
        assert (await _pending(ledger))[49:] == [many[49].version, C, A, B]

    play(story)


def test_a_ledger_without_the_newest_index_gets_it(play: Play) -> None:
    """Its form is the same: one that an earlier release made is opened as it is."""

    async def story(shelf: Shelf) -> None:
        await shelf.ledger.discover([seen(A)])
        await shelf.ledger.close()
        with closing(sqlite3.connect(shelf.path)) as db:
            db.execute("DROP INDEX objects_pending_by_source")
        shelf.path.with_name(f"{shelf.path.name}-sums").unlink()  # earlier releases kept none
        assert await _pending(await shelf.reopen()) == [A]
        with closing(sqlite3.connect(shelf.path)) as db:
            assert db.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'objects_pending_by_source'"
            ).fetchone()

    play(story)


def test_the_last_sight_of_a_uri_is_known(play: Play) -> None:
    """Its change mark; that of the version seen last, if there are several; None if there is none."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        assert ledger.known([A.uri]).get(A.uri) is None
        await ledger.discover([seen(A, "x")])
        assert ledger.known([A.uri]).get(A.uri) == "x"
        await ledger.receive([outcome(A, 0)])
        await ledger.discover([seen(A2, "y")])
        assert ledger.known([A.uri]).get(A.uri) == "y"
        await ledger.discover([seen(A, "x")])
        assert ledger.known([A.uri]).get(A.uri) == "x"
        assert (await shelf.reopen()).known([A.uri]).get(A.uri) == "x"

    play(story)


def test_the_newest_uris_of_a_folder_are_those_of_its_last_folders(play: Play) -> None:
    """The greatest of all, then that of each folder before it; names of a bound number; none from beside the folder."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        keys = [
            "a/1",
            "a/2",
            "a-b/9",
            "b/x/1",
            "b/x/2",
            "root",
            *(f"d{n:02}/{m}" for n in range(40) for m in (1, 2)),
        ]
        uris = [f"s3://lake/raw/{key}.jsonl" for key in keys]
        beside = ["s3://lake/raw-b/1.jsonl", "s3://lake/rat/1.jsonl", "s3://lake/raw0.jsonl"]
        await ledger.discover([seen(ObjectVersion(uri, "e"), "e") for uri in (*uris, *beside)])
        newest = ledger.newest("s3://lake/raw")
        folders = [f"s3://lake/raw/d{n:02}/2.jsonl" for n in range(39, -1, -1)]
        assert newest == ["s3://lake/raw/root.jsonl", *folders][: len(newest)]
        assert 10 < len(newest) < 40
        assert ledger.newest("s3://lake/raw/a") == [uris[1], uris[0]]
        assert ledger.newest("s3://lake/raw/b") == ["s3://lake/raw/b/x/2.jsonl"]
        assert ledger.newest("s3://lake/nothing") == []

    play(story)


def test_an_object_is_finished_once_ended_and_received(play: Play) -> None:
    """Then it is never pending again while it does not change."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.receive([outcome(A, 0)])
        await ledger.end_object(A, 2)
        assert await _pending(ledger) == [], "its last row is on its way"
        await ledger.receive([outcome(A, 1)])
        for _ in range(2):
            assert await ledger.discover([seen(A)]) == 0
            assert await _pending(ledger) == []
            ledger = await shelf.reopen()

    play(story)


def test_rows_on_their_way_are_read_again_after_a_restart(play: Play) -> None:
    """An object that was read to its end, with a row missing, is pending with what is done."""

    async def story(shelf: Shelf) -> None:
        await shelf.ledger.discover([seen(A)])
        await shelf.ledger.end_object(A, 4)
        await shelf.ledger.receive(outcomes(A, 0, 2))
        await _publish(shelf.ledger)
        await shelf.ledger.receive([outcome(A, 3)])
        ledger = await shelf.reopen()
        assert await _only(ledger) == PendingObject(seen(A), IntervalSet(((0, 2), (3, 4))), lines=4)
        await ledger.end_object(A, 4)
        await ledger.receive([outcome(A, 2)])
        assert await _pending(ledger) == []

    play(story)


def test_an_empty_object_is_finished_at_its_end(play: Play) -> None:
    """It has no row to wait for."""

    async def story(shelf: Shelf) -> None:
        await shelf.ledger.discover([seen(A)])
        await shelf.ledger.end_object(A, 0)
        assert await _pending(await shelf.reopen()) == []

    play(story)


def test_a_postponed_object_is_pending_at_the_next_discovery(play: Play) -> None:
    """Even unchanged: it may have settled by then. Until then it is not pending, and to be shown again."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.receive(outcomes(A, 0, 3))
        await ledger.postpone(A)
        assert await _pending(ledger) == []
        assert ledger.known([A.uri]).get(A.uri) == f"{A.etag}?"
        ledger = await shelf.reopen()
        assert await _pending(ledger) == []
        assert await ledger.discover([seen(A)]) == 0
        assert (await _only(ledger)).done == IntervalSet(((0, 3),))
        assert ledger.known([A.uri]).get(A.uri) == A.etag

    play(story)


def test_a_postponed_object_that_is_gone_is_not_waited_for(play: Play) -> None:
    """It may have been written to when it was read last; a listing without it must not have it read again and again."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(LOCAL)])
        await ledger.postpone(LOCAL, FileSight(quiet=False))
        await ledger.begin_listing()
        await ledger.end_listing()
        assert await _pending(ledger) == [LOCAL]
        await ledger.postpone(LOCAL)
        await ledger.begin_listing()
        await ledger.end_listing()
        assert await _pending(ledger) == []
        assert ledger.known([LOCAL.uri]).get(LOCAL.uri) == f"{LOCAL.etag}?"

    play(story)


def test_a_grown_object_is_pending_with_what_is_done(play: Play) -> None:
    """The same version under another change mark; its new end is published with its new last row."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        assert (await _score(ledger, LOCAL, 3)).lines == (ObjectLines(LOCAL.uri, LOCAL.etag, 3),)
        assert await ledger.discover([seen(LOCAL, "grown")]) == 0
        assert await _only(ledger) == PendingObject(seen(LOCAL, "grown"), IntervalSet(((0, 3),)), lines=3)
        await ledger.end_object(LOCAL, 5)
        await ledger.receive(outcomes(LOCAL, 3, 5))
        assert (await _publish(ledger)).lines == (ObjectLines(LOCAL.uri, LOCAL.etag, 5),)
        assert await _pending(ledger) == []

    play(story)


def test_an_object_that_changes_while_its_rows_are_on_their_way_waits_for_them(play: Play) -> None:
    """Otherwise they would be scored twice; a later listing shows it again."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(LOCAL)])
        await ledger.end_object(LOCAL, 1)
        await ledger.discover([seen(LOCAL, "grown")])
        assert await _pending(ledger) == []
        assert ledger.known([LOCAL.uri]).get(LOCAL.uri) == LOCAL.etag
        await ledger.receive([outcome(LOCAL, 0)])
        await ledger.discover([seen(LOCAL, "grown")])
        assert await _pending(ledger) == [LOCAL]

    play(story)


# Overwritten objects.


def test_a_new_version_is_superseded_under_first(play: Play) -> None:
    """It is pending as such until its one row is received, and touching it later changes nothing."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.receive([outcome(A, 0)])
        assert await ledger.discover([seen(A2)]) == 1
        old, new = await ledger.next_pending(9, NONE)
        assert (old.seen.version, old.superseded) == (A, False)
        assert (new.seen.version, new.superseded) == (A2, True)
        await ledger.end_object(A2, 1)
        await ledger.receive([outcome(A2, 0, reason=Reason.SUPERSEDED)])
        await ledger.discover([seen(A2, "touched")])
        assert await _pending(ledger) == [A]

    play(story)


def test_an_unread_version_that_was_overwritten_is_forgotten(play: Play) -> None:
    """The first version is the first one of which something was read; an empty one holds nothing to keep."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.discover([seen(A2)])
        assert [(one.seen.version, one.superseded) for one in await ledger.next_pending(9, NONE)] == [
            (A2, False)
        ]
        await ledger.end_object(A2, 0)
        await ledger.discover([seen(version("a", "e3"))])
        assert (await _only(ledger)).superseded is False

    play(story)


def test_a_version_that_is_being_read_is_kept(play: Play) -> None:
    """It was given out for reading: its rows may be on their way."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        assert await _pending(ledger) == [A]
        await ledger.discover([seen(A2)])
        assert [one.superseded for one in await ledger.next_pending(9, NONE)] == [False, True]

    play(story)


def test_each_version_is_plain_if_wanted(play: Play) -> None:
    """Under `each_version` nothing is superseded."""

    async def story(shelf: Shelf) -> None:
        ledger = await shelf.reopen(on_overwrite="each_version")
        await _score(ledger, A, 1)
        await ledger.discover([seen(A2)])
        assert (await _only(ledger)).superseded is False

    play(story)


# Receive.


def test_a_record_is_received_once(play: Play) -> None:
    """False for what is stored, repeated in one call, or published; another generation is another row."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        assert await ledger.receive([outcome(A, 0), outcome(A, 1), outcome(A, 0)]) == [True, True, False]
        assert await ledger.receive([outcome(A, 1), outcome(A, 1, generation=1)]) == [False, True]
        await _publish(ledger)
        ledger = await shelf.reopen()
        assert await ledger.receive([outcome(A, 0), outcome(A, 1, generation=1)]) == [False, False]
        assert await ledger.receive([]) == []

    play(story)


def test_concurrent_callers_get_their_own_answers(play: Play) -> None:
    """Calls share a commit, in the order of the calls."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        calls = [[outcome(A, n), outcome(A, n + 1)] for n in range(300)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ledger.receive(call)) for call in calls]
        assert [task.result() for task in tasks] == [[True, True]] + [[False, True]] * 299
        assert await ledger.unpublished() == [RecordKey(A, n) for n in range(301)]

    play(story)


def test_a_cancelled_caller_spoils_nothing(play: Play) -> None:
    """The others in the queue are received, and so is whatever comes later."""

    async def story(shelf: Shelf) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(shelf.ledger.receive([outcome(A, n)])) for n in range(50)]
            await asyncio.sleep(0)
            for task in tasks[1::2]:
                task.cancel()
        assert all(task.result() == [True] for task in tasks[::2])
        assert {key.ordinal for key in await shelf.ledger.unpublished()} >= set(range(0, 50, 2))
        assert await shelf.ledger.receive([outcome(B, 0)]) == [True]

    play(story)


def test_what_waits_is_listed_in_order_of_receipt(play: Play) -> None:
    """Keys, and per partition rows, bytes, age and whether a plan is sealed; also after a restart."""

    async def story(shelf: Shelf) -> None:
        rows = [outcome(B, 3), outcome(A, 1, partition=TWO), outcome(A, 0)]
        for row in rows:
            await shelf.ledger.receive([row])
        await shelf.ledger.seal(TWO)
        one, two = await shelf.ledger.backlogs()
        assert (one.partition, one.rows, one.sealed) == (ONE, 2, False)
        assert one.bytes == len(rows[0].encoded) + len(rows[2].encoded)
        assert (two.partition, two.rows, two.sealed) == (TWO, 1, True)
        assert 100 < one.oldest < two.oldest
        ledger = await shelf.reopen()
        assert await ledger.unpublished() == [row.key for row in rows]
        assert {backlog.oldest for backlog in await ledger.backlogs()} == {100.0}
        await ledger.receive([outcome(C, 0, partition="source=three/shard=00")])
        assert (await ledger.backlogs())[-1].oldest > 100

    play(story)


# Seal and advance.


def test_a_sealed_plan_never_changes(play: Play) -> None:
    """The same plan, byte for byte, until it is confirmed; also after a restart under other limits."""

    async def story(shelf: Shelf) -> None:
        ledger = await shelf.reopen(roll=RollLimits(2, 1 << 20))
        rows = [outcome(A, n, reason=reason) for n, reason in enumerate((None, Reason.BLANK, Reason.POISON))]
        await ledger.receive(rows)
        plan = await ledger.seal(ONE)
        assert plan is not None
        assert (plan.partition, plan.seq, plan.rows) == (ONE, 0, tuple(rows[:2]))
        await ledger.receive([outcome(A, 9)])
        assert await ledger.seal(ONE) == plan
        assert await (await shelf.reopen()).seal(ONE) == plan

    play(story)


def test_advance_publishes_the_plan(play: Play) -> None:
    """Its rows are published and gone, the chain moves on, and saying it twice does nothing more."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.receive(outcomes(A, 0, 3))
        plan = await ledger.seal(ONE)
        assert plan is not None
        assert not await ledger.is_published(RecordKey(A, 1))
        await ledger.receive(outcomes(A, 3, 4))
        for _ in range(2):
            await ledger.advance(plan)
            assert await ledger.chains() == {ONE: 1}
            assert [key.ordinal for key in await ledger.unpublished()] == [3]
            assert await ledger.is_published(RecordKey(A, 1))
            ledger = await shelf.reopen()
        plan = await ledger.seal(ONE)
        assert plan is not None
        assert (plan.seq, [row.key.ordinal for row in plan.rows]) == (1, [3])
        assert not await ledger.is_published(RecordKey(A, 1, generation=1))
        assert not await ledger.is_published(RecordKey(version("nobody"), 1))

    play(story)


def test_advancing_what_was_not_sealed_is_a_bug(play: Play) -> None:
    """It would mark rows published that nobody can read."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.receive(outcomes(A, 0, 1))
        with pytest.raises(AssertionError, match="never sealed"):
            await ledger.advance(Plan(rival_trailer(A, (0, 1)), ()))
        await ledger.seal(ONE)
        with pytest.raises(AssertionError, match="not the plan"):
            await ledger.advance(Plan(rival_trailer(A, (0, 1)), ()))
        assert await ledger.chains() == {ONE: 0}

    play(story)


def test_nothing_waiting_is_no_plan(play: Play) -> None:
    """Also of a partition that nobody knows."""

    async def story(shelf: Shelf) -> None:
        assert await shelf.ledger.seal(ONE) is None
        await shelf.ledger.receive(outcomes(A, 0, 1))
        await _publish(shelf.ledger)
        assert await shelf.ledger.seal(ONE) is None

    play(story)


def test_partitions_roll_by_themselves(play: Play) -> None:
    """Each has its own chain and its own plan."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.receive([*outcomes(A, 0, 2), *outcomes(B, 0, 2, partition=TWO)])
        one, two = await ledger.seal(ONE), await ledger.seal(TWO)
        assert one is not None
        assert two is not None
        await ledger.advance(two)
        assert await ledger.chains() == {ONE: 0, TWO: 1}
        assert await ledger.seal(ONE) == one

    play(story)


def test_lines_come_with_the_completing_segment(play: Play) -> None:
    """Over two partitions: whichever is confirmed last carries them."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.end_object(A, 4)
        await ledger.receive([*outcomes(A, 0, 2), *outcomes(A, 2, 4, partition=TWO)])
        one, two = await ledger.seal(ONE), await ledger.seal(TWO)
        assert one is not None
        assert two is not None
        assert [row.key.ordinal for row in two.rows] == [2], "row 3 waits, for nobody knows who comes last"
        await ledger.advance(two)
        ledger = await shelf.reopen()
        assert await ledger.seal(TWO) is None, "still nobody knows"
        await ledger.advance(one)
        assert (one.trailer.lines, two.trailer.lines) == ((), ())
        assert (await _publish(ledger, TWO)).lines == (ObjectLines(A.uri, A.etag, 4),)

    play(story)


def test_an_end_that_comes_too_late_travels_with_the_next_segment(play: Play) -> None:
    """A file that settles after all its rows were published, and no row of its own is left; once."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(LOCAL)])
        await ledger.receive(outcomes(LOCAL, 0, 2))
        assert (await _publish(ledger)).lines == ()
        await ledger.end_object(LOCAL, 2)
        ledger = await shelf.reopen()
        assert await _pending(ledger) == []
        assert await ledger.seal(ONE) is None
        await ledger.receive([*outcomes(B, 0, 1, partition=TWO), *outcomes(C, 0, 1)])
        two, one = await ledger.seal(TWO), await ledger.seal(ONE)
        assert two is not None
        assert one is not None
        assert two.trailer.lines == (ObjectLines(LOCAL.uri, LOCAL.etag, 2),)
        assert one.trailer.lines == ()
        await ledger.advance(two)
        await ledger.advance(one)
        await ledger.receive(outcomes(C, 1, 2))
        assert (await _publish(ledger)).lines == ()

    play(story)


# Adoption.


def test_a_rival_segment_replaces_the_sealed_plan(play: Play) -> None:
    """Its rows are published, ours of the same keys are dropped, and our others are planned anew after it."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.end_object(A, 4)
        await ledger.receive(outcomes(A, 0, 4))
        await ledger.seal(ONE)
        dropped = await ledger.adopt(rival_trailer(A, (1, 3)), rival_rows(A, 1, 2))
        assert sorted(dropped) == [RecordKey(A, 1), RecordKey(A, 2)]
        assert await ledger.chains() == {ONE: 1}
        assert await ledger.is_published(RecordKey(A, 1))
        assert await ledger.adopt(rival_trailer(A, (1, 3)), rival_rows(A, 1, 2)) == [], "known already"
        plan = await (await shelf.reopen()).seal(ONE)
        assert plan is not None
        assert (plan.seq, [row.key.ordinal for row in plan.rows]) == (1, [0, 3])
        assert plan.trailer.lines == (ObjectLines(A.uri, A.etag, 4),)

    play(story)


def test_adopted_records_are_not_received_again(play: Play) -> None:
    """Those in flight end under the rival's outcome."""

    async def story(shelf: Shelf) -> None:
        await shelf.ledger.discover([seen(A)])
        assert await shelf.ledger.adopt(rival_trailer(A, (0, 2)), rival_rows(A, 0, 1)) == []
        assert await shelf.ledger.receive(outcomes(A, 0, 3)) == [False, False, True]

    play(story)


def test_progress_is_rebuilt_from_trailers(play: Play) -> None:
    """Of objects nobody has listed: a complete one is not pending when it is listed, another is with what is done."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.adopt(rival_trailer(A, (0, 2)), ())
        await ledger.adopt(rival_trailer(A, (2, 5), seq=1, lines=5), ())
        await ledger.adopt(rival_trailer(B, (0, 3), (4, 6), seq=2), ())
        assert await _pending(ledger) == []
        assert ledger.known([A.uri]).get(A.uri) is None
        ledger = await shelf.reopen()
        assert await ledger.discover([seen(A), seen(B)]) == 2
        assert await _only(ledger) == PendingObject(seen(B), IntervalSet(((0, 3), (4, 6))))
        assert ledger.known([A.uri]).get(A.uri) == A.etag
        assert await ledger.chains() == {ONE: 3}

    play(story)


def test_a_local_file_is_read_again_after_a_rebuild(play: Play) -> None:
    """It may have grown since its end was published, and its etag cannot tell."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.adopt(rival_trailer(LOCAL, (0, 2), lines=2), ())
        await ledger.discover([seen(LOCAL)])
        assert (await _only(ledger)).done == IntervalSet(((0, 2),))
        await ledger.end_object(LOCAL, 3)
        await ledger.receive(outcomes(LOCAL, 0, 3))
        assert (await _publish(ledger)).lines == (ObjectLines(LOCAL.uri, LOCAL.etag, 3),)

    play(story)


def test_a_superseded_version_stays_so_after_a_rebuild(play: Play) -> None:
    """Its one row is published, and it is not pending."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        local2 = version("a", "e2", scheme="file://")
        await ledger.adopt(rival_trailer(LOCAL, (0, 2), lines=2), ())
        await ledger.adopt(rival_trailer(local2, (0, 1), seq=1, lines=1), ())
        await ledger.discover([seen(local2)])
        assert await _pending(ledger) == []

    play(story)


def test_an_object_that_a_rival_finished_need_not_be_read(play: Play) -> None:
    """Its end and all its rows are published."""

    async def story(shelf: Shelf) -> None:
        await shelf.ledger.discover([seen(A), seen(B)])
        await shelf.ledger.adopt(rival_trailer(A, (0, 2), lines=2), ())
        assert await _pending(shelf.ledger) == [B]

    play(story)


def test_two_daemons_complete_an_object_without_a_segment_that_says_so(play: Play) -> None:
    """Neither plan alone covers it; the end travels with the next segment."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.end_object(A, 2)
        await ledger.receive(outcomes(A, 0, 1))
        assert (await _publish(ledger)).lines == ()
        await ledger.adopt(rival_trailer(A, (1, 2), partition=TWO), rival_rows(A, 1))
        assert await _pending(ledger) == []
        await ledger.receive(outcomes(B, 0, 1))
        assert (await _publish(ledger)).lines == (ObjectLines(A.uri, A.etag, 2),)

    play(story)


def test_a_gap_in_a_chain_is_a_bug(play: Play) -> None:
    """Segments are adopted one after another, or rows in between would be planned again."""

    async def story(shelf: Shelf) -> None:
        with pytest.raises(AssertionError, match="adopted before 0"):
            await shelf.ledger.adopt(rival_trailer(A, (0, 2), seq=3), ())
        assert await shelf.ledger.chains() == {}

    play(story)


# Size.


def test_the_file_does_not_grow_with_what_was_published(tmp_path: Path) -> None:
    """Pages of published outcomes are used again, and an object that is done is one span."""

    async def story() -> None:
        path = tmp_path / "ledger.sqlite3"
        ledger = open_ledger(path, roll=ROLL)
        for start in range(0, 6_000, 500):
            await ledger.receive([outcome(A, n, size=2_000) for n in range(start, start + 500)])
            await _publish(ledger)
        await ledger.discover([seen(A)])
        assert (await _only(ledger)).done.spans == ((0, 6_000),)
        await ledger.close()
        assert path.stat().st_size < 3 << 20, "12 MB went through it"

    asyncio.run(story())


def test_closing_twice_is_once(play: Play) -> None:
    """And the lock is free at once."""

    async def story(shelf: Shelf) -> None:
        await shelf.ledger.close()
        await shelf.ledger.close()
        await shelf.reopen()

    play(story)


# Files that may still be written to.


def test_a_file_that_is_not_shown_any_more_is_pending_once_more(play: Play) -> None:
    """It was not quiet when it was read, and has lost its name since: what came after is looked for. Not if quiet."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await _score(ledger, LOCAL, 2)
        await ledger.discover([seen(LOCAL, "grown")])
        await ledger.next_pending(9, NONE)
        await ledger.end_object(LOCAL, 2, FileSight(Prefix(7, "d"), quiet=False))
        assert ledger.known([LOCAL.uri]).get(LOCAL.uri) == "grown?"
        await ledger.begin_listing()
        await ledger.discover([msgspec.structs.replace(seen(LOCAL, "grown"), quiet=False)])
        await ledger.end_listing()
        assert await _pending(ledger) == [], "it was shown"
        ledger = await shelf.reopen()
        await ledger.begin_listing()
        await ledger.end_listing()
        (one,) = await ledger.next_pending(9, NONE)
        assert (one.seen.version, one.lines, one.prefix) == (LOCAL, 2, Prefix(7, "d"))
        await ledger.end_object(LOCAL, 2, FileSight())
        await ledger.begin_listing()
        await ledger.end_listing()
        assert await _pending(ledger) == []
        assert ledger.known([LOCAL.uri]).get(LOCAL.uri) == "grown"

    play(story)


def test_a_file_that_took_the_name_of_one_that_is_kept_is_no_overwrite(play: Play) -> None:
    """The old one is read again if it has changed, the new one from its start, also if an empty one came between."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await _score(ledger, LOCAL, 2)
        empty, new = ObjectVersion(LOCAL.uri, "empty"), ObjectVersion(LOCAL.uri, "new")
        beside = (Beside(LOCAL.etag, "renamed and longer"),)
        await ledger.discover([msgspec.structs.replace(seen(empty), beside=beside)])
        await ledger.discover([seen(new)])
        pending = await ledger.next_pending(9, NONE)
        assert {one.seen.version.etag: one.superseded for one in pending if one.seen.version != empty} == {
            LOCAL.etag: False,
            "new": False,
        }

    play(story)


def test_a_closed_file_stays_closed(play: Play) -> None:
    """However it changes: nothing more is read of it."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await _score(ledger, LOCAL, 2)
        await ledger.discover([seen(LOCAL, "shorter")])
        await ledger.end_object(LOCAL, 3, FileSight(closed=True))
        await ledger.receive([outcome(LOCAL, 2, reason=Reason.OVERWRITTEN)])
        await ledger.discover([seen(LOCAL, "longer")])
        assert await _pending(ledger) == []

    play(story)


# Checkpoints.


class _Checkpoint:
    """One object's rows `[0, 3)` and its end, up to segment 4 of a chain."""

    partition = ONE
    seq = 4

    def plan_id(self, seq: int) -> str | None:
        return "c" * 32 if seq == self.seq else None

    def entries(self) -> Iterator[Cumulated]:
        yield Cumulated(A.uri, A.etag, 0, ((0, 3),), 3)
        yield Cumulated(B.uri, B.etag, 1, ((5, 6),))


def test_a_checkpoint_is_adopted_whole(play: Play) -> None:
    """Its ranges are published, ours among them dropped, also those of a sealed plan; the chain goes on behind it."""

    async def story(shelf: Shelf) -> None:
        ledger = shelf.ledger
        await ledger.discover([seen(A)])
        await ledger.receive([*outcomes(A, 1, 2), *outcomes(B, 0, 1)])
        await ledger.seal(ONE)
        dropped = await ledger.adopt_checkpoint(_Checkpoint())
        assert [(one.partition, one.key) for one in dropped] == [(ONE, RecordKey(A, 1))]
        assert await ledger.chains() == {ONE: 5}
        assert await ledger.last_plans() == {ONE: (4, "c" * 32)}
        assert await ledger.adopt_checkpoint(_Checkpoint()) == [], "known already"
        assert await ledger.is_published(RecordKey(A, 2))
        assert await ledger.is_published(RecordKey(B, 5, 1))
        assert A not in await _pending(ledger), "all its rows are there"
        plan = await ledger.seal(ONE)
        assert [row.key for row in plan.rows] == [RecordKey(B, 0)]
        assert plan.seq == 5

    play(story)


class _Torn(_Checkpoint):
    """One whose end is damaged."""

    def entries(self) -> Iterator[Cumulated]:
        yield from super().entries()
        raise Corrupt(Reason.CORRUPT, "damaged")


def test_a_checkpoint_that_turns_out_damaged_changes_nothing(play: Play) -> None:
    """All or nothing, however much of it was read."""

    async def story(shelf: Shelf) -> None:
        with pytest.raises(Corrupt):
            await shelf.ledger.adopt_checkpoint(_Torn())
        assert await shelf.ledger.chains() == {}
        assert not await shelf.ledger.is_published(RecordKey(A, 2))

    play(story)
