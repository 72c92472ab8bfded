"""One local file held open, and the translation of the operating system's errors."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mira_stream.core.errors import AlreadyExists, Denied, Missing, Saturated, Transient, TransientKind

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


def change_mark(status: os.stat_result) -> str:
    """`device:inode:mtime_ns:size`: tells one sight of a file from the next, and is never an identity."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"


@contextmanager
def operating_errors(doing: str) -> Iterator[None]:
    """Translate OSError into the errors of this package."""
    try:
        yield
    except OSError as error:
        problem = f"cannot {doing}: {error.strerror or error}"
        if error.errno in _GONE:
            raise Missing(problem) from error
        if error.errno == errno.EEXIST:
            raise AlreadyExists(problem) from error
        if error.errno in _FULL:
            raise Saturated(f"{problem}: make room; it is tried again until there is some") from error
        if error.errno in _FORBIDDEN:
            raise Denied(problem, "give the user of this process access to it") from error
        raise Transient(TransientKind.SERVER, problem) from error


def is_other_file(before: str, now: str) -> bool:
    """Whether two change marks of one name are of two files, or of one that was cut."""
    old, new = before.split(":"), now.split(":")
    return old[:2] != new[:2] or int(new[3]) < int(old[3])


def was_written_since(before: str, now: str) -> bool:
    """Whether the file of the mark `now` was written to after the sight of another one that gave the mark `before`."""
    return int(now.split(":")[2]) >= int(before.split(":")[2])


class LocalFile:
    """A regular file held open for reading; what it says is of that file, even after its name went to another."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        with operating_errors(f"read {path}"):
            # Without O_NONBLOCK a FIFO that took the name would hang the reader.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            self._status = os.fstat(self._fd)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise Missing(f"{path} is no file any more")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def key_below(self, root: str) -> str:
        """Its key in a store."""
        return self._path.removeprefix(f"{root.rstrip('/')}/")

    @property
    def change(self) -> str:
        """The change mark at the last look."""
        return change_mark(self._status)

    @property
    def size(self) -> int:
        """Bytes at the last look."""
        return self._status.st_size

    @property
    def modified(self) -> float:
        """Seconds since the epoch, at the last look."""
        return self._status.st_mtime

    def look(self) -> None:
        """Ask the file system again."""
        with operating_errors(f"read {self._path}"):
            self._status = os.fstat(self._fd)

    def is_current(self) -> bool:
        """Whether the name still belongs to this file (else it was renamed, deleted or replaced)."""
        try:
            status = Path(self._path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_dev, status.st_ino) == (self._status.st_dev, self._status.st_ino)

    def read(self, start: int, end: int) -> bytes:
        """The bytes `[start, end)`, fewer only at the end of the file."""
        parts: list[bytes] = []
        with operating_errors(f"read {self._path}"):
            while start < end and (part := os.pread(self._fd, end - start, start)):
                parts.append(part)
                start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
