"""Checksums of the ledger's pages: SQLite keeps none in its file, and a changed byte would lose or double rows unseen.

The file changes only when its log is folded into it (a checkpoint), and only this module does that: first the pages,
then their sums, both synced, then the log is emptied. So at a start each page has its sum or is in the log, which has
checksums of its own.
"""

import os
import sqlite3
import struct
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.ledger.folder import sync_folder

_LOG_BYTES_MAX = 16 << 20
_READ_BYTES = 4 << 20
_head = struct.Struct(
    "<8sIII"
)  # magic, bytes of a page, whether the log was folded in at the end, sum of the table
_MAGIC = b"MIRASUM1"
_log_head = struct.Struct(">4s4xI4x8s8x")  # magic, bytes of a page, salts
_log_frame = struct.Struct(">I4x8s8x")  # page, salts
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


class _Table(msgspec.Struct):
    """The sums of pages 1, 2, …; `ended`: nothing was left in the log."""

    page_bytes: int
    ended: bool
    sums: "array[int]"


class PageSums:
    """The sums beside one ledger file.

    Args:
        path: of the ledger.
        file: its descriptor, opened before SQLite opens it and closed after: to close it in between would drop the
            locks that SQLite has on the file.
    """

    def __init__(self, path: Path, file: int) -> None:
        self._path = path.with_name(f"{path.name}-sums")
        self._log = path.with_name(f"{path.name}-wal")
        self._file = file
        self._table = _Table(0, ended=False, sums=array("I"))
        self._damaged: int | None = None
        self._compared = self._compare()

    def _compare(self) -> bool:
        """Compare all pages; whether that can be done.

        It cannot where there are no sums, or somebody else folded the log in.
        """
        table = self._load()
        size = os.fstat(self._file).st_size
        if table is None or size == 0 or not (table.ended or self._log.exists()):
            return False
        in_log = set(self._logged(table.page_bytes))
        for number, found in enumerate(self._sums_of_all(table.page_bytes, len(table.sums)), 1):
            if found != table.sums[number - 1] and number not in in_log:
                self._damaged = number
                break
        self._table = table
        return True

    def is_checked(self) -> bool:
        """Whether every page was as it was written when this was made. Raises sqlite3.DatabaseError if one was not."""
        if self._damaged is not None:
            raise sqlite3.DatabaseError(f"page {self._damaged} is not as it was written")
        return self._compared

    def begin(self, db: sqlite3.Connection) -> None:
        """SQLite has the file open, and it is sound. Without sums to go on from all are made."""
        if self._compared:
            self._save(ended=False)
            return
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        self._table = _Table(page_bytes, ended=False, sums=array("I"))
        self._path.unlink(missing_ok=True)
        self.fold(db)

    def fold_if_due(self, db: sqlite3.Connection) -> None:
        """After a commit: keep the log short. A disk that is too full for this says so at a commit."""
        with suppress(sqlite3.OperationalError, OSError):
            if self._log.stat().st_size >= _LOG_BYTES_MAX:
                self.fold(db)

    def fold(self, db: sqlite3.Connection, *, ended: bool = False) -> bool:
        """Fold the log into the file, sum what changed, and empty the log; False if somebody still reads the log."""
        busy, frames, folded = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy or frames != folded:
            return False
        self._sum(self._logged(self._table.page_bytes))
        self._save(ended=ended)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return True

    def end(self, db: sqlite3.Connection) -> None:
        """Before SQLite closes the file, and folds in what is left: sums that do not know of that are dropped."""
        done = False
        with suppress(sqlite3.OperationalError, OSError):
            done = self.fold(db, ended=True)
        if not done:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _sum(self, pages: Iterable[int]) -> None:
        sums, size = self._table.sums, self._table.page_bytes
        count, before = os.fstat(self._file).st_size // size, len(sums)
        sums.extend([0] * (count - before))
        del sums[count:]
        # Those that are new and not in the log too: SQLite leaves one page unused at 1 GiB.
        for number in {*pages, *range(before + 1, count + 1)}:
            if number <= count:
                sums[number - 1] = crc32(os.pread(self._file, size, (number - 1) * size))

    def _sums_of_all(self, page_bytes: int, count: int) -> Iterator[int]:
        """Of `count` pages from the first; of nothing where the file is too short."""
        at_once = max(1, _READ_BYTES // page_bytes) * page_bytes
        for start in range(0, count * page_bytes, at_once):
            data = memoryview(os.pread(self._file, at_once, start))
            for at in range(0, min(at_once, count * page_bytes - start), page_bytes):
                yield crc32(data[at : at + page_bytes])

    def _logged(self, page_bytes: int) -> Iterator[int]:
        """The pages in the log, some of them more than once."""
        try:
            log = self._log.open("rb")
        except FileNotFoundError:
            return
        with log:
            head = log.read(_log_head.size)
            if len(head) < _log_head.size:
                return
            magic, size, salts = _log_head.unpack(head)
            if magic not in _LOG_MAGIC or size != page_bytes:
                return
            while len(frame := log.read(_log_frame.size)) == _log_frame.size:
                page, found = _log_frame.unpack(frame)
                if found != salts:
                    return
                yield page
                log.seek(size, os.SEEK_CUR)

    # The file of sums.

    def _load(self) -> _Table | None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        if len(data) < _head.size or len(data) % 4:
            return None
        magic, page_bytes, ended, of_table = _head.unpack_from(data)
        rest = data[_head.size :]
        if magic != _MAGIC or page_bytes < 512 or crc32(rest, page_bytes + ended) != of_table:
            return None
        return _Table(page_bytes, bool(ended), array("I", rest))

    def _save(self, *, ended: bool) -> None:
        """Whole and synced, or as before."""
        rest = self._table.sums.tobytes()
        page_bytes = self._table.page_bytes
        part = self._path.with_name(f"{self._path.name}.tmp")
        with part.open("wb") as file:
            file.write(_head.pack(_MAGIC, page_bytes, ended, crc32(rest, page_bytes + ended)) + rest)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync_folder(self._path.parent)


@contextmanager
def page_sums(path: Path) -> Iterator[PageSums]:
    """The sums of the ledger at `path`, which is made if absent; to be entered before SQLite opens it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except IsADirectoryError:
        hint = "give ledger.path the name of a file, in a folder that is writable for this user"
        raise Refusal(f"the ledger {path} cannot be written: it is a folder", hint) from None
    try:
        yield PageSums(path, file)
    finally:
        os.close(file)
