"""Published segments, read: their names, their trailers by one bounded range read, and their rows in a stream."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Chain
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Reason
from mira_stream.core.partition import segment_name
from mira_stream.core.row import row_digest
from mira_stream.core.segment import PublishedKey, Trailer, plan_id
from mira_stream.core.sight import StoredObject
from mira_stream.ports import ObjectStore
from mira_stream.sink.checkpoints import (
    CheckpointFile,
    checkpoint_key,
    checkpoint_prefix,
    parse_checkpoint_key,
)
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
TRAILERS_AT_ONCE = 16


class Listed(msgspec.Struct, frozen=True):
    """A name in the sink; `place` is (partition, seq) of a segment, `checkpoint` that of a checkpoint."""

    key: str
    place: tuple[str, int] | None
    checkpoint: tuple[str, int] | None = None
    modified: float = 0.0


class Segment(msgspec.Struct, frozen=True):
    """A published file; the first `data_bytes` of it are its data frame."""

    key: str
    trailer: Trailer
    data_bytes: int


class _Sight:
    """What a listing has shown of a chain so far."""

    def __init__(self) -> None:
        self._seqs = array("q")
        self._checkpoint = -1
        self._since = float("inf")

    def add(self, seq: int, listed: Listed) -> None:
        if listed.checkpoint:
            self._checkpoint = max(self._checkpoint, seq)
            return
        self._seqs.append(seq)
        # Unsorted listings may name the checkpoint later: too early a time is harmless.
        if seq > self._checkpoint:
            self._since = min(self._since, listed.modified)

    def chain(self) -> Chain:
        return Chain(IntervalSet.from_ordinals(self._seqs), self._checkpoint, self._since)


def _listed(entry: StoredObject) -> Listed:
    return Listed(entry.key, parse_segment_key(entry.key), parse_checkpoint_key(entry.key), entry.modified)


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
        found = await self.survey()
        return {partition: chain.held.end for partition, chain in found.items() if chain.held}

    async def survey(self) -> dict[str, Chain]:
        """Every chain that has a segment or a checkpoint, by one listing; 8 bytes of memory per segment meanwhile."""
        return await self.patience.until_known(self._survey)

    async def _survey(self) -> dict[str, Chain]:
        found: dict[str, _Sight] = {}
        async for page in self.names():
            for listed in page:
                if place := listed.place or listed.checkpoint:
                    sight = found.setdefault(place[0], _Sight())
                    sight.add(place[1], listed)
        return {partition: sight.chain() for partition, sight in found.items()}

    async def names(self) -> AsyncIterator[list[Listed]]:
        """One listing of the sink, page by page; of our own folder the checkpoints only. Raises like the store's."""
        async for page in self._store.list():
            told = [_listed(entry) for entry in page]
            yield [one for one in told if one.checkpoint or not one.key.startswith(RESERVED)]

    async def checkpoint(self, partition: str) -> CheckpointFile | None:
        """The newest checkpoint of a chain, read whole, or None if it has none. Raises Corrupt."""
        seqs = await self.checkpoints(partition)
        return await self.open_checkpoint(partition, max(seqs)) if seqs else None

    async def checkpoints(self, partition: str) -> list[int]:
        """The seqs of all checkpoints of a chain, by one listing of their folder."""
        return await self.patience.until_known(
            lambda: self.patience.answered(lambda: self.look_for_checkpoints(partition))
        )

    async def look_for_checkpoints(self, partition: str) -> list[int]:
        """`checkpoints`, tried once: raises Transient or Saturated too."""
        seqs: list[int] = []
        async for page in self._store.list(checkpoint_prefix(partition)):
            places = [parse_checkpoint_key(entry.key) for entry in page]
            seqs += [place[1] for place in places if place and place[0] == partition]
        return seqs

    async def open_checkpoint(self, partition: str, seq: int) -> CheckpointFile:
        """A checkpoint that was listed. Raises Corrupt, or Missing if it is gone."""
        key = checkpoint_key(partition, seq)
        data = bytearray()
        while len(data) % _PIECE_BYTES == 0:
            piece = await self._get(key, len(data), len(data) + _PIECE_BYTES)
            data += piece
            if not piece:
                break
        file = await self._run(lambda: CheckpointFile(bytes(data), f"{self.uri}/{key}"))
        if (file.partition, file.seq) != (partition, seq):
            claimed = checkpoint_key(file.partition, file.seq)
            raise self._corrupt(key, f"it says that it is {claimed}")
        return file

    async def trailers(self, partition: str, start: int, stop: int) -> Sequence[Trailer | None]:
        """Those of `[start, stop)` in order, `TRAILERS_AT_ONCE` of them read at the same time. Raises Corrupt."""
        found: list[Trailer | None] = []
        for first in range(start, stop, TRAILERS_AT_ONCE):
            seqs = range(first, min(first + TRAILERS_AT_ONCE, stop))
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self.trailer(partition, seq)) for seq in seqs]
            except ExceptionGroup as trouble:
                raise trouble.exceptions[0] from None  # each of them says where it is
            found += [task.result() for task in tasks]
        return found

    async def trailer(self, partition: str, seq: int) -> Trailer | None:
        """The trailer that stands at (partition, seq), or None if nothing does. Raises Corrupt."""
        segment = await self.find(partition, seq)
        return None if segment is None else segment.trailer

    async def plan_id(self, partition: str, seq: int) -> str | None:
        """Of the segment that stands there, or stood there by the word of the first checkpoint above it.

        None if nothing tells. Raises Corrupt.
        """
        trailer = await self.trailer(partition, seq)
        if trailer is not None:
            return trailer.plan_id
        covering = [one for one in await self.checkpoints(partition) if one >= seq]
        return (await self.open_checkpoint(partition, min(covering))).plan_id(seq) if covering else None

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

    def missing(self, partition: str, seq: int) -> Corrupt:
        """What to raise where a segment that must stand is gone."""
        return Corrupt(
            Reason.CORRUPT,
            f"{self.uri}/{segment_key(partition, seq)} is missing, and no checkpoint covers it: restore it from a "
            "backup of the sink; only segments that a checkpoint covers may be removed",
        )

    def _corrupt(self, key: str, what: object) -> Corrupt:
        return Corrupt(
            Reason.CORRUPT,
            f"{self.uri}/{key}: {what}; keep a copy, then restore the segment from a backup of the sink "
            "(`mira-stream verify` says what else is wrong)",
        )
