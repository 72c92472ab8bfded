"""Framing: bytes become lines at 0x0A and nowhere else, the same lines however the bytes are chunked."""

from collections.abc import Iterator
from hashlib import blake2b

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line

BATCH_LINES_MAX = 4096
BLANK_RUN_MAX = 100_000
_NEWLINE = b"\n"


class LineFramer:
    """Frames pieces of one object into batches of lines; holds at most one line of `line_bytes_max`."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._oversized = False
        self._blanks = 0
        self.lines = 0

    @property
    def has_rest(self) -> bool:
        """Whether bytes after the last 0x0A wait for the end of their line."""
        return self._held_bytes > 0 or self._oversized

    @property
    def rest_bytes(self) -> int | None:
        """How many bytes wait; None if the line is over the limit, and they were not kept."""
        return None if self._oversized else self._held_bytes

    def feed(self, piece: bytes) -> Iterator[list[Line]]:
        """Batches of the lines that `piece` completes, at most `BATCH_LINES_MAX` each.

        Raises Corrupt (ratio) at a run of blank lines that only a bomb has; the lines before stay.
        """
        rest = piece
        while rest:
            # A bounded split: a piece of nothing but 0x0A must not become a million objects in one step.
            raws = rest.split(_NEWLINE, BATCH_LINES_MAX)
            rest = raws.pop()
            if len(raws) < BATCH_LINES_MAX:
                if raws:
                    yield from self._frame(raws)
                self._hold(rest)
                return
            yield from self._frame(raws)

    def finish(self) -> list[Line]:
        """The last piece, if it is not empty: a line without its 0x0A."""
        if not self.has_rest:
            return []
        return [self._numbered(self._joined(b""))]

    def _frame(self, raws: list[bytes]) -> Iterator[list[Line]]:
        if self.has_rest:
            raws[0] = self._joined(raws[0])
        batch: list[Line] = []
        for raw in raws:
            batch.append(self._numbered(raw))
            if self._blanks > BLANK_RUN_MAX:
                batch.pop()
                self.lines -= 1
                if batch:
                    yield batch
                raise Corrupt(Reason.RATIO, f"more than {BLANK_RUN_MAX:,} blank lines running")
        yield batch

    def _numbered(self, raw: bytes) -> Line:
        ordinal = self.lines
        self.lines += 1
        if self._oversized or len(raw) > self._line_bytes_max:
            self._oversized = False
            self._blanks = 0
            return Line(ordinal, b"", oversized=True)
        self._blanks = self._blanks + 1 if not raw or raw.isspace() else 0
        return Line(ordinal, raw)

    def _hold(self, piece: bytes) -> None:
        if not piece or self._oversized:
            return
        self._held_bytes += len(piece)
        if self._held_bytes > self._line_bytes_max:
            self._oversized = True
            self._parts.clear()
            self._held_bytes = 0
        else:
            self._parts.append(piece)

    def _joined(self, last: bytes) -> bytes:
        """The held bytes and `last` as one; empty if that line is over the limit already."""
        raw = b"" if self._oversized else b"".join((*self._parts, last))
        self._parts.clear()
        self._held_bytes = 0
        return raw


class FirstLine:
    """The identity of a local file: the digest of its first line, in bounded memory, however long that is."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)
        self.complete = False

    def feed(self, piece: bytes) -> bool:
        """Take the next bytes of the object, of which those after the first 0x0A do not matter; true once complete."""
        if not self.complete:
            end = piece.find(_NEWLINE)
            self.complete = end >= 0
            self._digest.update(piece if end < 0 else memoryview(piece)[:end])
        return self.complete

    @property
    def etag(self) -> str:
        """As `first_line_etag` of the first line, or of what there is of it."""
        return self._digest.hexdigest()
