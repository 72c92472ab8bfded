"""zstd: frame by frame and block by block, so that a bad block loses nothing that stands before it.

libzstd loses the output of the call that fails. Given one block a call (at most 128 KiB of output), the failing call
has none, memory is bounded for any input, and the windows and dictionaries that frames ask for are known before.
"""

from collections.abc import Iterator
from typing import NamedTuple

from backports import zstd

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.source.padding import refuse_unless_zeros

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_TAIL = b"\x2a\x4d\x18"
_BLOCK_BYTES_MAX = 128 << 10
_DICT_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RAW, _RLE, _COMPRESSED = 0, 1, 2


class FrameHeader(NamedTuple):
    """What a frame says about itself. `size` is that of the header."""

    size: int
    window_bytes: int
    checksum: bool
    dictionary: bool


def is_zstd(head: bytes | memoryview) -> bool:
    """Whether four bytes start a frame, skippable ones included."""
    first = bytes(head[:4])
    return first == ZSTD_MAGIC or (first[1:] == _SKIPPABLE_TAIL and first[0] & 0xF0 == 0x50)


def _starts_frame(head: bytes) -> bool:
    """Whether fewer than all bytes of a frame's header may be the start of one."""
    magics = (
        (ZSTD_MAGIC, bytes((head[0],)) + _SKIPPABLE_TAIL) if head and head[0] >> 4 == 5 else (ZSTD_MAGIC,)
    )
    return any(head[:4] == magic[: len(head)] for magic in magics)


class ZstdFrames:
    """Decoder of any number of frames, skippable ones between them, and zero padding at the end."""

    def __init__(self, window_log_max: int) -> None:
        self._window_bytes_max = 1 << window_log_max
        self._options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: window_log_max}
        self._buffer = b""
        self._skip = 0
        self._frame: zstd.ZstdDecompressor | None = None
        self._checksum = False
        self._last_block = False
        self._padding = False
        self.consumed_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The output of each block that `data` completes."""
        view = memoryview(self._buffer + data if self._buffer else data)
        at = 0
        while at < len(view):
            used, output = self._advance(view[at:])
            if not used:
                break
            at += used
            self.consumed_bytes += used
            if output:
                yield output
        self._buffer = bytes(view[at:])

    def finish(self) -> Iterator[bytes]:
        """No output; raises Corrupt (truncated) inside a frame."""
        between_frames = self._frame is None and not self._skip
        if between_frames and not _starts_frame(self._buffer):
            refuse_unless_zeros(self._buffer, "zstd frame")
        elif not between_frames or self._buffer:
            raise Corrupt(Reason.TRUNCATED, "the object ends inside a zstd frame")
        return iter(())

    def _advance(self, view: memoryview) -> tuple[int, bytes]:
        """Decode what stands at the front: bytes used (0: more are needed) and their output."""
        if self._skip:
            used = min(self._skip, len(view))
            self._skip -= used
            return used, b""
        if self._padding:
            refuse_unless_zeros(view, "zstd frame")
            return len(view), b""
        if self._frame is None:
            return self._begin(view)
        if self._last_block:
            return self._end(view)
        return self._block(view)

    def _begin(self, view: memoryview) -> tuple[int, bytes]:
        if len(view) < 4:
            return 0, b""
        if not is_zstd(view):
            # Not the first frame, since the decoder chose zstd by the first magic.
            refuse_unless_zeros(view, "zstd frame")
            self._padding = True
            return len(view), b""
        if view[0] != ZSTD_MAGIC[0]:
            return self._begin_skippable(view)
        header = parse_frame_header(view)
        if header is None:
            return 0, b""
        self._refuse_unreadable(header)
        self._frame = zstd.ZstdDecompressor(options=self._options)
        self._checksum = header.checksum
        self._last_block = False
        return header.size, self._decompress(view[: header.size])

    def _begin_skippable(self, view: memoryview) -> tuple[int, bytes]:
        if len(view) < 8:
            return 0, b""
        self._skip = int.from_bytes(view[4:8], "little")
        return 8, b""

    def _refuse_unreadable(self, header: FrameHeader) -> None:
        if header.window_bytes > self._window_bytes_max:
            raise Corrupt(
                Reason.WINDOW,
                f"a zstd frame needs a window of {header.window_bytes:,} bytes, more than the limit of "
                f"{self._window_bytes_max:,} (source.window_log_max)",
            )
        if header.dictionary:
            raise Corrupt(Reason.CORRUPT, "a zstd frame needs a dictionary, which is not supported")

    def _block(self, view: memoryview) -> tuple[int, bytes]:
        if len(view) < 3:
            return 0, b""
        header = int.from_bytes(view[:3], "little")
        kind, size = (header >> 1) & 3, header >> 3
        if kind > _COMPRESSED or size > _BLOCK_BYTES_MAX:
            raise Corrupt(Reason.CORRUPT, "a zstd block header is damaged")
        end = 3 + (1 if kind == _RLE else size)
        if len(view) < end:
            return 0, b""
        output = self._decompress(view[:end])
        self._last_block = bool(header & 1)
        if self._last_block and not self._checksum:
            self._end(view[:0])
        return end, output

    def _end(self, checksum: memoryview) -> tuple[int, bytes]:
        size = 4 if self._checksum else 0
        if len(checksum) < size:
            return 0, b""
        if size:
            self._decompress(checksum[:size])
        assert self._frame is not None
        if not self._frame.eof:
            raise Corrupt(Reason.CORRUPT, "a zstd frame does not end where its last block does")
        self._frame = None
        return size, b""

    def _decompress(self, data: memoryview) -> bytes:
        assert self._frame is not None
        try:
            return self._frame.decompress(data, _BLOCK_BYTES_MAX)
        except zstd.ZstdError as error:
            raise Corrupt(Reason.CORRUPT, f"a zstd frame is damaged: {error}") from error


def parse_frame_header(view: memoryview) -> FrameHeader | None:
    """The header at the front of `view`, which starts with the magic; None if it is not all there (RFC 8878)."""
    if len(view) < 5:
        return None
    descriptor = view[4]
    single_segment = bool(descriptor & 0x20)
    content_size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or int(single_segment)
    window_at = 5
    dict_at = window_at + (0 if single_segment else 1)
    content_size_at = dict_at + _DICT_ID_BYTES[descriptor & 3]
    size = content_size_at + content_size_bytes
    if len(view) < size:
        return None
    if descriptor & 0x08:
        raise Corrupt(Reason.CORRUPT, "a zstd frame header is damaged")
    content_size = int.from_bytes(view[content_size_at:size], "little")
    window = content_size if single_segment else _window_bytes(view[window_at])
    return FrameHeader(size, window, bool(descriptor & 0x04), any(view[dict_at:content_size_at]))


def _window_bytes(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    return base + (base >> 3) * (descriptor & 7)
