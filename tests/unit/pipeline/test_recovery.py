"""Ledger and sink brought to one view: whatever one of them lacks, nothing is doubled, and what is lost is said."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.segment import Received
from mira_stream.pipeline.recovery import recover
from mira_stream.sink.format import segment_key
from tests.fakes import segments
from tests.fakes.lab import Lab, committing, laboratory
from tests.fakes.memory_store import MemoryStore
from tests.fakes.segments import PARTITION, A

OTHER = "source=other/shard=00"


def _rows(ordinals: Sequence[int], partition: str = PARTITION) -> list[Received]:
    return [segments.received(segments.row(A, n), partition) for n in ordinals]


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

    async def old() -> None:
        async with laboratory(tmp_path / "old", store=MemoryStore()) as lab:
            await lab.ledger.receive(_rows([0, 1]))
            await lab.ledger.advance(await lab.ledger.seal(PARTITION))
            await lab.ledger.receive(_rows([2, 9]))
            await lab.ledger.seal(PARTITION)

    asyncio.run(old())
    assert _recovered(tmp_path / "old", store, again=[3, 4]) == 4
    assert _ordinals(store, tmp_path) == [0, 1, 2, 3, 4, 9]


def test_a_ledger_in_step_reads_no_segment(tmp_path: Path) -> None:
    """The usual start costs one listing, however many segments there are."""
    store = MemoryStore()
    _write(tmp_path, store, *[[n] for n in range(5)])
    reads: list[str] = []

    async def life() -> None:
        async with laboratory(tmp_path, store=store) as lab:
            await recover(lab.ledger, _Noting(lab, reads), lab.committer)

    asyncio.run(life())
    assert reads == ["survey"]


class _Noting:
    """Notes what is asked of a sink."""

    def __init__(self, lab: Lab, calls: list[str]) -> None:
        self._lab = lab
        self._calls = calls

    async def survey(self) -> object:
        self._calls.append("survey")
        return await self._lab.sink.survey()

    async def trailer(self, partition: str, seq: int) -> object:
        self._calls.append(f"trailer {seq}")
        return await self._lab.sink.trailer(partition, seq)


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


def test_recovery_of_nothing_is_nothing(tmp_path: Path) -> None:
    """A new ledger and a new sink."""
    store = MemoryStore()
    assert _recovered(tmp_path, store) == 0
    assert not store.objects
