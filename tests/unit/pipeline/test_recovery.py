"""Ledger and sink brought to one view: whatever one of them lacks, nothing is doubled, and what is lost is said."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.record import RecordKey
from mira_stream.core.segment import Received
from mira_stream.pipeline.recovery import recover
from mira_stream.sink.checkpoints import checkpoint_key
from mira_stream.sink.format import segment_key
from mira_stream.sink.reader import TRAILERS_AT_ONCE
from mira_stream.telemetry import registry as metrics
from tests.fakes import segments
from tests.fakes.lab import Lab, committing, laboratory
from tests.fakes.memory_store import MemoryStore
from tests.fakes.segments import PARTITION, A

OTHER = "source=other/shard=00"


def _rows(ordinals: Sequence[int], partition: str = PARTITION) -> list[Received]:
    return [segments.received(segments.row(A, n), partition) for n in ordinals]


def _write_old(folder: Path) -> None:
    """The ledger of a backup: one segment published, and a plan sealed for the next place."""

    async def run() -> None:
        async with laboratory(folder, store=MemoryStore()) as lab:
            await lab.ledger.receive(_rows([0, 1]))
            await lab.ledger.advance(await lab.ledger.seal(PARTITION))
            await lab.ledger.receive(_rows([2, 9]))
            await lab.ledger.seal(PARTITION)

    asyncio.run(run())


def _write(folder: Path, store: MemoryStore, *parts: Sequence[int], partition: str = PARTITION) -> None:
    """A process that publishes one segment for each part, and ends."""

    async def life() -> None:
        async with laboratory(folder, store=store) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            for part in parts:
                await lab.ledger.receive(_rows(part, partition))
                plan = await lab.ledger.seal(partition)
                await lab.sink.publish(plan)
                await lab.ledger.advance(plan)

    asyncio.run(life())


def _recovered(folder: Path, store: MemoryStore, *, again: Sequence[int] = ()) -> int:
    """The next process: it recovers, is given `again` once more, and ends; how many records it then counts as read."""

    async def life() -> int:
        async with laboratory(folder, store=store) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            async with committing(lab):
                await lab.finish(*_rows(again))
            await lab.published_once()
            return lab.account.read

    return asyncio.run(life())


def _ordinals(store: MemoryStore, tmp_path: Path) -> list[int]:
    async def read() -> list[int]:
        async with laboratory(tmp_path / "reader", store=store) as lab:
            return sorted(row.ordinal for row in await lab.published())

    return asyncio.run(read())


def test_without_a_ledger_progress_is_rebuilt_from_the_sink(tmp_path: Path) -> None:
    """Every published record is known again: scored again by mistake, it is not published again."""
    store = MemoryStore()
    _write(tmp_path / "one", store, [0, 1], [2], [5, 3])
    _write(tmp_path / "one", store, [7], partition=OTHER)
    assert _recovered(tmp_path / "two", store, again=range(9)) == 9
    assert _ordinals(store, tmp_path) == list(range(9))
    assert len(store.objects) == 5


def test_a_ledger_behind_the_sink_catches_up(tmp_path: Path) -> None:
    """A ledger from a backup: segments it does not know are adopted, also where it has a plan for their place."""
    store = MemoryStore()
    _write(tmp_path / "new", store, [0, 1], [2, 3])

    _write_old(tmp_path / "old")
    assert _recovered(tmp_path / "old", store, again=[3, 4]) == 4
    assert _ordinals(store, tmp_path) == [0, 1, 2, 3, 4, 9]


def test_a_ledger_in_step_reads_no_segment_but_the_last(tmp_path: Path) -> None:
    """The usual start costs one listing and one look for each chain, however many segments there are."""
    store = MemoryStore()
    _write(tmp_path, store, *[[n] for n in range(5)])
    reads: list[str] = []

    async def life() -> None:
        async with laboratory(tmp_path, store=store) as lab:
            await recover(lab.ledger, _Noting(lab, reads), lab.committer)

    asyncio.run(life())
    assert reads == ["survey", "plan_id 4"]


class _Noting:
    """Notes what is asked of a sink."""

    def __init__(self, lab: Lab, calls: list[str]) -> None:
        self._lab = lab
        self._calls = calls

    async def survey(self) -> object:
        self._calls.append("survey")
        return await self._lab.sink.survey()

    async def plan_id(self, partition: str, seq: int) -> object:
        self._calls.append(f"plan_id {seq}")
        return await self._lab.sink.plan_id(partition, seq)


@pytest.mark.parametrize("waiting", [[], [8]])
def test_a_sink_that_lost_its_newest_segment_is_refused(tmp_path: Path, waiting: list[int]) -> None:
    """Nothing is published behind the gap, not even a plan that was sealed; the way out is said."""
    store = MemoryStore()
    _write(tmp_path, store, [0, 1], [2, 3])

    async def seal() -> None:
        async with laboratory(tmp_path, store=store) as lab:
            await lab.ledger.receive(_rows(waiting))
            await lab.ledger.seal(PARTITION)

    asyncio.run(seal())
    del store.objects[segment_key(PARTITION, 1)]
    before = dict(store.objects)
    with pytest.raises(Refusal, match="has lost segment 1 of") as refusal:
        _recovered(tmp_path, store)
    assert "move the ledger away" in refusal.value.hint
    assert store.objects == before
    assert _recovered(tmp_path / "rebuilt", store, again=[2, 3]) == 2
    assert _ordinals(store, tmp_path) == [0, 1, 2, 3]


def test_a_sink_emptied_by_somebody_is_refused(tmp_path: Path) -> None:
    """The whole chain is gone: the ledger says that it should be there."""
    store = MemoryStore()
    _write(tmp_path, store, [0, 1])
    store.objects.clear()
    with pytest.raises(Refusal, match="has lost segment 0"):
        _recovered(tmp_path, store)
    assert not store.objects


@pytest.mark.parametrize("lost", [0, 1])
def test_a_gap_in_a_chain_that_is_rebuilt_is_refused(tmp_path: Path, lost: int) -> None:
    """Going on would publish the records of the later segments a second time."""
    store = MemoryStore()
    _write(tmp_path / "one", store, [0, 1], [2, 3], [4, 5])
    del store.objects[segment_key(PARTITION, lost)]
    with pytest.raises(Refusal, match=f"segment {lost} of .* is missing") as refusal:
        _recovered(tmp_path / "two", store, again=range(6))
    assert "restore it" in refusal.value.hint
    assert len(store.objects) == 2


def test_a_gap_behind_what_the_ledger_knows_is_refused(tmp_path: Path) -> None:
    """The ledger is behind, and the segment it knows last is gone while later ones stand."""
    store = MemoryStore()
    _write(tmp_path / "new", store, [0, 1], [2, 3])
    _write(tmp_path / "old", MemoryStore(), [0, 1])
    del store.objects[segment_key(PARTITION, 0)]
    with pytest.raises(Refusal, match="has lost segment 0"):
        _recovered(tmp_path / "old", store)


@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize("more", [[], [[8]]])
def test_a_ledger_that_was_parted_from_its_sink_is_refused(
    tmp_path: Path, more: list[list[int]], *, expired: bool
) -> None:
    """The sink was put back from a backup and went on with another ledger: what ours knows as published is not there,
    and what is there we would publish again. A new ledger goes on, and loses nothing."""
    store, other = MemoryStore(), MemoryStore()
    _write(tmp_path / "ours", other, [0, 1])
    store.objects = dict(other.objects)
    _write(tmp_path / "ours", other, [2, 3])
    _write(tmp_path / "theirs", store, [4, 5], *more)
    if expired:
        _checkpoint(tmp_path / "third", store, 1, expired=[0, 1])
    before = dict(store.objects)
    with pytest.raises(Refusal, match=r"segment 1 of .* is another one") as refusal:
        _recovered(tmp_path / "ours", store, again=range(9))
    assert "move the ledger away" in refusal.value.hint
    assert store.objects == before
    assert _recovered(tmp_path / "rebuilt", store, again=range(9)) == 9


def test_of_several_chains_the_one_that_was_parted_is_stopped(tmp_path: Path) -> None:
    """The others go on."""
    store, other = MemoryStore(), MemoryStore()
    _write(tmp_path / "ours", other, [0, 1])
    _write(tmp_path / "theirs", store, [4, 5])
    _write(tmp_path / "ours", other, [7], partition=OTHER)
    store.put(segment_key(OTHER, 0), other.objects[segment_key(OTHER, 0)])

    async def life() -> None:
        async with laboratory(tmp_path / "ours", store=store) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            assert list(lab.committer.stopped) == [PARTITION]

    asyncio.run(life())


def test_recovery_of_nothing_is_nothing(tmp_path: Path) -> None:
    """A new ledger and a new sink."""
    store = MemoryStore()
    assert _recovered(tmp_path, store) == 0
    assert not store.objects


# Checkpoints.


def _checkpoint(folder: Path, store: MemoryStore, seq: int, *, expired: Sequence[int]) -> None:
    async def life() -> None:
        async with laboratory(folder, store=store) as lab:
            await lab.sink.write_checkpoint(PARTITION, seq)

    asyncio.run(life())
    for one in expired:
        del store.objects[segment_key(PARTITION, one)]


@pytest.mark.parametrize("ledger", ["old", "new", "none"])
def test_what_a_checkpoint_covers_may_be_gone(tmp_path: Path, ledger: str) -> None:
    """A ledger that knows all, one from a backup with a sealed plan, and none: each goes on behind what is there."""
    store = MemoryStore()
    _write(tmp_path / "new", store, [0, 1], [2, 3], [4, 5])

    _write_old(tmp_path / "old")
    _checkpoint(tmp_path / "other", store, 1, expired=[0, 1])
    assert _recovered(tmp_path / ledger, store, again=range(8)) >= 8

    async def rest() -> list[int]:
        async with laboratory(tmp_path / "reader", store=store) as lab:
            found = await lab.sink.survey()
            seqs = found[PARTITION].held.ordinals()
            return sorted([row.ordinal for seq in seqs for row in await lab.sink.rows(PARTITION, seq)])

    assert asyncio.run(rest()) == ([4, 5, 6, 7, 9] if ledger == "old" else [4, 5, 6, 7])


def test_a_rebuild_reads_the_checkpoint_and_trailers_above_it_some_at_a_time(tmp_path: Path) -> None:
    """However long the chain: one checkpoint, then the newer trailers, never more than a few at the same time."""
    store = _Counting()
    _write(tmp_path / "one", store, *[[n] for n in range(60)])
    _checkpoint(tmp_path / "other", store, 19, expired=range(10))
    store.read.clear()

    async def life() -> None:
        async with laboratory(tmp_path / "two", store=store) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            assert await lab.ledger.chains() == {PARTITION: 60}
            for ordinal in (3, 59):
                assert await lab.ledger.is_published(RecordKey(A, ordinal))

    asyncio.run(life())
    assert sorted(store.read) == [checkpoint_key(PARTITION, 19)] + [
        segment_key(PARTITION, n) for n in range(20, 60)
    ]
    assert 2 <= store.most_at_once <= TRAILERS_AT_ONCE


class _Counting(MemoryStore):
    """Notes which objects are read, and how many at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()
        self.now = self.most_at_once = 0

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        self.read.add(key)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            return await super().get(key, start=start, end=end, etag=etag)
        finally:
            self.now -= 1


def test_a_damaged_checkpoint_stops_its_partition_alone(tmp_path: Path) -> None:
    """Nothing of it is adopted; the other chain is."""
    store = MemoryStore()
    _write(tmp_path / "one", store, [0, 1], [2])
    _write(tmp_path / "one", store, [7], partition=OTHER)
    _checkpoint(tmp_path / "other", store, 1, expired=[0])
    store.put(checkpoint_key(PARTITION, 1), b"damaged")

    async def life() -> None:
        async with laboratory(tmp_path / "two", store=store) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            assert list(lab.committer.stopped) == [PARTITION]
            assert await lab.ledger.chains() == {OTHER: 1}

    asyncio.run(life())


@pytest.mark.parametrize(("segments_max", "age"), [(3, 1e9), (1_000, 0.0)])
def test_a_checkpoint_is_due_by_number_or_age(tmp_path: Path, segments_max: int, age: float) -> None:
    """At the start too: a chain that nobody covered while nothing ran is covered then."""
    store = MemoryStore()
    _write(tmp_path, store, [0], [1], [2])

    async def life() -> None:
        changes = {"checkpoint_segments": segments_max, "checkpoint_seconds": age + 1e-9}
        async with laboratory(tmp_path, store=store, **changes) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            async with committing(lab):
                while checkpoint_key(PARTITION, 2) not in store.objects:
                    await asyncio.sleep(0)
            assert lab.meters.value(metrics.SINK_CHECKPOINTS) == 1

    asyncio.run(life())


def test_a_process_that_was_overtaken_adopts_the_checkpoint_and_goes_on(tmp_path: Path) -> None:
    """It was stopped while others published, covered and removed its place: no row is doubled, none is lost."""
    store = MemoryStore()

    async def life() -> int:
        async with laboratory(tmp_path / "late", store=store, roll_records=2) as lab:
            await recover(lab.ledger, lab.sink, lab.committer)
            await asyncio.to_thread(_write, tmp_path / "rival", store, [0, 1], [2])
            await asyncio.to_thread(_checkpoint, tmp_path / "other", store, 1, expired=[0, 1])
            async with committing(lab):
                await lab.finish(*_rows([1, 2, 3, 4]))
            assert await lab.ledger.chains() == {PARTITION: 3}
            assert lab.account.in_pipeline == 0
            return lab.account.ended

    assert asyncio.run(life()) == 4

    async def rows() -> list[int]:
        async with laboratory(tmp_path / "reader", store=store) as lab:
            return sorted(row.ordinal for row in await lab.sink.rows(PARTITION, 2))

    assert asyncio.run(rows()) == [3, 4]
