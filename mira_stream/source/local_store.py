"""Local folders as an object store: durable create-if-absent by link(), listings that never follow links."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mira_stream.core.errors import Missing, Overwritten
from mira_stream.ports import StoredObject
from mira_stream.source.durable import TEMP_PREFIX, create_durably
from mira_stream.source.local_file import LocalFile, change_mark, operating_errors
from mira_stream.source.store import OnRefused, ignore_refused

T = TypeVar("T")
_PAGE = 1000
_THREADS = 4


class LocalStore:
    """A folder. It is created when the first object is; until then it is empty.

    `etag` of an entry is its change mark (device, inode, mtime, size).
    """

    def __init__(
        self, root: Path, *, on_refused: OnRefused = ignore_refused, executor: Executor | None = None
    ) -> None:
        # The real path, once: two spellings of one folder must not give two identities to one file.
        self.root = os.path.realpath(root)
        self._on_refused = on_refused
        self._executor = executor or ThreadPoolExecutor(_THREADS, thread_name_prefix="local-store")

    def __repr__(self) -> str:
        return f"LocalStore({self.uri})"

    @property
    def uri(self) -> str:
        """`file://` and the real path."""
        return f"file://{self.root}"

    async def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        """Pages of regular files, in the order of the file system; memory grows with the depth, not with names."""
        entries = self._walk(prefix.rstrip("/"))
        while page := await self._run(lambda: list(islice(entries, _PAGE))):
            kept = [entry for entry in page if after is None or entry.key > after]
            if kept:
                yield kept

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        """Open once, so that the bytes and the mark are of the same file."""
        return await self._run(lambda: self._get(key, start, end, etag))

    async def head(self, key: str) -> StoredObject | None:
        """The entry of a regular file."""
        return await self._run(lambda: self._head(key))

    async def create(self, key: str, data: bytes) -> None:
        """Write beside the final name, sync, link, sync the folder."""
        await self._run(lambda: create_durably(self.path(key), data))

    async def delete(self, key: str) -> None:
        """Unlink."""
        await self._run(lambda: self._delete(key))

    def path(self, key: str) -> str:
        """Where the object is. Keys come from listings and layouts, never from outside."""
        assert not {"", ".", ".."} & set(key.split("/")), f"not a key: {key!r}"
        return f"{self.root.rstrip('/')}/{key}"

    def open(self, key: str) -> LocalFile:
        """A handle that stays on one file whatever happens to its name; blocking. Raises Missing."""
        return LocalFile(self.path(key))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _get(self, key: str, start: int, end: int | None, etag: str | None) -> bytes:
        with self.open(key) as file:
            if etag is not None and etag != file.change:
                raise Overwritten(f"{self.uri}/{key} has changed")
            return file.read(start, file.size if end is None else end)

    def _head(self, key: str) -> StoredObject | None:
        try:
            with self.open(key) as file:
                return StoredObject(key, file.change, file.size, file.modified)
        except Missing:
            return None

    def _delete(self, key: str) -> None:
        with operating_errors(f"delete {self.uri}/{key}"):
            Path(self.path(key)).unlink(missing_ok=True)

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        with operating_errors(f"list {self.uri}"):
            try:
                folders = [os.scandir(self.path(prefix) if prefix else self.root)]
            except (FileNotFoundError, NotADirectoryError):
                return
            yield from self._entries(folders)

    def _entries(self, folders: list["os.ScandirIterator[str]"]) -> Iterator[StoredObject]:
        """Depth first with open folders: a folder of a million names is never held as a list."""
        base = len(self.root.rstrip("/")) + 1
        try:
            while folders:
                entry = next(folders[-1], None)
                if entry is None:
                    folders.pop().close()
                elif (reason := refused_name(entry)) is not None:
                    self._on_refused(reason, 1)
                elif entry.is_dir(follow_symlinks=False):
                    self._enter(entry, folders)
                elif not entry.name.startswith(TEMP_PREFIX):
                    yield from self._entry(entry, entry.path[base:])
        finally:
            for folder in folders:
                folder.close()

    def _enter(self, entry: "os.DirEntry[str]", folders: list["os.ScandirIterator[str]"]) -> None:
        try:
            folders.append(os.scandir(entry.path))
        except FileNotFoundError:
            return  # removed since its parent was read

    def _entry(self, entry: "os.DirEntry[str]", key: str) -> Iterator[StoredObject]:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            yield StoredObject(key, change_mark(status), status.st_size, status.st_mtime)
        else:
            self._on_refused("special", 1)


def refused_name(entry: "os.DirEntry[str]") -> str | None:
    """Why an entry can be neither an object nor a folder of objects; None if it can.

    A link is never followed: what it points to inside the folder is listed under its real path, what is outside is
    not ours, and loops end here.
    """
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "not_utf8"
    return "link" if entry.is_symlink() else None
