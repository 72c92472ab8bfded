"""The bytes of a segment, exactly as the design has them."""

import struct

import msgspec
import pytest
import zstandard

from mira_stream.core.errors import Corrupt
from mira_stream.core.partition import segment_name
from mira_stream.core.row import PublishedRow
from mira_stream.core.segment import ObjectLines, ObjectRange, Trailer
from mira_stream.sink.format import (
    FOOTER_BYTES,
    RowDecoder,
    decode_rows,
    encode_segment,
    parse_segment_key,
    published_key,
    read_trailer,
    segment_key,
    trailer_bytes,
    without_segment,
)
from tests.fakes.segments import BRIEF, PARTITION, A, plan, row

PLAN = plan([row(A, n) for n in (0, 1, 2, 5)], seq=7, lines=[(A, 6)])


def test_a_segment_is_one_data_frame_then_one_skippable_frame() -> None:
    """One frame with content size and checksum, then 0x184D2A50, JSON, its length, and the magic; nothing else."""
    data = encode_segment(PLAN, level=3)
    frame = zstandard.get_frame_parameters(data)
    assert frame.has_checksum
    content = zstandard.ZstdDecompressor().decompressobj()
    rows = content.decompress(data)
    assert frame.content_size == len(rows)
    rest = content.unused_data
    magic, size = struct.unpack_from("<II", rest)
    assert (magic, size) == (0x184D2A50, len(rest) - 8)
    length, ending = struct.unpack("<I8s", rest[-12:])
    assert ending == b"MIRASEG1"
    assert length == size - 12
    assert msgspec.json.decode(rest[8:-12]) == {
        "partition": PARTITION,
        "seq": 7,
        "plan_id": PLAN.plan_id,
        "ranges": [[A.uri, A.etag, 0, [[0, 3], [5, 6]]]],
        "lines": [[A.uri, A.etag, 6]],
    }


def test_rows_come_back_in_order_with_their_segment() -> None:
    """Each line is the row as received plus the `segment` column, and gives back the received bytes."""
    segment = segment_name(PARTITION, 7, PLAN.plan_id)
    lines = list(decode_rows(encode_segment(PLAN, level=1)))
    rows = [msgspec.json.decode(line, type=PublishedRow) for line in lines]
    assert [r.ordinal for r in rows] == [0, 1, 2, 5]
    assert {r.segment for r in rows} == {segment}
    assert {r.brief for r in rows} == {BRIEF}
    assert [without_segment(line, segment) for line in lines] == [r.encoded for r in PLAN.rows]
    assert without_segment(lines[0], segment + "x") is None
    assert [published_key(line).record_id for line in lines] == [r.key.record_id for r in PLAN.rows]


def test_the_trailer_is_found_from_the_end() -> None:
    """The last bytes suffice; the footer says how many more are needed."""
    data = encode_segment(PLAN, level=3)
    size = trailer_bytes(data[-FOOTER_BYTES:])
    assert read_trailer(data[-size:]) == PLAN.trailer
    assert read_trailer(data) == PLAN.trailer
    with pytest.raises(Corrupt, match="claims"):
        read_trailer(data[1 - size :])


def test_equal_plans_give_equal_bytes() -> None:
    """A retry writes what the first try wrote."""
    assert encode_segment(PLAN, level=3) == encode_segment(PLAN, level=3)


def _with_trailer(payload: bytes) -> bytes:
    size = len(payload)
    return struct.pack("<II", 0x184D2A50, size + 12) + payload + struct.pack("<I8s", size, b"MIRASEG1")


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"MIRASEG1",
        b"x" * 100,
        struct.pack("<I8s", 0xFFFFFFFF, b"MIRASEG1"),
        struct.pack("<I8s", 500, b"MIRASEG1"),
        struct.pack("<II", 0x184D2A50, 13) + b"{}" + struct.pack("<I8s", 2, b"MIRASEG1"),
        struct.pack("<II", 0x184D2A51, 14) + b"{}" + struct.pack("<I8s", 2, b"MIRASEG1"),
        _with_trailer(b"{}"),
        _with_trailer(b"\xff\xfe"),
        _with_trailer(b'{"partition":"p","seq":"0","plan_id":"x","ranges":[]}'),
    ],
)
def test_damaged_trailers_are_corrupt(tail: bytes) -> None:
    """Anything that is not exactly a trailer is refused, never guessed at."""
    with pytest.raises(Corrupt):
        read_trailer(tail)


@pytest.mark.parametrize(
    "trailer",
    [
        Trailer("p", -1, "x", ()),
        Trailer("p", 0, "x", (), (ObjectLines("u", "e", -1),)),
        Trailer("p", 0, "x", (ObjectRange("u", "e", 0, ()),)),
        Trailer("p", 0, "x", (ObjectRange("u", "e", 0, ((3, 3),)),)),
        Trailer("p", 0, "x", (ObjectRange("u", "e", 0, ((-1, 3),)),)),
        Trailer("p", 0, "x", (ObjectRange("u", "e", 0, ((0, 3), (2, 4))),)),
        Trailer("p", 0, "x", (ObjectRange("u", "e", -1, ((0, 3),)),)),
        Trailer("p", 0, "x", (ObjectRange("u", "e", 0, ((0, 1),)), ObjectRange("u", "e", 0, ((1, 2),)))),
    ],
)
def test_senseless_ranges_are_corrupt(trailer: Trailer) -> None:
    """A trailer that would poison somebody's progress is refused."""
    with pytest.raises(Corrupt):
        read_trailer(_with_trailer(msgspec.json.encode(trailer)))


def _frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no zstd at all", "decompressed"),
        (_frame(b"{}\n")[:-5], "is cut"),
        (_frame(b"{}\n")[:-4] + b"\0\0\0\0", "decompressed"),
        (_frame(b"{}\n") + _frame(b"{}\n"), "between"),
        (_frame(b"{}\n") + b"\0", "between"),
        (_frame(b"{}\n{}"), "no line end"),
        (b"", "is cut"),
    ],
)
def test_damaged_data_frames_are_corrupt(data: bytes, message: str) -> None:
    """A cut, changed, doubled or padded frame is refused, also where a lenient reader would return what it has."""
    with pytest.raises(Corrupt, match=message):
        list(decode_rows(data + _with_trailer(msgspec.json.encode(PLAN.trailer))))


def test_a_bomb_is_decoded_in_bounded_steps() -> None:
    """A frame that expands a thousandfold is handed out piece by piece."""
    decoder = RowDecoder()
    bomb = _frame(b"x\n" * (4 << 20))
    batches = [sum(len(line) + 1 for line in lines) for lines in decoder.feed(bomb)]
    decoder.close()
    assert sum(batches) == 8 << 20
    assert max(batches) <= 256 << 10


def test_a_row_that_is_no_row_is_corrupt() -> None:
    """A line that lacks the columns of identity cannot be adopted."""
    for line in (b"", b"{}", b"\xff", b"[1]"):
        with pytest.raises(Corrupt):
            published_key(line)


def test_only_exact_names_are_segments() -> None:
    """Foreign files never count as segments, whatever they are called."""
    assert parse_segment_key(segment_key(PARTITION, 3)) == (PARTITION, 3)
    assert parse_segment_key(segment_key(PARTITION, 123456789)) == (PARTITION, 123456789)
    assert parse_segment_key(segment_key("source=%2E%2E/shard=00", 0)) == ("source=%2E%2E/shard=00", 0)
    for key in (
        "_mira_stream/layout.json",
        f"{PARTITION}/3.jsonl.zst",
        f"{PARTITION}/000000003.jsonl.zst",
        f"{PARTITION}/00000003.jsonl.zst.part",
        f"{PARTITION}/00000003.jsonl",
        f"{PARTITION}/copy of 00000003.jsonl.zst",
        f"old/{PARTITION}/00000003.jsonl.zst",
        "source=a/00000003.jsonl.zst",
    ):
        assert parse_segment_key(key) is None
