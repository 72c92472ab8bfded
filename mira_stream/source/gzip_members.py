"""gzip: member by member, with header and trailer read here, so that a wrong checksum loses none of the output."""

from collections.abc import Generator, Iterator

from isal import igzip_lib, isal_zlib

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.source.padding import refuse_unless_zeros

# The stub does not say that it is an exception.
IsalError: type[Exception] = igzip_lib.__dict__["IsalError"]

GZIP_MAGIC = b"\x1f\x8b"
_STEP_BYTES = 1 << 20
# Fixed slices of the object, counted from its start: the call that fails is the same at every reading.
_SLICE_BYTES = 64 << 10
_HEADER_BYTES_MAX = 256 << 10
_TRAILER_BYTES = 8
_DEFLATE = 8
_HEADER_CRC, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0


class GzipMembers:
    """Decoder of any number of members and zero padding at the end."""

    def __init__(self) -> None:
        self._unsliced = b""
        self._buffer = b""  # of a header or trailer that is not all there
        self._deflate: igzip_lib.IgzipDecompressor | None = None
        self._in_trailer = False
        self._first = True
        self._padding = False
        self._crc = 0
        self._size = 0
        self.consumed_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The output of each full slice."""
        data = self._unsliced + data
        whole = len(data) - len(data) % _SLICE_BYTES
        self._unsliced = data[whole:]
        for start in range(0, whole, _SLICE_BYTES):
            yield from self._slice(data[start : start + _SLICE_BYTES])

    def finish(self) -> Iterator[bytes]:
        """The output of the last slice; raises Corrupt (truncated) inside a member."""
        yield from self._slice(self._unsliced)
        if self._deflate is not None or self._in_trailer or (self._buffer and not self._padding):
            raise Corrupt(Reason.TRUNCATED, "the object ends inside a gzip member")

    def _slice(self, data: bytes) -> Iterator[bytes]:
        self.consumed_bytes += len(data)
        rest = data
        while rest:
            if self._padding:
                refuse_unless_zeros(rest, "gzip member")
                return
            if self._deflate is not None:
                rest = yield from self._body(rest)
            elif self._in_trailer:
                rest = self._trailer(self._buffer + rest)
            else:
                rest = self._header(self._buffer + rest)

    def _header(self, data: bytes) -> bytes:
        """Take the header of a member off `data`; what follows it. Keeps `data` if the header is not all there."""
        if not GZIP_MAGIC.startswith(data[:2]):
            assert not self._first, "the decoder chose gzip by the first magic"
            refuse_unless_zeros(data, "gzip member")
            self._padding = True
            return b""
        size = header_size(data)
        if size is None:
            if len(data) > _HEADER_BYTES_MAX:
                raise Corrupt(Reason.CORRUPT, "a gzip header does not end")
            self._buffer = data
            return b""
        self._buffer = b""
        self._first = False
        self._deflate = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE, hist_bits=15)
        self._crc = self._size = 0
        return data[size:]

    def _body(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Decompress `data`; what follows the end of the member in it."""
        assert self._deflate is not None
        while True:
            try:
                output = self._deflate.decompress(data, _STEP_BYTES)
            except IsalError as error:
                raise Corrupt(Reason.CORRUPT, f"a gzip member is damaged: {error}") from error
            data = b""
            self._crc = isal_zlib.crc32(output, self._crc)
            self._size += len(output)
            if output:
                yield output
            if self._deflate.eof:
                unused = self._deflate.unused_data
                self._deflate = None
                self._in_trailer = True
                return unused
            if self._deflate.needs_input:
                return b""

    def _trailer(self, data: bytes) -> bytes:
        if len(data) < _TRAILER_BYTES:
            self._buffer = data
            return b""
        self._buffer = b""
        self._in_trailer = False
        crc = int.from_bytes(data[:4], "little")
        size = int.from_bytes(data[4:_TRAILER_BYTES], "little")
        if crc != self._crc or size != self._size & 0xFFFFFFFF:
            raise Corrupt(Reason.CORRUPT, "the checksum at the end of a gzip member is wrong")
        return data[_TRAILER_BYTES:]


def header_size(data: bytes) -> int | None:
    """Bytes of the member header at the front of `data`; None if it is not all there (RFC 1952)."""
    if len(data) < 10:
        return None
    flags = data[3]
    if data[2] != _DEFLATE or flags & _RESERVED:
        raise Corrupt(Reason.CORRUPT, "a gzip header is damaged")
    at = 10
    if flags & _EXTRA:
        at += 2 + int.from_bytes(data[10:12], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            at = data.find(0, at) + 1
            if at == 0:
                return None
    if flags & _HEADER_CRC:
        at += 2
    return at if at <= len(data) else None
