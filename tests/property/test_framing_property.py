"""Any bytes, any codec, any number of frames, any chunking: the same lines."""

import gzip
import random
from itertools import pairwise

from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.errors import Corrupt
from mira_stream.core.record import Line
from mira_stream.source.codec import Decoder
from mira_stream.source.lines import LineFramer

line_bytes = st.binary(max_size=40) | st.binary(max_size=6).map(lambda b: b * 3000)
contents = st.lists(line_bytes, max_size=12).map(b"\n".join)
codecs = st.sampled_from(["plain", "zstd", "gzip"])
_PLAIN_START = b"{"


def _encoded(codec: str, data: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    if codec == "plain":
        return data
    return b"".join(zstd.compress(part) if codec == "zstd" else gzip.compress(part, 1) for part in parts)


def _chunks(data: bytes, seed: int) -> list[bytes]:
    dice = random.Random(seed)
    chunks, at = [], 0
    while at < len(data):
        size = dice.choice([1, 2, 3, 17, 1000, 1 << 20])
        chunks.append(data[at : at + size])
        at += size
    return chunks


def _lines(chunks: list[bytes], line_bytes_max: int) -> tuple[list[Line], object]:
    decoder, framer = Decoder(), LineFramer(line_bytes_max)
    lines: list[Line] = []
    try:
        for chunk in chunks:
            for piece in decoder.feed(chunk):
                for batch in framer.feed(piece):
                    lines += batch
        for piece in decoder.finish():
            for batch in framer.feed(piece):
                lines += batch
    except Corrupt as error:
        return lines, error.reason
    return lines + framer.finish(), None


def _expected(data: bytes, line_bytes_max: int) -> list[Line]:
    raws = data.split(b"\n")
    if not raws[-1]:
        raws.pop()
    return [
        Line(n, b"", oversized=True) if len(raw) > line_bytes_max else Line(n, raw)
        for n, raw in enumerate(raws)
    ]


@settings(max_examples=150, deadline=None)
@given(contents, codecs, st.lists(st.integers(0, 1 << 20), max_size=4), st.integers(0, 1 << 16))
def test_any_chunking_of_any_codec_gives_the_same_lines(
    data: bytes, codec: str, cuts: list[int], seed: int
) -> None:
    """Lines are a function of the decompressed bytes alone."""
    data = _PLAIN_START + data
    for line_bytes_max in (1 << 20, 25):
        lines, reason = _lines(_chunks(_encoded(codec, data, cuts), seed), line_bytes_max)
        assert (lines, reason) == (_expected(data, line_bytes_max), None)


@settings(max_examples=150, deadline=None)
@given(contents, codecs, st.integers(0, 1 << 20), st.integers(0, 255), st.integers(0, 1 << 16))
def test_damage_and_truncation_are_the_same_at_every_reading(
    data: bytes, codec: str, at: int, flip: int, seed: int
) -> None:
    """Whatever the bytes are, reading neither raises anything else nor depends on the chunks."""
    encoded = bytearray(_encoded(codec, _PLAIN_START + data, [at]))
    encoded[at % len(encoded)] ^= flip
    damaged = bytes(encoded[: 1 + at % len(encoded)] if flip == 0 else encoded)
    assert _lines([damaged], 1 << 20) == _lines(_chunks(damaged, seed), 1 << 20)
