"""The bytes of a checkpoint: all that a chain holds up to one segment, as sorted lines in one zstd frame.

The first line says which checkpoint it is, the last how many entries stand between. It is derived from the chain
alone, so that whoever writes it writes the same, and it is read and written without holding all of it as objects.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import zstandard

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.core.segment import Cumulated, Trailer
from mira_stream.sink.format import RESERVED, RowDecoder, is_count, spans_are_sound

T = TypeVar("T")
CHECKPOINT_VERSION = 1
FOLDED_ENTRIES_MAX = 100_000
_key = re.compile(r"_mira_stream/(source=[A-Za-z0-9_.%~-]+/shard=[0-9]{2,})/checkpoint-([0-9]{8,})")
_encode = msgspec.json.Encoder().encode
_Place = tuple[str, str, int]
"""uri, etag and generation: what entries are sorted by."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which checkpoint it is: it covers all segments of `partition` up to `seq`.

    Args:
        after: the checkpoint that it was built on, -1 for none.
        plans: the plan ids of the segments `(after, seq]`, in order: they outlive the segments.
    """

    version: int = CHECKPOINT_VERSION
    partition: str
    seq: int
    after: int
    plans: tuple[str, ...]


class _Foot(msgspec.Struct, frozen=True):
    entries: int


_decode_head = msgspec.json.Decoder(Head).decode
_decode_foot = msgspec.json.Decoder(_Foot).decode
_decode_entry = msgspec.json.Decoder(Cumulated).decode


def checkpoint_prefix(partition: str) -> str:
    """The folder of a chain's checkpoints below the sink."""
    return f"{RESERVED}{partition}"


def checkpoint_key(partition: str, seq: int) -> str:
    """`_mira_stream/<partition>/checkpoint-<seq, 8 digits>`."""
    return f"{checkpoint_prefix(partition)}/checkpoint-{seq:08d}"


def parse_checkpoint_key(key: str) -> tuple[str, int] | None:
    """(partition, seq) of a checkpoint's key, or None for any other name."""
    match = _key.fullmatch(key)
    return (match[1], int(match[2])) if match and checkpoint_key(match[1], int(match[2])) == key else None


class CheckpointFile:
    """A checkpoint in memory, compressed as it stands in the sink. Implements `ports.Checkpoint`.

    Raises Corrupt if `data` does not begin like one.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self.head = self._told(next(self._lines(), b""), _decode_head)
        is_known = self.head.version == CHECKPOINT_VERSION and is_count(self.seq)
        if not is_known or len(self.head.plans) != self.seq - self.head.after:
            raise self._corrupt("its first line makes no sense, or is of a newer mira-stream")

    @property
    def partition(self) -> str:
        """Whose chain."""
        return self.head.partition

    @property
    def seq(self) -> int:
        """The last segment that it covers."""
        return self.head.seq

    def plan_id(self, seq: int) -> str | None:
        """Of a segment that it was the first to cover; None for any other."""
        return self.head.plans[seq - self.head.after - 1] if self.head.after < seq <= self.seq else None

    def entries(self) -> Iterator[Cumulated]:
        """All entries, ascending. Raises Corrupt, at the latest behind the last."""
        return (entry for _, entry in self.lines())

    def lines(self) -> Iterator[tuple[bytes, Cumulated]]:
        """Each entry's line as it stands there, and what it says."""
        lines = self._lines()
        next(lines)
        last: _Place | None = None
        count = 0
        line = next(lines, b"")
        for following in lines:
            entry = self._told(line, _decode_entry)
            if not _is_sound(entry) or (last is not None and last >= _place(entry)):
                raise self._corrupt(f"its entry of {entry.uri} makes no sense")
            yield line, entry
            last, line, count = _place(entry), following, count + 1
        if self._told(line, _decode_foot).entries != count:
            raise self._corrupt("it lacks entries")

    def _lines(self) -> Iterator[bytes]:
        decoder = RowDecoder()
        try:
            for lines in decoder.feed(self._data):
                yield from lines
            decoder.close()
        except Corrupt as error:
            raise self._corrupt(str(error)) from error

    def _told(self, line: bytes, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._corrupt(f"a line cannot be decoded: {error}") from error

    def _corrupt(self, what: str) -> Corrupt:
        return Corrupt(
            Reason.CORRUPT,
            f"{self._where}: {what}; keep a copy, then restore this checkpoint from a backup of the sink",
        )


class Folding:
    """Makes the next checkpoint of a chain: one that stands, or none, and the trailers of the segments behind it.

    Memory is bounded by a fold's entries and the compressed size. `fold` and `finished` are CPU-bound: run them in an
    executor.
    """

    def __init__(self, partition: str, base: CheckpointFile | None, *, level: int) -> None:
        self._partition = partition
        self._base = base
        self._after = base.seq if base else -1
        self._level = level
        self._plans: list[str] = []
        self._added: dict[_Place, IntervalSet] = {}
        self._ends: dict[_Place, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether it is time to `fold`."""
        return len(self._added) + len(self._ends) >= FOLDED_ENTRIES_MAX

    def add(self, trailer: Trailer) -> None:
        """The next segment of the chain."""
        assert (trailer.partition, trailer.seq) == (self._partition, self._after + 1 + len(self._plans))
        self._plans.append(trailer.plan_id)
        for held in trailer.ranges:
            place = (held.uri, held.etag, held.generation)
            before = self._added.get(place, IntervalSet())
            self._added[place] = before.union(IntervalSet.from_spans(held.spans))
        for end in trailer.lines:
            place = (end.uri, end.etag, 0)
            self._ends[place] = max(self._ends.get(place, 0), end.count)

    def fold(self) -> None:
        """Put what was added into the compressed form."""
        self._base = CheckpointFile(self.finished(), checkpoint_key(self._partition, self._seq))
        self._added.clear()
        self._ends.clear()

    def finished(self) -> bytes:
        """The bytes of the checkpoint at the last segment added."""
        compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=True).compressobj()
        head = Head(partition=self._partition, seq=self._seq, after=self._after, plans=tuple(self._plans))
        pieces = [compressor.compress(_encode(head) + b"\n")]
        count = 0
        for line in self._merged():
            pieces.append(compressor.compress(line + b"\n"))
            count += 1
        pieces += [compressor.compress(_encode(_Foot(count)) + b"\n"), compressor.flush()]
        return b"".join(pieces)

    @property
    def _seq(self) -> int:
        return self._after + len(self._plans)

    def _merged(self) -> Iterator[bytes]:
        """The lines of both, in one walk over two sorted runs; what stands alone in the base is not encoded anew."""
        added = iter(sorted({*self._added, *self._ends}))
        place = next(added, None)
        for line, entry in self._base.lines() if self._base else ():
            while place is not None and place < _place(entry):
                yield self._line(place, None)
                place = next(added, None)
            if place != _place(entry):
                yield line
            else:
                yield self._line(_place(entry), entry)
                place = next(added, None)
        while place is not None:
            yield self._line(place, None)
            place = next(added, None)

    def _line(self, place: _Place, before: Cumulated | None) -> bytes:
        spans = self._added.get(place, IntervalSet())
        lines = self._ends.get(place)
        if before is not None:
            spans = spans.union(IntervalSet.from_spans(before.spans))
            lines = max((known for known in (lines, before.lines) if known is not None), default=None)
        return _encode(Cumulated(*place, spans.spans, lines))


def _place(entry: Cumulated) -> _Place:
    return entry.uri, entry.etag, entry.generation


def _is_sound(entry: Cumulated) -> bool:
    """Whether it can be taken over: it may have been edited."""
    if not is_count(entry.generation) or (entry.spans and not spans_are_sound(entry.spans)):
        return False
    return bool(entry.spans) if entry.lines is None else is_count(entry.lines) and entry.generation == 0
