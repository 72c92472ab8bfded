"""Decompression: every frame and member, bounded steps, damage that loses nothing before it."""

import gzip
import io
import random
import struct
import zlib

import pytest
import zstandard
from backports import zstd

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.source import codec as codec_module
from mira_stream.source.codec import STEP_BYTES, Decoder

TEXT = b'{"role":"user","content":"hello"}\n' * 300
NOISE = random.Random(7).randbytes(700_000)


def frame(data: bytes, *, checksum: bool = True, window_log: int | None = None) -> bytes:
    """A zstd frame, without content size where a window is asked for."""
    options = {zstd.CompressionParameter.checksum_flag: int(checksum)}
    if window_log:
        options |= {
            zstd.CompressionParameter.window_log: window_log,
            zstd.CompressionParameter.content_size_flag: 0,
        }
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(data) + compressor.flush()


def skippable(payload: bytes, kind: int = 0) -> bytes:
    """A zstd skippable frame."""
    return struct.pack("<II", 0x184D2A50 + kind, len(payload)) + payload


def member(data: bytes) -> bytes:
    """A gzip member with every optional header field."""
    header = b"\x1f\x8b\x08\x1e" + bytes(6) + struct.pack("<H", 5) + b"extra" + b"name\0" + b"comment\0"
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    body = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (
        header + body.compress(data) + body.flush() + struct.pack("<II", zlib.crc32(data), len(data) % 2**32)
    )


def decoded(data: bytes, *, chunk: int = 1 << 30, window_log_max: int = 27) -> tuple[bytes, Reason | None]:
    """All output of an object, and how it ended badly."""
    decoder = Decoder(window_log_max)
    out: list[bytes] = []
    try:
        for start in range(0, len(data), chunk):
            _collect(decoder.feed(data[start : start + chunk]), out)
        _collect(decoder.finish(), out)
    except Corrupt as error:
        return b"".join(out), error.reason
    return b"".join(out), None


def _collect(steps, out: list[bytes]) -> None:
    for step in steps:
        assert 0 < len(step) <= STEP_BYTES
        out.append(step)


@pytest.mark.parametrize(
    "encode", [frame, gzip.compress, member, bytes], ids=["zstd", "gzip", "all", "plain"]
)
@pytest.mark.parametrize("data", [b"", b"x", TEXT, NOISE, bytes(131072), bytes(3 << 20)])
@pytest.mark.parametrize("chunk", [1 << 30, 65536, 4099])
def test_what_was_compressed_comes_out(encode, data: bytes, chunk: int) -> None:
    """Each codec gives back the bytes, whatever their size and the size of the chunks."""
    assert decoded(encode(data), chunk=chunk) == (data, None)


@pytest.mark.parametrize("encode", [frame, gzip.compress], ids=["zstd", "gzip"])
def test_the_second_frame_or_member_is_not_lost(encode) -> None:
    """`decompress()` and `decompressobj()` of most libraries stop after the first: here all come out."""
    data = encode(b"one\n") + encode(b"") + encode(b"two\n") + encode(TEXT)
    for chunk in (1, 7, 1 << 30):
        assert decoded(data, chunk=chunk) == (b"one\ntwo\n" + TEXT, None)


def test_the_traps_are_still_there() -> None:
    """The libraries do lose data in silence as the decision record says; if one stops, the record can be revised."""
    two = zstd.compress(b"one\n") + zstd.compress(b"two\n")
    assert zstandard.ZstdDecompressor().decompress(two) == b"one\n"
    assert zstandard.ZstdDecompressor().decompressobj().decompress(two) == b"one\n"
    assert zlib.decompressobj(31).decompress(gzip.compress(b"one\n") + gzip.compress(b"two\n")) == b"one\n"
    torn = frame(NOISE)[:-1000]
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(torn)) as reader:
        assert len(reader.read()) < len(NOISE)


@pytest.mark.parametrize("encode", [frame, gzip.compress], ids=["zstd", "gzip"])
@pytest.mark.parametrize("chunk", [1 << 30, 1000])
def test_a_truncated_object_keeps_what_stands_before(encode, chunk: int) -> None:
    """A torn frame or member is an error (`stream_reader` gives none), and all before it comes out."""
    whole = encode(TEXT) + encode(NOISE)
    for cut in (1, 4, 5, 9, 1000, len(encode(NOISE)) - 1):
        out, reason = decoded(whole[:-cut], chunk=chunk)
        assert reason is Reason.TRUNCATED
        assert (TEXT + NOISE).startswith(out)
        assert out.startswith(TEXT)
        assert cut > 4 or out == TEXT + NOISE


def test_an_object_cut_inside_its_magic_is_truncated() -> None:
    """Fewer bytes than a magic has, but its first ones, are a torn object and no text."""
    assert decoded(b"\x1f") == (b"", Reason.TRUNCATED)
    assert decoded(b"\x1f\x8b") == (b"", Reason.TRUNCATED)
    assert decoded(b"\x28\xb5\x2f") == (b"", Reason.TRUNCATED)
    assert decoded(b"(") == (b"(", None)
    assert decoded(b"{}") == (b"{}", None)


@pytest.mark.parametrize("chunk", [1 << 30, 1])
def test_skippable_frames_are_skipped_anywhere(chunk: int) -> None:
    """Skippable frames of every kind before, between and after data hide nothing."""
    data = (
        skippable(b"first") + frame(b"one\n") + skippable(b"", 15) + frame(b"two\n") + skippable(bytes(99), 7)
    )
    assert decoded(data, chunk=chunk) == (b"one\ntwo\n", None)
    assert decoded(skippable(b"alone"), chunk=chunk) == (b"", None)
    assert decoded(skippable(b"torn")[:-1], chunk=chunk) == (b"", Reason.TRUNCATED)


@pytest.mark.parametrize("encode", [frame, gzip.compress], ids=["zstd", "gzip"])
@pytest.mark.parametrize("chunk", [1 << 30, 1])
def test_only_zeros_may_follow_the_last_frame_or_member(encode, chunk: int) -> None:
    """Zero padding is ignored; text, another codec, and data after padding are `corrupt`, nothing before is lost."""
    other = gzip.compress if encode is frame else frame
    assert decoded(encode(b"one\n") + bytes(1000), chunk=chunk) == (b"one\n", None)
    assert decoded(encode(b"one\n") + bytes(2), chunk=chunk) == (b"one\n", None)
    for tail in (b"\n", b"text", other(b"two\n"), bytes(600) + encode(b"two\n"), bytes(3) + b"x"):
        assert decoded(encode(b"one\n") + tail, chunk=chunk) == (b"one\n", Reason.CORRUPT)


@pytest.mark.parametrize("encode", [frame, gzip.compress], ids=["zstd", "gzip"])
@pytest.mark.parametrize("chunk", [1 << 30, 1000, 1])
def test_a_wrong_checksum_loses_no_output(encode, chunk: int) -> None:
    """The bytes of a frame whose checksum is wrong come out before the error, however they were chunked."""
    damaged = bytearray(encode(TEXT) + encode(TEXT))
    damaged[-5 if encode is gzip.compress else -1] ^= 1
    assert decoded(bytes(damaged), chunk=chunk) == (TEXT + TEXT, Reason.CORRUPT)


def test_a_wrong_length_at_the_end_of_a_member_is_corrupt() -> None:
    """gzip's own count of bytes is checked too."""
    damaged = bytearray(gzip.compress(TEXT))
    damaged[-1] ^= 1
    assert decoded(bytes(damaged)) == (TEXT, Reason.CORRUPT)


@pytest.mark.parametrize("encode", [frame, gzip.compress], ids=["zstd", "gzip"])
def test_damage_stands_at_the_same_place_at_every_reading(encode) -> None:
    """A flipped bit gives the same output and the same reason for any chunking: ordinals must not move."""
    whole = encode(NOISE + TEXT * 40)
    for at in random.Random(3).sample(range(len(whole)), 25):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        results = {decoded(bytes(damaged), chunk=chunk) for chunk in (1 << 30, 65536, 10_007)}
        assert len(results) == 1, at


def test_a_window_over_the_limit_is_refused_before_it_is_allocated() -> None:
    """A frame that wants a larger window than allowed ends the object with `window`; the limit itself passes."""
    assert decoded(frame(b"one\n") + frame(TEXT, window_log=28)) == (b"one\n", Reason.WINDOW)
    assert decoded(frame(TEXT, window_log=27)) == (TEXT, None)
    assert decoded(frame(TEXT, window_log=28), window_log_max=28) == (TEXT, None)


def test_a_dictionary_is_refused() -> None:
    """A frame that needs a dictionary is `corrupt`, with that explanation."""
    dictionary = zstd.train_dict([b"%d:" % n + TEXT[:200] for n in range(100)], 1024)
    data = zstd.compress(TEXT, zstd_dict=dictionary)
    with pytest.raises(Corrupt, match="dictionary"):
        list(Decoder().feed(data))


@pytest.mark.parametrize("encode", [frame, gzip.compress], ids=["zstd", "gzip"])
def test_a_bomb_ends_with_ratio_in_bounded_steps(encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output above the floor and 2,000:1 ends the object; no step on the way is larger than 1 MiB."""
    monkeypatch.setattr(codec_module, "RATIO_FLOOR_BYTES", 4 << 20)
    monkeypatch.setattr(codec_module, "RATIO_MAX", 500)
    out, reason = decoded(encode(bytes(64 << 20)))
    assert reason is Reason.RATIO
    # gzip counts its input in slices of 64 KiB, and cannot pass 1,032:1 at all.
    assert 4 << 20 <= len(out) <= (34 if encode is gzip.compress else 6) << 20


def test_an_honest_ratio_passes_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much output of a usual ratio is not a bomb."""
    monkeypatch.setattr(codec_module, "RATIO_FLOOR_BYTES", 1 << 20)
    assert decoded(frame(NOISE * 4)) == (NOISE * 4, None)


def test_damaged_headers_are_corrupt() -> None:
    """Reserved bits and methods that nobody defined are damage, not text."""
    assert decoded(b"\x1f\x8b\x07" + bytes(20)) == (b"", Reason.CORRUPT)
    assert decoded(b"\x1f\x8b\x08\xe0" + bytes(20)) == (b"", Reason.CORRUPT)
    reserved_bit = bytearray(frame(TEXT))
    reserved_bit[4] |= 0x08
    assert decoded(bytes(reserved_bit)) == (b"", Reason.CORRUPT)
    assert decoded(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 400_000) == (b"", Reason.CORRUPT)
