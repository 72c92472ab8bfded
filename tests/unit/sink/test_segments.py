"""Publishing and reading leave the event loop free, and hold no more than they need."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from mira_stream.ports import Sink
from mira_stream.sink.format import segment_key
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.sink.settings import SinkSettings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.segments import PARTITION, A, plan, row

SETTINGS = SinkSettings(uri="unused")


class Watched(ThreadPoolExecutor):
    """Notes what is run in it."""

    def __init__(self) -> None:
        super().__init__(1)
        self.jobs = 0

    def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future:  # type: ignore[type-arg]
        self.jobs += 1
        return super().submit(fn, *args, **kwargs)


class Ranges(MemoryStore):
    """Notes the longest read."""

    longest = 0

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        data = await super().get(key, start=start, end=end, etag=etag)
        self.longest = max(self.longest, len(data))
        return data


def test_compression_runs_in_the_executor() -> None:
    """Encoding and decoding a segment are jobs of the executor, never of the loop's own thread."""
    with Watched() as executor:
        sink = SegmentSink(MemoryStore(), settings=SETTINGS, patience=Patience(SETTINGS), executor=executor)
        checked: Sink = sink

        async def story() -> None:
            await checked.publish(plan([row(A, 0)]))
            published = executor.jobs
            assert published == 1
            await checked.rows(PARTITION, 0)
            assert executor.jobs > published

        asyncio.run(story())


def test_a_large_segment_is_read_in_pieces() -> None:
    """No read is longer than 4 MiB, no batch of rows much longer than 256 KiB, and all rows come."""
    noise = random.Random(1)
    store = Ranges()
    rows = [row(A, n, reply=noise.randbytes(20_000).hex()) for n in range(500)]
    with ThreadPoolExecutor(1) as executor:
        sink = SegmentSink(store, settings=SETTINGS, patience=Patience(SETTINGS), executor=executor)

        async def story() -> list[int]:
            await sink.publish(plan(rows))
            segment = await sink.find(PARTITION, 0)
            assert segment is not None
            return [sum(map(len, batch)) for batch in [b async for b in sink.lines(segment)]]

        sizes = asyncio.run(story())
    assert len(store.objects[segment_key(PARTITION, 0)]) > 9 << 20
    assert store.longest == 4 << 20
    assert max(sizes) < 512 << 10
    assert len(sizes) > 50
