"""The bytes of a segment: one zstd frame of JSON lines, then one skippable frame that holds the trailer.

The skippable frame's payload is the trailer as JSON, its length as u32 LE, and the magic `MIRASEG1`, so a reader of
zstd skips all of it and a reader of trailers finds it from the end of the file. All damage is `Corrupt`.
"""

import re
import struct
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec
import zstandard

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.partition import segment_name
from mira_stream.core.record import ObjectVersion
from mira_stream.core.row import with_segment
from mira_stream.core.segment import Plan, PublishedKey, Span, Trailer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIX = ".jsonl.zst"
RESERVED = "_mira_stream/"
FOOTER_BYTES = 12
TRAILER_BYTES_MAX = 1 << 30
ROW_BYTES_MAX = 256 << 20
_MAGIC = b"MIRASEG1"
_SKIPPABLE = 0x184D2A50
_STEP_BYTES = 256 << 10

_header = struct.Struct("<II")
_footer = struct.Struct("<I8s")
_COUNT_MAX = 10**18 - 1
"""No count gets there; what is above would fit neither a name nor the ledger."""
_key = re.compile(r"(source=[A-Za-z0-9_.%~-]+/shard=[0-9]{2,9})/([0-9]{8,18})\.jsonl\.zst")
_encode = msgspec.json.Encoder().encode
_decode_trailer = msgspec.json.Decoder(Trailer).decode


class _RowKey(msgspec.Struct, frozen=True):
    record_id: str
    generation: int
    object: str
    etag: str
    ordinal: int
    outcome: Outcome
    reason: Reason | None


_decode_key = msgspec.json.Decoder(_RowKey).decode


def segment_key(partition: str, seq: int) -> str:
    """The key of a segment below the sink: `<partition>/<seq, 8 digits>.jsonl.zst`."""
    return f"{partition}/{seq:08d}{SUFFIX}"


def parse_segment_key(key: str) -> tuple[str, int] | None:
    """(partition, seq) of a segment's key, or None for any other name."""
    match = _key.fullmatch(key)
    if match is None:
        return None
    partition, seq = match[1], int(match[2])
    return (partition, seq) if segment_key(partition, seq) == key else None


def encode_segment(plan: Plan, *, level: int) -> bytes:
    """The file of a sealed plan. CPU-bound, up to seconds: run it in an executor."""
    assert plan.rows, "an empty plan is never sealed"
    segment = segment_name(plan.partition, plan.seq, plan.plan_id)
    # The size is told beforehand, so that the frame says it: readers in one shot lose rows without it. Row by row,
    # so that several publishers at once do not hold their segments twice.
    added = len(with_segment(b"{}", segment) + b"\n") - len(b"{}")
    size = sum(len(row.encoded) + added for row in plan.rows)
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj(size=size)
    pieces = [compressor.compress(with_segment(row.encoded, segment) + b"\n") for row in plan.rows]
    return b"".join((*pieces, compressor.flush(), trailer_frame(plan.trailer)))


def trailer_frame(trailer: Trailer) -> bytes:
    """The end of a segment."""
    payload = _encode(trailer)
    return b"".join(
        (
            _header.pack(_SKIPPABLE, len(payload) + FOOTER_BYTES),
            payload,
            _footer.pack(len(payload), _MAGIC),
        )
    )


def trailer_bytes(tail: bytes) -> int:
    """How many bytes at the end of the file the trailer frame takes, from the last `FOOTER_BYTES` or more."""
    if len(tail) < FOOTER_BYTES:
        raise _corrupt(f"{len(tail)} bytes are too few for a segment")
    length, magic = _footer.unpack(tail[-FOOTER_BYTES:])
    if magic != _MAGIC:
        raise _corrupt("the end of the file is not that of a segment (cut, or written by something else)")
    if length > TRAILER_BYTES_MAX:
        raise _corrupt(f"the trailer claims {length} bytes")
    return _header.size + int(length) + FOOTER_BYTES


def read_trailer(tail: bytes) -> Trailer:
    """The trailer at the end of `tail`, which holds at least the last `trailer_bytes(tail)` bytes of the file."""
    size = trailer_bytes(tail)
    if len(tail) < size:
        raise _corrupt(f"the trailer claims {size} bytes, the file has {len(tail)}")
    frame = tail[-size:]
    if _header.unpack_from(frame) != (_SKIPPABLE, size - _header.size):
        raise _corrupt("the trailer is not inside a skippable frame")
    try:
        trailer = _decode_trailer(frame[_header.size : -FOOTER_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _corrupt(f"the trailer cannot be decoded: {error}") from error
    _check(trailer)
    return trailer


def _check(trailer: Trailer) -> None:
    """Refuse what would poison somebody's progress: a rival may have written it."""
    if not all(map(is_count, (trailer.seq, *(lines.count for lines in trailer.lines)))):
        raise _corrupt("the trailer has a negative count, or one that cannot be")
    seen: set[tuple[str, str, int]] = set()
    for held in trailer.ranges:
        key = (held.uri, held.etag, held.generation)
        if key in seen or not is_count(held.generation) or not spans_are_sound(held.spans):
            raise _corrupt(f"the trailer's range of {held.uri} makes no sense")
        seen.add(key)


def is_count(number: int) -> bool:
    """Whether a number that was read may be a count, an ordinal or a generation."""
    return 0 <= number <= _COUNT_MAX


def spans_are_sound(spans: Sequence[Span]) -> bool:
    """Whether they hold something, rise, and do not overlap."""
    rising = all(0 <= start < end <= _COUNT_MAX for start, end in spans)
    return bool(spans) and rising and all(a[1] <= b[0] for a, b in pairwise(spans))


class RowDecoder:
    """The lines of one data frame, fed with its bytes in pieces of any size; memory bounded by the longest row."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        """Batches of whole lines, without 0x0A, from at most 256 KiB of output each (one row more if it is long)."""
        while True:
            output = self._decompress(data)
            data = b""
            lines = (self._rest + output).split(b"\n")
            self._rest = lines.pop()
            if len(self._rest) > ROW_BYTES_MAX:
                raise _corrupt(f"a row is longer than {ROW_BYTES_MAX} bytes")
            if lines:
                yield lines
            if self._frame.eof or self._frame.needs_input:
                return

    def close(self) -> None:
        """The frame has been fed whole: raises Corrupt if it does not end here."""
        if not self._frame.eof:
            raise _corrupt("the data frame is cut")
        if self._rest:
            raise _corrupt("the last row has no line end")

    def _decompress(self, data: bytes) -> bytes:
        if self._frame.eof:
            output = b""
            surplus = data
        else:
            try:
                output = self._frame.decompress(data, max_length=_STEP_BYTES)
            except zstd.ZstdError as error:
                raise _corrupt(f"the data frame cannot be decompressed: {error}") from error
            surplus = self._frame.unused_data if self._frame.eof else b""
        if surplus:
            raise _corrupt("something stands between the data frame and the trailer")
        return output


def decode_rows(data: bytes) -> Iterator[bytes]:
    """The rows of a whole segment file, one line of JSON each, without 0x0A."""
    decoder = RowDecoder()
    for lines in decoder.feed(data[: len(data) - min(len(data), trailer_bytes(data))]):
        yield from lines
    decoder.close()


def published_key(line: bytes) -> PublishedKey:
    """What adoption and audit need of a row."""
    try:
        row = _decode_key(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _corrupt(f"a row cannot be decoded: {error}") from error
    if not is_count(row.ordinal) or not is_count(row.generation):
        raise _corrupt("a row has an ordinal or a generation that cannot be")
    version = ObjectVersion(row.object, row.etag)
    return PublishedKey(version, row.ordinal, row.generation, row.record_id, row.outcome, row.reason)


def without_segment(line: bytes, segment: str) -> bytes | None:
    """The row as it was encoded before `segment` was spliced in; None if the line names another segment."""
    ending = b',"segment":%b}' % _encode(segment)
    return line[: -len(ending)] + b"}" if line.endswith(ending) else None


def _corrupt(message: str) -> Corrupt:
    return Corrupt(Reason.CORRUPT, message)
