"""Local folders as an object store: durable create-if-absent by link(), listings that never follow links."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mira_stream.core.errors import MiraStreamError, Missing, Overwritten
from mira_stream.core.sight import StoredObject
from mira_stream.source.durable import create_durably, settle
from mira_stream.source.local_file import LocalFile, operating_errors
from mira_stream.source.store_settings import OnRefused, ignore_refused
from mira_stream.source.walk import walk

T = TypeVar("T")
# Small enough that the work on one page does not stall the event loop.
_PAGE = 250
_THREADS = 4
_BESIDE_MAX = 1_000


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
        prefix = prefix.rstrip("/")
        top = self.path(prefix) if prefix else self.root
        refused: Counter[str] = Counter()
        entries = walk(self.root, top, refused=refused)
        while page := await self._run(lambda: list(islice(entries, _PAGE))):
            self._tell(refused)
            kept = [entry for entry in page if after is None or entry.key > after]
            if kept:
                yield kept
        self._tell(refused)

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        """Open once, so that the bytes and the mark are of the same file."""
        return await self._run(lambda: self._get(key, start, end, etag))

    async def head(self, key: str) -> StoredObject | None:
        """The entry of a regular file."""
        return await self._run(lambda: self._head(key))

    async def create(self, key: str, data: bytes) -> None:
        """Write beside the final name, sync, link, sync the folders."""
        await self._run(lambda: create_durably(self.path(key), data, root=self.root))

    async def settle(self) -> None:
        """Sync every folder: one that gave a name to a file may have died before it synced that."""
        await self._run(lambda: settle(self.root))

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

    def beside(self, key: str, *, is_wanted: Callable[[str], bool]) -> Iterator[LocalFile]:
        """What rotations may have made of the file at `key`: files of its folder that begin with its name up to the
        first dot, the newest first, one after another open, of those whose keys are wanted; blocking."""
        path = Path(self.path(key))
        stem = path.name.partition(".")[0]
        try:
            with os.scandir(path.parent) as entries:
                names = [e.path for e in entries if e.name.startswith(stem) and e.path != str(path)]
        except OSError:
            return
        top = f"{self.root.rstrip('/')}/"
        wanted = [name for name in names if is_wanted(name.removeprefix(top))]
        for name in sorted(wanted, key=_modified, reverse=True)[:_BESIDE_MAX]:
            with suppress(MiraStreamError):
                yield LocalFile(name)

    def is_empty(self) -> bool:
        """Whether nothing at all is there, as while its disk is not mounted; blocking."""
        try:
            with os.scandir(self.root) as entries:
                return next(entries, None) is None
        except OSError:
            return True

    def _tell(self, refused: Counter[str]) -> None:
        # Collected by the thread that walks, told in the loop: the receiver need not be thread-safe.
        for reason, names in refused.items():
            self._on_refused(reason, names)
        refused.clear()

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


def _modified(path: str) -> float:
    try:
        return Path(path).lstat().st_mtime
    except OSError:
        return 0.0
