"""Published segments, read: their names, their trailers by one bounded range read, and their rows in a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import msgspec

from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Reason
from mira_stream.core.partition import segment_name
from mira_stream.core.row import row_digest
from mira_stream.core.segment import PublishedKey, Trailer, plan_id
from mira_stream.ports import ObjectStore, StoredObject
from mira_stream.sink.format import (
    RESERVED,
    RowDecoder,
    parse_segment_key,
    published_key,
    read_trailer,
    segment_key,
    trailer_bytes,
    without_segment,
)
from mira_stream.sink.retry import Patience

T = TypeVar("T")
_TAIL_BYTES = 64 << 10
_PIECE_BYTES = 4 << 20


class Listed(msgspec.Struct, frozen=True):
    """A name in the sink; `place` is (partition, seq) if it is a segment's name."""

    key: str
    place: tuple[str, int] | None


class Segment(msgspec.Struct, frozen=True):
    """A published file; the first `data_bytes` of it are its data frame."""

    key: str
    trailer: Trailer
    data_bytes: int


class SegmentReader:
    """Reads what is published below one store.

    Args:
        store: the sink.
        patience: repeats reads that fail for a passing reason.
        executor: decompresses; bounded, owned by the caller.
    """

    def __init__(self, store: ObjectStore, *, patience: Patience, executor: Executor) -> None:
        self._store = store
        self.patience = patience
        self._executor = executor

    @property
    def uri(self) -> str:
        """The sink, without credentials."""
        return self._store.uri

    async def partitions(self) -> Sequence[str]:
        """All partitions that have a segment, sorted; foreign names and our own folder are left out."""
        return sorted(await self.chains())

    async def chains(self) -> dict[str, int]:
        """For each of them the seq behind its last segment, whatever may be missing before it."""
        return await self.patience.until_known(self._list_chains)

    async def _list_chains(self) -> dict[str, int]:
        found: dict[str, int] = {}
        async for page in self.names():
            for partition, seq in (listed.place for listed in page if listed.place):
                found[partition] = max(found.get(partition, 0), seq + 1)
        return found

    async def names(self) -> AsyncIterator[list[Listed]]:
        """One listing of the sink, page by page, our own folder left out. Raises Transient like the store's."""
        async for page in self._store.list():
            yield [Listed(e.key, parse_segment_key(e.key)) for e in page if not e.key.startswith(RESERVED)]

    async def trailer(self, partition: str, seq: int) -> Trailer | None:
        """The trailer that stands at (partition, seq), or None if nothing does. Raises Corrupt."""
        segment = await self.find(partition, seq)
        return None if segment is None else segment.trailer

    async def find(self, partition: str, seq: int) -> Segment | None:
        """The segment at (partition, seq), as far as its end tells, or None if there is none. Raises Corrupt."""
        return await self.patience.until_known(lambda: self.look(partition, seq))

    async def look(self, partition: str, seq: int) -> Segment | None:
        """`find`, tried once: raises Transient or Saturated too."""
        key = segment_key(partition, seq)
        try:
            entry = await self.patience.answered(lambda: self._store.head(key))
            return None if entry is None else await self._read_end(entry)
        except Missing:
            return None
        except Corrupt as error:
            raise self._corrupt(key, error) from error

    async def rows(self, partition: str, seq: int) -> Sequence[PublishedKey]:
        """The keys of a segment's rows, in order. Raises Missing, or Corrupt if rows and trailer disagree."""
        segment = await self.find(partition, seq)
        if segment is None:
            raise Missing(f"{self.uri}/{segment_key(partition, seq)} is gone")
        column = segment_name(partition, seq, segment.trailer.plan_id)
        keys: list[PublishedKey] = []
        digests: list[tuple[str, int, str]] = []
        async for lines in self.lines(segment):
            for line in lines:
                row = self._parse(segment.key, line)
                keys.append(row)
                digest = row_digest(without_segment(line, column) or line)
                digests.append((row.record_id, row.generation, digest))
        if plan_id(digests) != segment.trailer.plan_id:
            raise self._corrupt(segment.key, "its rows are not those of its plan")
        return keys

    async def lines(self, segment: Segment) -> AsyncIterator[list[bytes]]:
        """The rows of a segment in batches, as lines of JSON without 0x0A. Raises Missing or Corrupt.

        Memory is bounded by a piece of the file and the longest row.
        """
        decoder = RowDecoder()
        try:
            for start in range(0, segment.data_bytes, _PIECE_BYTES):
                end = min(start + _PIECE_BYTES, segment.data_bytes)
                step = partial(next, decoder.feed(await self._get(segment.key, start, end)), None)
                while (lines := await self._run(step)) is not None:
                    yield lines
            decoder.close()
        except Corrupt as error:
            raise self._corrupt(segment.key, error) from error

    async def _read_end(self, entry: StoredObject) -> Segment:
        """What the end of a listed file tells: one range read, two if the trailer is long."""
        tail = await self._tail(entry, _TAIL_BYTES)
        size = trailer_bytes(tail)
        if len(tail) < size <= entry.size:
            tail = await self._tail(entry, size)
        trailer = await self._run(partial(read_trailer, tail)) if size > _TAIL_BYTES else read_trailer(tail)
        claimed = segment_key(trailer.partition, trailer.seq)
        if claimed != entry.key:
            raise Corrupt(Reason.CORRUPT, f"its trailer is that of {claimed}")
        return Segment(entry.key, trailer, entry.size - size)

    async def _tail(self, entry: StoredObject, size: int) -> bytes:
        start = max(0, entry.size - size)
        return await self.patience.answered(lambda: self._store.get(entry.key, start=start, end=entry.size))

    async def _get(self, key: str, start: int, end: int) -> bytes:
        return await self.patience.fetched(lambda: self._store.get(key, start=start, end=end))

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _parse(self, key: str, line: bytes) -> PublishedKey:
        try:
            return published_key(line)
        except Corrupt as error:
            raise self._corrupt(key, error) from error

    def _corrupt(self, key: str, what: object) -> Corrupt:
        return Corrupt(
            Reason.CORRUPT,
            f"{self.uri}/{key}: {what}; keep a copy, then restore the segment from a backup of the sink "
            "(`mira-stream verify` says what else is wrong)",
        )
