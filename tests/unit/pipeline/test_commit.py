"""The committer over the real ledger and the real sink: receive, roll, publish, adopt, recover, flush."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.failpoint import inert
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import ObjectRange, Plan, Received
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.sink.format import encode_segment, segment_key
from mira_stream.telemetry import registry as metrics
from tests.fakes import segments
from tests.fakes.lab import GatedStore, Lab, WatchedAccount, committing, laboratory
from tests.fakes.ledgers import seen
from tests.fakes.memory_store import MemoryStore
from tests.fakes.segments import PARTITION, A

OTHER = "source=other/shard=00"
B = ObjectVersion("s3://lake/raw/claude_cli/b.jsonl.zst", "etag-b")
SCORED = (Outcome.SCORED, None)


def _rows(ordinals: Sequence[int], version: ObjectVersion = A, partition: str = PARTITION) -> list[Received]:
    return [segments.received(segments.row(version, n), partition) for n in ordinals]


def _rival(
    *ordinals: int, reason: Reason | None = None, seq: int = 0, partition: str = PARTITION
) -> tuple[str, bytes]:
    """A segment that somebody else published: its key and its bytes."""
    rows = [segments.row(A, n, reason=reason) for n in ordinals]
    plan = segments.plan(rows, seq=seq, partition=partition)
    return segment_key(partition, seq), encode_segment(plan, level=1)


@pytest.mark.parametrize(
    ("settings", "rows"), [({"roll_records": 3}, 3), ({"roll_bytes": 600}, 1), ({"roll_seconds": 0.02}, 2)]
)
def test_segments_roll_on_records_bytes_and_age(
    tmp_path: Path, settings: dict[str, float], rows: int
) -> None:
    """Whichever comes first publishes, without any other event."""

    async def story() -> None:
        async with laboratory(tmp_path, **settings) as lab, committing(lab):
            await lab.finish(*_rows(range(rows)))
            await lab.account.until(lambda: lab.account.ended == rows)
            assert len(await lab.published()) == rows
            assert lab.account.outcomes()[Outcome.SCORED] == rows

    asyncio.run(story())


def test_closing_publishes_what_is_received(tmp_path: Path) -> None:
    """What did not fill a segment is published too, in all partitions, and `finish` refuses from then on."""

    async def story() -> None:
        async with laboratory(tmp_path) as lab:
            async with committing(lab):
                await lab.finish(*_rows(range(5)), *_rows(range(3), B, OTHER))
            assert len(await lab.published()) == lab.account.ended == 8
            with pytest.raises(Closed):
                await lab.finish(*_rows([9]))

    asyncio.run(story())


def test_closing_while_a_segment_is_being_published_loses_nothing(tmp_path: Path) -> None:
    """What comes meanwhile is published behind it."""

    async def story() -> None:
        store = GatedStore()
        async with laboratory(tmp_path, store=store, roll_records=2) as lab, committing(lab):
            await lab.finish(*_rows(range(2)))
            await store.until_waiting(1)
            await lab.finish(*_rows(range(2, 7)))
            await lab.committer.close()
            store.gate.set()
        assert len(store.objects) == 4

    asyncio.run(story())


def test_publication_is_spread_over_partitions_to_the_end(tmp_path: Path) -> None:
    """A shutdown with many partitions does not wait for one store call after the other."""

    async def story() -> None:
        store = GatedStore()
        names = [f"source=s{n}/shard=00" for n in range(6)]
        async with laboratory(tmp_path, store=store, publishers_max=4) as lab, committing(lab):
            for number, name in enumerate(names):
                await lab.finish(*_rows([number], A, name))
            await lab.committer.close()
            await store.until_waiting(4)
            assert store.waiting == 4
            store.gate.set()
        assert len(store.objects) == 6

    asyncio.run(story())


# Too much waits.


def test_too_much_that_waits_blocks_until_it_is_published(tmp_path: Path) -> None:
    """`blocked` counts what is received and not published; then everything is due, and whoever waits is told."""

    async def story() -> None:
        store = GatedStore()
        async with laboratory(tmp_path, store=store, backlog_rows_max=3) as lab, committing(lab):
            told: list[bool] = []
            lab.committer.on_unblocked(lambda: told.append(lab.committer.blocked))
            await lab.finish(*_rows(range(2)))
            assert not lab.committer.blocked
            await lab.finish(*_rows([2]))
            assert lab.committer.blocked
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(lab.committer.wait_for_room())
                await store.until_waiting(1)
                assert not waiting.done()
                store.gate.set()
            assert not lab.committer.blocked
            assert told == [False]
            assert lab.account.ended == 3

    asyncio.run(story())


def test_what_turns_out_to_be_there_already_unblocks_too(tmp_path: Path) -> None:
    """Outcomes that the ledger has wait for no publication: whoever waits for room must hear of it."""

    async def story() -> None:
        async with laboratory(tmp_path) as lab:
            await lab.ledger.receive(_rows([0]))
            await lab.ledger.advance(await lab.ledger.seal(PARTITION))
            told: list[int] = []
            lab.committer.on_unblocked(lambda: told.append(lab.account.ended))
            async with committing(lab):
                await lab.finish(*_rows([0]))
                await lab.account.until(lambda: lab.account.ended == 1)
                await lab.finish(*_rows([1]))
                await lab.account.until(lambda: lab.account.at(Stage.RECEIVED) == 1)
            assert told[0] == 1

    asyncio.run(story())


def test_a_slow_ledger_holds_back_dispatch_before_more_than_a_group_commit_could_be_lost(
    tmp_path: Path,
) -> None:
    """256 outcomes wait for the disk at most, then nothing more is dispatched; what is in flight waits in its stage."""
    gate = threading.Event()

    def wait(name: str) -> None:
        inert(name)
        if name == "receive.before":
            assert gate.wait(20)

    async def story() -> None:
        async with laboratory(tmp_path, failpoint=wait) as lab:
            told: list[bool] = []
            lab.committer.on_unblocked(lambda: told.append(True))
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                finishing = [group.create_task(lab.finish(one)) for one in _rows(range(300))]
                await lab.account.until(lambda: lab.account.at(Stage.RECEIVING) == 128)
                assert lab.committer.blocked
                async with committing(lab):
                    await lab.account.until(lambda: lab.account.at(Stage.RECEIVING) == 256)
                    await asyncio.sleep(0)
                    assert lab.committer.blocked
                    assert (lab.account.at(Stage.RECEIVING), lab.account.at(Stage.PREPARING)) == (256, 44)
                    told.clear()
                    gate.set()
                    await asyncio.wait(finishing)
                    await lab.account.until(lambda: lab.account.at(Stage.RECEIVED) == 300)
                    assert told
                    assert not lab.committer.blocked

    asyncio.run(story())


# Rows of one object in two partitions.


def test_rows_held_back_are_published_in_a_later_round(tmp_path: Path) -> None:
    """Two partitions complete one object together: one of them waits for the other, at the end too."""

    async def story() -> None:
        async with laboratory(tmp_path) as lab:
            await lab.ledger.discover([seen(A)])
            await lab.ledger.next_pending(1, frozenset())
            await lab.ledger.end_object(A, 2)
            async with committing(lab):
                await lab.finish(*_rows([0]), *_rows([1], A, OTHER))
            assert await lab.published_once() == Counter({SCORED: 2})
            ends = [(await lab.sink.trailer(name, 0)).lines for name in (PARTITION, OTHER)]
            assert sorted(map(len, ends)) == [0, 1]

    asyncio.run(story())


def test_a_partition_with_nothing_to_seal_does_not_spin(tmp_path: Path) -> None:
    """While the other plan waits for the store, the ledger is not asked again and again."""
    seals = 0

    def count(name: str) -> None:
        nonlocal seals
        inert(name)
        seals += name == "seal.before"

    async def story() -> None:
        store = GatedStore()
        async with (
            laboratory(tmp_path, store=store, roll_records=1, failpoint=count) as lab,
            committing(lab),
        ):
            await lab.ledger.discover([seen(A)])
            await lab.ledger.next_pending(1, frozenset())
            await lab.ledger.end_object(A, 2)
            await lab.finish(*_rows([0]))
            await store.until_waiting(1)
            await lab.finish(*_rows([1], A, OTHER))
            await lab.account.until(lambda: lab.account.at(Stage.RECEIVED) == 2)
            for _ in range(20):
                await lab.ledger.chains()  # each of them lets every seal asked for before it go first
            assert seals == 2
            store.gate.set()
            await lab.account.until(lambda: lab.account.ended == 2)

    asyncio.run(story())


# Rivals.


def test_a_rivals_segment_is_adopted(tmp_path: Path) -> None:
    """Our stored and our in-flight copies of its records end under its outcome; what it lacks is published behind it."""

    async def story() -> None:
        store = MemoryStore()
        store.put(*_rival(0, 2, 7, reason=Reason.BLANK))
        async with laboratory(tmp_path, store=store, roll_records=2) as lab:
            in_flight = _rows([2])[0]
            lab.committer.enter(in_flight.key)
            async with committing(lab):
                await lab.finish(*_rows([0, 1]))
                await lab.account.until(lambda: lab.account.outcomes()[Outcome.SKIPPED] == 1)
                assert lab.committer.under_way.adopted(in_flight.key) == (Outcome.SKIPPED, Reason.BLANK)
                await lab.committer.finish(in_flight, source="claude_cli", stage=Stage.PREPARING)
            assert await lab.published_once() == Counter({(Outcome.SKIPPED, Reason.BLANK): 3, SCORED: 1})
            assert lab.account.outcomes() == {
                Outcome.SCORED: 1,
                Outcome.SKIPPED: 2,
                Outcome.DEAD_LETTERED: 0,
            }
            assert lab.account.in_pipeline == 0

    asyncio.run(story())


def test_a_rival_that_put_our_records_elsewhere_is_adopted(tmp_path: Path) -> None:
    """With another configuration it may name another source: the counts of both partitions stay right."""

    async def story() -> None:
        store = MemoryStore()
        store.put(*_rival(0, 5, partition=OTHER))
        async with laboratory(tmp_path, store=store) as lab, committing(lab):
            await lab.finish(*_rows([0, 1]), *_rows([9], A, OTHER))
            await lab.account.until(lambda: lab.account.at(Stage.RECEIVED) == 3)
            await lab.committer.adopt(await lab.sink.trailer(OTHER, 0))
            assert lab.account.ended == 1
            await lab.committer.close()
            await lab.account.until(lambda: lab.account.ended == 3)
            assert await lab.published_once() == Counter({SCORED: 4})

    asyncio.run(story())


def test_a_record_dropped_by_adoption_may_be_the_last_one(tmp_path: Path) -> None:
    """Nothing of ours is left to publish, and the committer ends."""

    async def story() -> None:
        store = MemoryStore()
        store.put(*_rival(0, 1))
        async with laboratory(tmp_path, store=store) as lab:
            async with committing(lab):
                await lab.finish(*_rows([0, 1]))
            assert list(store.objects) == [segment_key(PARTITION, 0)]
            assert lab.account.ended == 2

    asyncio.run(story())


# Recovery.


def test_a_sealed_plan_is_published_at_the_next_start(tmp_path: Path) -> None:
    """Rows, kept and sealed, count as read by the new process and are published once, the rest behind them."""

    async def first() -> None:
        async with laboratory(tmp_path, roll_records=3) as lab:
            await lab.ledger.receive(_rows(range(5)))
            assert await lab.ledger.seal(PARTITION) is not None

    async def second() -> None:
        async with laboratory(tmp_path, roll_records=3) as lab:
            await lab.committer.recover()
            assert (lab.account.read, lab.account.ended) == (5, 3)
            async with committing(lab):
                pass
            assert await lab.published_once() == Counter({SCORED: 5})

    asyncio.run(first())
    asyncio.run(second())


def test_a_plan_that_was_published_before_the_crash_is_not_published_again(tmp_path: Path) -> None:
    """Killed between publish and advance: the segment stands, and is confirmed as ours."""
    store = MemoryStore()

    async def first() -> None:
        async with laboratory(tmp_path, store=store) as lab:
            await lab.ledger.receive(_rows(range(5)))
            await lab.sink.publish(await lab.ledger.seal(PARTITION))

    async def second() -> None:
        async with laboratory(tmp_path, store=store) as lab:
            before = dict(store.objects)
            await lab.committer.recover()
            assert store.objects == before
            assert lab.account.outcomes()[Outcome.SCORED] == 5

    asyncio.run(first())
    asyncio.run(second())


# Trouble.


def test_a_damaged_chain_stops_its_partition_alone(tmp_path: Path) -> None:
    """What stands in one chain is no segment: that is said, its rows stay in the ledger, the other chain goes on."""

    async def story() -> None:
        store = MemoryStore()
        store.put(segment_key(PARTITION, 0), b"no segment")
        async with laboratory(tmp_path, store=store, roll_records=1) as lab:
            async with committing(lab):
                await lab.finish(*_rows([0]))
                await lab.finish(*_rows([1, 2], partition=OTHER))
                await lab.finish(*_rows([3]))
            assert "too few for a segment" in lab.committer.stopped[PARTITION]
            assert lab.meters.value(metrics.SINK_PARTITIONS_STOPPED) == 1
            assert lab.committer.is_stopped("claude_cli")
            assert not lab.committer.is_stopped("other")
            assert len(await lab.ledger.unpublished()) == lab.account.at(Stage.RECEIVED) == 2
            assert segment_key(OTHER, 0) in store.objects

    asyncio.run(story())


def test_a_trailer_that_claims_more_than_its_rows_stops_the_partition(tmp_path: Path) -> None:
    """Adopted it would lose records for good: the partition stops, nothing is dropped."""

    async def story() -> None:
        store = MemoryStore()
        lying = segments.plan([segments.row(A, 0)], partition=PARTITION)
        claims = msgspec.structs.replace(lying.trailer, ranges=(ObjectRange(A.uri, A.etag, 0, ((0, 9),)),))
        store.put(segment_key(PARTITION, 0), encode_segment(Plan(claims, lying.rows), level=1))
        async with laboratory(tmp_path, store=store, roll_records=1) as lab:
            async with committing(lab):
                await lab.finish(*_rows([5]))
            assert "does not hold" in lab.committer.stopped[PARTITION]
            assert len(await lab.ledger.unpublished()) == 1

    asyncio.run(story())


def test_trouble_of_the_ledger_ends_the_committer(tmp_path: Path) -> None:
    """A full disk stops the daemon; what was received before stays, what was not is still counted."""
    broken = False

    def fail(name: str) -> None:
        inert(name)
        if broken and name == "receive.before":
            raise Refusal("the disk is full")

    async def story() -> WatchedAccount:
        nonlocal broken
        async with laboratory(tmp_path, failpoint=fail) as lab:
            with pytest.RaisesGroup(pytest.RaisesGroup(Refusal, allow_unwrapped=True)):
                async with committing(lab):
                    await lab.finish(*_rows([0]))
                    await lab.account.until(lambda: lab.account.at(Stage.RECEIVED) == 1)
                    broken = True
                    await lab.finish(*_rows([1]))
                    await asyncio.Event().wait()
            return lab.account

    account = asyncio.run(story())
    assert (account.at(Stage.RECEIVED), account.at(Stage.RECEIVING)) == (1, 1)


def test_a_cancelled_finish_leaves_the_record_where_it_was(tmp_path: Path) -> None:
    """The outbox is full and the process shuts down: the record is counted in its stage, and read again next time."""

    async def story(lab: Lab) -> None:
        one = segments.received(segments.row(A, 0, brief="x" * (65 << 20)))
        await lab.finish(one)
        async with asyncio.TaskGroup() as group:
            late = group.create_task(lab.finish(*_rows([1])))
            await lab.account.until(lambda: lab.account.at(Stage.PREPARING) == 1)
            await asyncio.sleep(0)
            late.cancel()
        assert (lab.account.at(Stage.PREPARING), lab.account.at(Stage.RECEIVING)) == (1, 1)

    async def run() -> None:
        async with laboratory(tmp_path) as lab:
            await story(lab)

    asyncio.run(run())
