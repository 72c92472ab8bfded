"""Reading one object version: bytes in, batches of lines out, and how it ended. Blocking code, no I/O but a local file's."""

import math
from collections.abc import Callable, Iterator
from hashlib import blake2b

import msgspec

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line
from mira_stream.core.sight import FileSight, LineBatch, ObjectEnd, Prefix
from mira_stream.source.codec import Decoder
from mira_stream.source.lines import FirstLine, LineFramer
from mira_stream.source.local_file import LocalFile
from mira_stream.source.settings import SourceSettings

READ_BYTES = 1 << 20
_PREFIX_BYTES = 64 << 10


class Damaged(Exception):
    """The object ends here, badly; `end` says how. Never leaves this room."""

    def __init__(self, end: ObjectEnd) -> None:
        super().__init__(end.message)
        self.end = end


class ObjectReading:
    """Decompression and framing of one object, in order, from its first byte.

    Args:
        settings: limits of lines and windows.
        etag: of a local file, the identity that its first line must have; None for object stores, which check theirs.
    """

    def __init__(self, settings: SourceSettings, etag: str | None = None) -> None:
        self._decoder = Decoder(settings.window_log_max)
        self._framer = LineFramer(settings.line_bytes_max)
        self._etag = etag
        self._first = FirstLine()

    @property
    def lines(self) -> int:
        """Rows framed so far: the ordinal at which a bad end stands."""
        return self._framer.lines

    @property
    def has_rest(self) -> bool:
        """Whether a piece without its 0x0A is held."""
        return self._framer.has_rest

    @property
    def settled_bytes(self) -> int | None:
        """How many bytes of the object stand behind its complete lines; None if that is not known."""
        if not self._decoder.is_plain:
            return self._decoder.consumed_bytes
        rest = self._framer.rest_bytes
        return None if rest is None else self._decoder.consumed_bytes - rest

    def feed(self, data: bytes) -> Iterator[LineBatch]:
        """The lines that `data` completes. Raises Damaged after them if the object ends badly in it."""
        return self._framed(self._decoder.feed(data))

    def drain(self) -> Iterator[LineBatch]:
        """The lines that the decoder held back; the input ends here. Raises Damaged."""
        return self._framed(self._decoder.finish())

    def last_line(self) -> tuple[Line, ...]:
        """The rest as a line, if there is one."""
        return tuple(self._framer.finish())

    def overwritten(self, message: str) -> Damaged:
        """The end of an object that is no longer the version that was asked for."""
        return Damaged(ObjectEnd(self.lines, reason=Reason.OVERWRITTEN, message=message))

    def check_identity(self) -> None:
        """Raise Damaged (overwritten) if this is not the local file that was asked for, as far as it was read."""
        if self._etag is not None and self._first.etag != self._etag:
            raise self.overwritten("its first line is another than when it was found")

    def _framed(self, steps: Iterator[bytes]) -> Iterator[LineBatch]:
        try:
            for step in steps:
                self._identify(step)
                for lines in self._framer.feed(step):
                    yield LineBatch(tuple(lines))
        except Corrupt as error:
            raise Damaged(ObjectEnd(self.lines, reason=error.reason, message=str(error))) from error

    def _identify(self, step: bytes) -> None:
        if self._etag is not None and not self._first.complete and self._first.feed(step):
            self.check_identity()


class Reread(msgspec.Struct, frozen=True):
    """What is known of a local file before it is read.

    Args:
        prefix: how it began when it was read before.
        is_rotated: it has lost the name under which it is read: its end is final once it is quiet, and not before.
    """

    prefix: Prefix | None = None
    is_rotated: bool = False


FIRST_READING = Reread()


class LocalReading:
    """Reading of a local file that may grow, shrink or be replaced meanwhile.

    Args:
        file: held open; closed at the end.
        settings: as for `ObjectReading`, and `grow_settle_seconds`.
        etag: the identity of its first line.
        wall_clock: seconds since the epoch.
        reread: what an earlier reading, or a rotation, asks for.
    """

    def __init__(
        self,
        file: LocalFile,
        settings: SourceSettings,
        *,
        etag: str,
        wall_clock: Callable[[], float],
        reread: Reread = FIRST_READING,
    ) -> None:
        self._reread = reread
        self._file = file
        self._settings = settings
        self._wall_clock = wall_clock
        self._reading = ObjectReading(settings, etag)
        self._read_bytes = 0
        self._prefix = b""
        self._prefix_bytes = 0
        self._change = file.change

    def batches(self) -> Iterator[LineBatch]:
        """All complete lines, and the end."""
        with self._file:
            try:
                self._check_prefix()
                yield from self._contents()
                self._reading.check_identity()
                settled_bytes = self._reading.settled_bytes
                last = self._end()
            except Damaged as error:
                settled_bytes = self._reading.settled_bytes
                last = LineBatch((), end=self._identified(error.end))
            yield msgspec.structs.replace(last, file=self._sight(last, settled_bytes))

    def _sight(self, last: LineBatch, settled_bytes: int | None) -> FileSight:
        assert last.end is not None
        if last.end.reason is Reason.OVERWRITTEN:
            return FileSight(closed=True)
        is_kept = bool(settled_bytes) and not self._reread.is_rotated
        prefix = prefix_of(self._file, settled_bytes) if is_kept and settled_bytes else None
        return FileSight(prefix, quiet=self._is_quiet())

    def _check_prefix(self) -> None:
        """Raise Damaged if what was read of the file before is no longer how it begins."""
        prefix = self._reread.prefix
        if prefix is None or self._reread.is_rotated:  # a rotation may have compressed it
            return
        if self._file.size < prefix.bytes:
            raise self._reading.overwritten("it is shorter than what was read of it")
        if prefix_of(self._file, prefix.bytes) != prefix:
            raise self._reading.overwritten("what was read of it before has been written over")

    def _contents(self) -> Iterator[LineBatch]:
        while chunk := self._file.read(self._read_bytes, self._read_bytes + READ_BYTES):
            if not self._read_bytes:
                self._prefix_bytes = min(len(chunk), _PREFIX_BYTES)
                self._prefix = blake2b(chunk[:_PREFIX_BYTES]).digest()
            self._read_bytes += len(chunk)
            yield from self._reading.feed(chunk)
        self._check_unchanged()
        yield from self._reading.drain()

    def _identified(self, end: ObjectEnd) -> ObjectEnd:
        """`end`, unless the file is another one, or torn where its writer may still go on."""
        try:
            self._reading.check_identity()
        except Damaged as error:
            return error.end
        if end.reason is Reason.TRUNCATED and not self._settled():
            return ObjectEnd(end.lines, settled=False)
        return end

    def _end(self) -> LineBatch:
        is_torn = self._reading.has_rest or self._reread.is_rotated
        if is_torn and not self._settled():
            return LineBatch((), end=ObjectEnd(self._reading.lines, settled=False))
        last = self._reading.last_line()
        return LineBatch(last, end=ObjectEnd(self._reading.lines))

    def _settled(self) -> bool:
        """Whether no writer will complete a torn tail: renamed, deleted, or quiet for long enough."""
        return self._is_quiet() or not self._file.is_current()

    def _is_quiet(self) -> bool:
        return self._wall_clock() - self._file.modified >= self._settings.grow_settle_seconds

    def _check_unchanged(self) -> None:
        """Raise Damaged if what was read has been written over: appending is the only change that is followed."""
        self._file.look()
        if self._file.size < self._read_bytes:
            raise self._reading.overwritten("it became shorter while it was read")
        if self._file.change == self._change or not self._read_bytes:
            return
        again = self._file.read(0, self._prefix_bytes)
        if blake2b(again).digest() != self._prefix:
            raise self._reading.overwritten("it was written over while it was read")


def prefix_of(file: LocalFile, size: int) -> Prefix:
    """How the file begins: both ends of its first `size` bytes, so that a long one costs no more than a short one."""
    state = blake2b(file.read(0, min(size, _PREFIX_BYTES)), digest_size=16)
    state.update(file.read(max(0, size - _PREFIX_BYTES), size))
    return Prefix(size, state.hexdigest())


def identity(file: LocalFile, settings: SourceSettings, *, now: float) -> str | None:
    """The etag of a local file: of its first complete line; of what there is if it ends or has settled; else None.

    Reads no further than that line.
    """
    first = FirstLine()
    decoder = Decoder(settings.window_log_max)
    at = 0
    try:
        while chunk := file.read(at, at + _PREFIX_BYTES):
            at += len(chunk)
            if _completes(first, decoder.feed(chunk)):
                return first.etag
        if _completes(first, decoder.finish()):
            return first.etag
    except Corrupt as error:
        if error.reason is not Reason.TRUNCATED:
            return first.etag
    return first.etag if now - file.modified >= settings.grow_settle_seconds else None


def whole_identity(file: LocalFile, settings: SourceSettings) -> str | None:
    """As `identity`, of its first complete line only; None while it has none."""
    return identity(file, settings, now=-math.inf)


def _completes(first: FirstLine, steps: Iterator[bytes]) -> bool:
    return any(first.feed(step) for step in steps)
