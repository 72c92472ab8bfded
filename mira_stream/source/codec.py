"""Decompression by magic bytes, in bounded steps, frame by frame and member by member: nothing is lost in silence.

What comes out, and where an error stands, is a function of the object's bytes alone, never of how they were chunked:
ordinals of dead letters must be the same at every reading.
"""

from collections.abc import Iterator
from typing import Protocol

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.source.gzip_members import GZIP_MAGIC, GzipMembers
from mira_stream.source.zstd_frames import ZSTD_MAGIC, ZstdFrames, is_zstd

STEP_BYTES = 1 << 20
RATIO_MAX = 2000
RATIO_FLOOR_BYTES = 256 << 20
_MAGIC_BYTES = 4


class Codec(Protocol):
    """One way of compression. `consumed_bytes` counts the compressed bytes behind all output so far."""

    consumed_bytes: int

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of output, each at most `STEP_BYTES`. Raises Corrupt."""

    def finish(self) -> Iterator[bytes]:
        """The output of what was held back; raises Corrupt (truncated) if the input ends inside something."""


class Plain:
    """No compression."""

    def __init__(self) -> None:
        self.consumed_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """`data` itself."""
        for start in range(0, len(data), STEP_BYTES):
            piece = data[start : start + STEP_BYTES]
            self.consumed_bytes += len(piece)
            yield piece

    def finish(self) -> Iterator[bytes]:
        """Nothing: plain bytes are never torn."""
        return iter(())


class Decoder:
    """Decompresses one object, whatever it is; output in steps of at most about `STEP_BYTES`.

    Args:
        window_log_max: zstd windows above `2**window_log_max` bytes end the object (`window`).
    """

    def __init__(self, window_log_max: int = 27) -> None:
        self._window_log_max = window_log_max
        self._head = b""
        self._codec: Codec | None = None
        self._output_bytes = 0

    @property
    def consumed_bytes(self) -> int:
        """The compressed bytes behind all output so far."""
        return self._codec.consumed_bytes if self._codec is not None else 0

    @property
    def is_plain(self) -> bool:
        """Whether nothing is compressed, as far as can be told."""
        return isinstance(self._codec, Plain)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Steps of output. Raises Corrupt after all output that stands before the damage."""
        if self._codec is None:
            data = self._head + data
            if len(data) < _MAGIC_BYTES:
                self._head = data
                return
            self._codec = self._sniffed(data)
        yield from self._steps(self._codec, self._codec.feed(data))

    def finish(self) -> Iterator[bytes]:
        """The rest of the output. Raises Corrupt (truncated) if the object ends inside a frame or member."""
        if self._codec is None:
            self._codec = self._sniffed(self._head)
            yield from self._steps(self._codec, self._codec.feed(self._head))
        yield from self._steps(self._codec, self._codec.finish())

    def _sniffed(self, head: bytes) -> Codec:
        torn_magic = 2 <= len(head) < _MAGIC_BYTES and ZSTD_MAGIC.startswith(head)
        if is_zstd(head) or torn_magic:
            return ZstdFrames(self._window_log_max)
        if head.startswith(GZIP_MAGIC) or head == GZIP_MAGIC[:1]:
            return GzipMembers()
        return Plain()

    def _steps(self, codec: Codec, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Join small pieces into steps; what came before an error goes out before it."""
        step: list[bytes] = []
        held = 0
        try:
            for piece in pieces:
                if held + len(piece) > STEP_BYTES:
                    yield b"".join(step)
                    step.clear()
                    held = 0
                step.append(piece)
                held += len(piece)
                self._limit(len(piece), codec)
        except Corrupt:
            if step:
                yield b"".join(step)
            raise
        if step:
            yield b"".join(step)

    def _limit(self, size: int, codec: Codec) -> None:
        self._output_bytes += size
        if self._output_bytes <= RATIO_FLOOR_BYTES:
            return
        if self._output_bytes > RATIO_MAX * codec.consumed_bytes:
            raise Corrupt(
                Reason.RATIO,
                f"{codec.consumed_bytes:,} compressed bytes became {self._output_bytes:,}: a decompression bomb",
            )
