"""Framing: 0x0A ends a line and nothing else does; memory is bounded by the longest line allowed."""

import tracemalloc

import pytest

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line, first_line_etag
from mira_stream.source.lines import BATCH_LINES_MAX, BLANK_RUN_MAX, FirstLine, LineFramer


def framed(*pieces: bytes, line_bytes_max: int = 1 << 20) -> list[Line]:
    """All lines of an object."""
    framer = LineFramer(line_bytes_max)
    lines = [line for piece in pieces for batch in framer.feed(piece) for line in batch]
    lines += framer.finish()
    assert framer.lines == len(lines)
    assert [line.ordinal for line in lines] == list(range(len(lines)))
    return lines


def raws(*pieces: bytes) -> list[bytes]:
    """The bytes of the lines."""
    return [line.raw for line in framed(*pieces)]


def test_only_0x0a_ends_a_line() -> None:
    """CR, form feed, NEL, U+2028 and NUL stay inside; a BOM and CR are kept byte for byte."""
    odd = "\ufeff{}\r\x0b\x0c\x85\u2028\u2029\0".encode()
    assert raws(odd + b"\n" + odd) == [odd, odd]


def test_blank_lines_count_and_an_empty_rest_does_not() -> None:
    """Every 0x0A closes a line, empty or not; after the last one there is none."""
    assert raws(b"") == []
    assert raws(b"\n") == [b""]
    assert raws(b"\n\n a\n") == [b"", b"", b" a"]
    assert raws(b"a\nb") == [b"a", b"b"]
    assert raws(b"a\n ") == [b"a", b" "]


def test_a_line_of_exactly_the_limit_is_allowed() -> None:
    """The limit itself passes; one byte more is marked, kept out of memory, and costs no neighbour."""
    pieces = (b"x" * 10 + b"\n" + b"y" * 11, b"\nz\n", b"w" * 11)
    lines = framed(*pieces, line_bytes_max=10)
    assert [(line.raw, line.oversized) for line in lines] == [
        (b"x" * 10, False),
        (b"", True),
        (b"z", False),
        (b"", True),
    ]


def test_an_oversized_line_is_skipped_in_bounded_memory() -> None:
    """A line of 64 MiB over a limit of 1 MiB never takes more than a few pieces of memory."""
    piece = b"x" * (1 << 18)
    framer = LineFramer(1 << 20)
    tracemalloc.start()
    for _ in range(256):
        assert list(framer.feed(piece)) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20
    (batch,) = framer.feed(b"end\nnext\n")
    assert [(line.raw, line.oversized) for line in batch] == [(b"", True), (b"next", False)]


def test_a_batch_never_holds_too_many_lines() -> None:
    """A piece of nothing but short lines comes in bounded batches."""
    batches = list(LineFramer(100).feed(b"x\n" * 20_000))
    assert sum(map(len, batches)) == 20_000
    assert max(map(len, batches)) <= BATCH_LINES_MAX


def test_a_run_of_blank_lines_that_only_a_bomb_has_ends_the_object() -> None:
    """100,000 blank lines running pass, one more is `ratio`, with all before it framed; text starts the count anew."""
    run = b" \n" * BLANK_RUN_MAX
    assert len(framed(run, b"x\n", run)) == 2 * BLANK_RUN_MAX + 1
    framer = LineFramer(100)
    taken: list[Line] = []
    batches = framer.feed(b"x\n" + run + b"\n\n")
    with pytest.raises(Corrupt) as caught:
        taken.extend(line for batch in batches for line in batch)
    assert caught.value.reason is Reason.RATIO
    assert len(taken) == framer.lines == BLANK_RUN_MAX + 1


def test_the_identity_is_that_of_the_first_line() -> None:
    """The streamed digest equals `first_line_etag`, for any chunking, and knows when the line is complete."""
    for pieces in ((b"abc\ndef\n",), (b"a", b"bc", b"\n"), (b"abc",), (b"",), (b"\n",)):
        first = FirstLine()
        complete = [first.feed(piece) for piece in pieces][-1]
        whole = b"".join(pieces)
        assert complete is (b"\n" in whole)
        assert first.etag == first_line_etag(whole.partition(b"\n")[0])
