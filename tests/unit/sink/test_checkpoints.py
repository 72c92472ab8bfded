"""Checkpoints: derived from the chain alone, whoever writes them, and nothing is published at or below one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
import zstandard

from mira_stream.core.errors import Corrupt, Transient, TransientKind
from mira_stream.core.segment import Cumulated, Plan
from mira_stream.sink.checkpoints import CheckpointFile, checkpoint_key, parse_checkpoint_key
from mira_stream.sink.format import segment_key
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.sink.settings import SinkSettings
from tests.fakes.memory_store import FaultyStore, MemoryStore, failing
from tests.fakes.segments import PARTITION, A, plan, row

SETTINGS = SinkSettings(uri="unused", retry_initial_seconds=0.001, retry_max_seconds=0.001)
LOST = Transient(TransientKind.RESET, "connection reset")


@asynccontextmanager
async def _sink(store: MemoryStore | FaultyStore) -> AsyncIterator[SegmentSink]:
    with ThreadPoolExecutor(2) as executor:
        yield SegmentSink(store, settings=SETTINGS, patience=Patience(SETTINGS), executor=executor)


def _plans(*parts: Sequence[int], lines: int | None = None) -> list[Plan]:
    """One plan per part; the last tells the end, if there is one."""
    ends = [(A, lines)] if lines is not None else []
    last = len(parts) - 1
    return [
        plan([row(A, n) for n in part], seq=seq, lines=ends if seq == last else ())
        for seq, part in enumerate(parts)
    ]


def _expire(store: MemoryStore, *seqs: int) -> None:
    for seq in seqs:
        del store.objects[segment_key(PARTITION, seq)]


def _entries(store: MemoryStore, seq: int) -> list[Cumulated]:
    return list(CheckpointFile(store.objects[checkpoint_key(PARTITION, seq)], "here").entries())


def test_a_checkpoint_holds_all_up_to_its_segment() -> None:
    """One entry per object, its ranges merged, its lines known; written twice it is the same file."""

    async def story() -> None:
        store = MemoryStore()
        async with _sink(store) as sink:
            for one in _plans([0, 1], [3], [2, 7], lines=8):
                await sink.publish(one)
            await sink.write_checkpoint(PARTITION, 1)
            assert _entries(store, 1) == [Cumulated(A.uri, A.etag, 0, ((0, 2), (3, 4)), None)]
            before = dict(store.objects)
            await sink.write_checkpoint(PARTITION, 1)
            assert store.objects == before
            await sink.write_checkpoint(PARTITION, 2)
            assert _entries(store, 2) == [Cumulated(A.uri, A.etag, 0, ((0, 4), (7, 8)), 8)]
            chain = (await sink.survey())[PARTITION]
            assert (chain.checkpoint, chain.end, bool(chain.missing)) == (2, 3, False)

    asyncio.run(story())


def test_a_checkpoint_is_built_on_the_one_before() -> None:
    """What it covers may be gone: the next one is derived from it and the segments since, and says the same."""

    async def story() -> None:
        whole, thinned = MemoryStore(), MemoryStore()
        for store in (whole, thinned):
            async with _sink(store) as sink:
                for one in _plans([0, 1], [3], [2, 7], [4]):
                    await sink.publish(one)
                if store is thinned:
                    await sink.write_checkpoint(PARTITION, 1)
                    _expire(store, 0, 1)
                await sink.write_checkpoint(PARTITION, 3)
        assert _entries(whole, 3) == _entries(thinned, 3)

    asyncio.run(story())


def test_rivals_write_one_checkpoint() -> None:
    """Both derive it, the store lets one create it, the other is content; a lost answer changes nothing."""

    async def story() -> None:
        store = MemoryStore()
        async with _sink(store) as ours:
            for one in _plans([0], [1]):
                await ours.publish(one)
            faulty = FaultyStore(store, after=[failing(LOST)])
            async with _sink(faulty) as theirs, asyncio.TaskGroup() as group:
                group.create_task(ours.write_checkpoint(PARTITION, 1))
                group.create_task(theirs.write_checkpoint(PARTITION, 1))
        assert [key for key in store.objects if parse_checkpoint_key(key)] == [checkpoint_key(PARTITION, 1)]

    asyncio.run(story())


def test_a_missing_segment_above_the_checkpoint_is_said() -> None:
    """Nothing is derived from a chain with a hole."""

    async def story() -> None:
        store = MemoryStore()
        async with _sink(store) as sink:
            for one in _plans([0], [1], [2]):
                await sink.publish(one)
            await sink.write_checkpoint(PARTITION, 0)
            _expire(store, 0, 1)
            assert (await sink.survey())[PARTITION].missing.spans == ((1, 2),)
            with pytest.raises(Corrupt, match=r"00000001.*is missing.*restore"):
                await sink.write_checkpoint(PARTITION, 2)

    asyncio.run(story())


def test_nothing_is_published_at_or_below_a_checkpoint() -> None:
    """A process that comes back late finds its place empty, and leaves it so."""

    async def story() -> None:
        store = MemoryStore()
        late = plan([row(A, 5)], seq=0)
        async with _sink(store) as sink:
            for one in _plans([0], [1]):
                await sink.publish(one)
            await sink.write_checkpoint(PARTITION, 1)
            assert await sink.publish(late) == _plans([0])[0].trailer, (
                "still there: it is adopted as a rival's"
            )
            _expire(store, 0)
            before = dict(store.objects)
            assert await sink.publish(late) is None
            assert await sink.publish(_plans([0])[0]) is None, "our own, and expired meanwhile"
            assert store.objects == before

    asyncio.run(story())


class _Stopping(MemoryStore):
    """Lets the world go on between the look for checkpoints and the write that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[object] = []

    async def create(self, key: str, data: bytes) -> None:
        while self.meanwhile:
            work = self.meanwhile.pop()
            await work()
            await super().create(key, data)
            raise LOST
        await super().create(key, data)


@pytest.mark.parametrize("is_ours", [False, True])
def test_a_process_stopped_between_look_and_write_withdraws(is_ours: bool) -> None:
    """Weeks pass in between: what it then created anew is removed; what stands there by right is not."""

    async def story() -> None:
        store = _Stopping()
        late = plan([row(A, 0 if is_ours else 5)], seq=0)
        async with _sink(store) as sink, _sink(store) as rival:

            async def weeks() -> None:
                for one in _plans([0], [1]):
                    await rival.publish(one)
                await rival.write_checkpoint(PARTITION, 1)
                _expire(store, 0)

            store.meanwhile.append(weeks)
            found = await sink.publish(late)
            assert found == (late.trailer if is_ours else None)
            assert (segment_key(PARTITION, 0) in store.objects) == is_ours

    asyncio.run(story())


@pytest.mark.parametrize("cut", [1, 30, -1])
def test_a_damaged_checkpoint_is_said(cut: int) -> None:
    """Cut anywhere, its bytes are refused, at the latest behind the last entry."""

    async def story() -> None:
        store = MemoryStore()
        async with _sink(store) as sink:
            for one in _plans([0], [1]):
                await sink.publish(one)
            await sink.write_checkpoint(PARTITION, 1)
            key = checkpoint_key(PARTITION, 1)
            store.put(key, store.objects[key][:cut])
            with pytest.raises(Corrupt, match="restore this checkpoint"):
                list((await sink.checkpoint(PARTITION)).entries())

    asyncio.run(story())


HEAD = b'{"version":1,"partition":"source=a/shard=00","seq":0,"after":-1,"plans":["p"]}'
DEEP = b"[" * 100_000
HUGE = b"1" + b"0" * 30


@pytest.mark.parametrize(
    ("head", "entry"),
    [
        (DEEP, b""),
        (HEAD.replace(b'"seq":0', b'"seq":' + HUGE), b""),
        (HEAD, DEEP),
        (HEAD, b'["s3://a","e",0,[[0,' + HUGE + b"]],null]"),
        (HEAD, b'["s3://a","e",' + HUGE + b",[[0,1]],null]"),
        (HEAD, b'["s3://a","e",0,[[0,1]],' + HUGE + b"]"),
        (HEAD, b'["s3://a","e",0,[[3,1]],null]'),
    ],
)
def test_a_checkpoint_that_somebody_made_up_is_refused(head: bytes, entry: bytes) -> None:
    """Whoever may write to the sink may have: what is too deep or too large must not reach the ledger."""
    data = zstandard.compress(head + b"\n" + entry + b'\n{"entries":1}\n')
    with pytest.raises(Corrupt, match="restore this checkpoint"):
        list(CheckpointFile(data, "here").entries())


def test_a_copy_under_another_name_is_refused() -> None:
    """A checkpoint says which one it is."""

    async def story() -> None:
        store = MemoryStore()
        async with _sink(store) as sink:
            await sink.publish(_plans([0])[0])
            await sink.write_checkpoint(PARTITION, 0)
            store.put(checkpoint_key(PARTITION, 8), store.objects[checkpoint_key(PARTITION, 0)])
            with pytest.raises(Corrupt, match="it says that it is"):
                await sink.checkpoint(PARTITION)

    asyncio.run(story())
