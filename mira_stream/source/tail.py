"""The live source: discovery by listing, and reading of single objects, over any store."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import TypeVar

import structlog

from mira_stream.core.errors import Denied, Elsewhere, MiraStreamError, Missing, Overwritten
from mira_stream.core.naming import SourceNaming
from mira_stream.core.record import ObjectVersion
from mira_stream.core.sight import Beside, LineBatch, ObjectEnd, Prefix, SeenObject, StoredObject, change_of
from mira_stream.ports import Known, ObjectStore
from mira_stream.source.listing import ListingPlan
from mira_stream.source.local_file import LocalFile, is_other_file, was_written_since
from mira_stream.source.local_store import LocalStore
from mira_stream.source.names import NameFilter
from mira_stream.source.reading import Damaged, LocalReading, ObjectReading, Reread, identity, whole_identity
from mira_stream.source.settings import SourceSettings
from mira_stream.source.store_settings import OnRefused, ignore_refused

T = TypeVar("T")
_log = structlog.get_logger(__name__)
RANGE_BYTES = 8 << 20
_TOLD_MAX = 1_000
_DIGITS = re.compile(r"[0-9]+")
_CODEC = re.compile(r"\.(gz|zst|zstd)$")


class TailSource:
    """Follows the objects of one store.

    Args:
        store: where they are; of a `LocalStore` files may grow, in all others objects only are replaced.
        settings: `[source]`.
        naming: which source an object belongs to.
        wall_clock: seconds since the epoch, to be compared with the times of files.
        executor: where bytes are decompressed and local files read; default: one of its own, see `close`.
        on_ignored: told, per listing, why and how many names are no objects: `name`, `hidden`, `temporary`,
            `unsettled` (a local file without a complete line), `denied` (one that we may not read), `no_etag`.
    """

    def __init__(
        self,
        store: ObjectStore,
        settings: SourceSettings,
        naming: SourceNaming,
        *,
        wall_clock: Callable[[], float],
        executor: Executor | None = None,
        on_ignored: OnRefused = ignore_refused,
    ) -> None:
        self._store = store
        self._settings = settings
        self._naming = naming
        self._wall_clock = wall_clock
        self._owned = None if executor else ThreadPoolExecutor(settings.open_objects_max + 1, "source")
        self._executor = executor or self._owned
        self._on_ignored = on_ignored
        self._filter = NameFilter(settings.include)
        self._denied: list[tuple[str, Denied]] = []
        self._told_denied: set[str] = set()
        # A local file that grows or is replaced keeps its place in the order: only full listings see it.
        self._plan = ListingPlan(settings.full_list_seconds, is_sorted=not isinstance(store, LocalStore))

    def __repr__(self) -> str:
        order = "sorted" if self._plan.is_sorted else "unsorted"
        return f"TailSource({self._store.uri}, {order})"

    async def discover(
        self, *, known: Known, newest: Callable[[str], Sequence[str]] = lambda _: ()
    ) -> AsyncIterator[Sequence[SeenObject]]:
        """One pass, page by page as the store sends them: a full listing, or between two of them what is newer; what
        is newer than all that was known at the start comes before the first full listing."""
        now = self._wall_clock()
        full = self._plan.is_full(now)
        if self._plan.is_first:
            self._plan.resume(uri.removeprefix(f"{self._store.uri}/") for uri in newest(self._store.uri))
        for prefix, after in self._plan.requests(full=full):
            self._plan.begin()
            async for page in self._store.list(prefix, after):
                seen = await self._seen(page, known)
                if seen:
                    yield seen
        self._plan.done(now, full=full)

    async def read(
        self, version: ObjectVersion, *, once: bool, prefix: Prefix | None = None
    ) -> AsyncGenerator[LineBatch, None]:
        """The lines of that version. `once` changes nothing here: an unsettled tail is left unread either way."""
        del once
        key = version.uri.removeprefix(f"{self._store.uri}/")
        if key == version.uri:
            raise Elsewhere(f"{version.uri} is not below {self._store.uri}")
        if isinstance(self._store, LocalStore):
            reading = self._read_local(self._store, key, version.etag, prefix)
        else:
            reading = self._read_remote(key, version.etag)
        async with aclosing(reading) as batches:
            async for batch in batches:
                yield batch

    async def check(self) -> None:
        """One page of a listing."""
        async for _ in self._store.list():
            return

    def source_of(self, uri: str) -> str | None:
        """The source of the object at `uri`, which need not exist; None if none of this store's objects can be there."""
        key = uri.removeprefix(f"{self._store.uri}/")
        if key == uri or {"", ".", ".."} & set(key.split("/")) or self._filter.refuses(key):
            return None
        return self._naming.of_key(key)

    def close(self) -> None:
        """End the threads of its own executor; idempotent."""
        if self._owned is not None:
            self._owned.shutdown(wait=False, cancel_futures=True)

    async def _seen(self, page: Sequence[StoredObject], known: Known) -> list[SeenObject]:
        entries = [entry for entry in page if self._is_object(entry)]
        marks = known([self._uri(entry.key) for entry in entries])
        changed = [entry for entry in entries if marks.get(self._uri(entry.key)) != entry.etag]
        if isinstance(self._store, LocalStore) and changed:
            store = self._store
            etags: list[str | None] = await self._run(
                lambda: [self._identity(store, entry) for entry in changed]
            )
        else:
            etags = [entry.etag for entry in changed]
        if unsettled := etags.count(None):
            self._on_ignored("unsettled", unsettled)
        self._tell_denied()
        found = [(entry, etag) for entry, etag in zip(changed, etags, strict=True) if etag]
        beside = await self._beside([entry for entry, _ in found], marks)
        return [self._seen_object(entry, etag, beside.get(entry.key, ())) for entry, etag in found]

    async def _beside(
        self, entries: Sequence[StoredObject], known: Mapping[str, str]
    ) -> dict[str, tuple[Beside, ...]]:
        """What is kept beside the files whose name another one had."""
        store = self._store
        if not isinstance(store, LocalStore):
            return {}
        marks = [(entry, change_of(known.get(self._uri(entry.key), entry.etag))) for entry in entries]
        others = [(entry.key, mark) for entry, mark in marks if is_other_file(mark, entry.etag)]
        if not others:
            return {}
        return await self._run(
            lambda: {key: self._identities_beside(store, key, mark) for key, mark in others}
        )

    def _identities_beside(self, store: LocalStore, key: str, mark: str) -> tuple[Beside, ...]:
        found: list[Beside] = []
        for other in self._rotated(store, key):
            with other, suppress(MiraStreamError):
                if etag := whole_identity(other, self._settings):
                    shape, is_newer = (
                        _shape(other.key_below(store.root)),
                        was_written_since(mark, other.change),
                    )
                    found.append(Beside(etag, other.change, shape, is_newer))
        return tuple(found)

    def _is_object(self, entry: StoredObject) -> bool:
        self._plan.saw(entry)
        reason = self._filter.refuses(entry.key) or (None if entry.etag else "no_etag")
        if reason:
            self._on_ignored(reason, 1)
        return reason is None

    def _seen_object(self, entry: StoredObject, etag: str, beside: tuple[Beside, ...]) -> SeenObject:
        is_local = isinstance(self._store, LocalStore)
        quiet = not is_local or self._wall_clock() - entry.modified >= self._settings.grow_settle_seconds
        return SeenObject(
            version=ObjectVersion(self._uri(entry.key), etag),
            key=entry.key,
            source=self._naming.of_key(entry.key),
            size=entry.size,
            modified=entry.modified,
            change=entry.etag,
            quiet=quiet,
            beside=beside,
        )

    def _uri(self, key: str) -> str:
        return f"{self._store.uri}/{key}"

    def _identity(self, store: LocalStore, entry: StoredObject) -> str | None:
        """None: not settled enough to have one; empty: gone, or denied to us."""
        try:
            with store.open(entry.key) as file:
                return identity(file, self._settings, now=self._wall_clock())
        except Missing:
            return ""
        except Denied as error:
            self._denied.append((entry.key, error))
            return ""

    def _tell_denied(self) -> None:
        """Each is counted at every listing, and said once; told here, as the receiver need not be thread-safe."""
        denied, self._denied = self._denied, []
        for key, error in denied:
            self._on_ignored("denied", 1)
            if key not in self._told_denied and len(self._told_denied) < _TOLD_MAX:
                self._told_denied.add(key)
                _log.error("a file cannot be read; looked at again at every listing", error=str(error))

    async def _read_local(
        self, store: LocalStore, key: str, etag: str, prefix: Prefix | None
    ) -> AsyncGenerator[LineBatch, None]:
        file, is_rotated = await self._run(lambda: self._open(store, key, etag))
        reading = LocalReading(
            file,
            self._settings,
            etag=etag,
            wall_clock=self._wall_clock,
            reread=Reread(prefix, is_rotated),
        )
        batches = reading.batches()
        while (batch := await self._next(batches)) is not None:
            yield batch

    def _open(self, store: LocalStore, key: str, etag: str) -> tuple[LocalFile, bool]:
        """The file of that version, and whether a rotation has taken its name. Raises Missing."""
        missing: Missing | None = None
        try:
            file = store.open(key)
            if whole_identity(file, self._settings) in (etag, None):
                return file, False
        except Missing as error:
            missing = error
        for other in self._rotated(store, key):
            if whole_identity(other, self._settings) == etag:
                return other, True
            other.close()
        if missing is not None:
            if store.is_empty():
                raise Elsewhere(f"{store.uri} is empty: is its disk mounted?") from missing
            raise missing
        return file, False

    def _rotated(self, store: LocalStore, key: str) -> Iterator[LocalFile]:
        """Files beside the one at `key` that are no objects of their own."""
        return store.beside(key, is_wanted=lambda other: self._filter.refuses(other) == "name")

    async def _read_remote(self, key: str, etag: str) -> AsyncGenerator[LineBatch, None]:
        reading = ObjectReading(self._settings)
        try:
            async for data in self._ranges(key, etag):
                batches = reading.feed(data)
                while (batch := await self._next(batches)) is not None:
                    yield batch
            batches = reading.drain()
            while (batch := await self._next(batches)) is not None:
                yield batch
        except Overwritten:
            yield LineBatch((), end=reading.overwritten("it was overwritten while it was read").end)
        except Damaged as error:
            yield LineBatch((), end=error.end)
        else:
            last = reading.last_line()
            yield LineBatch(last, end=ObjectEnd(reading.lines))

    async def _ranges(self, key: str, etag: str) -> AsyncIterator[bytes]:
        """The object in ranges, each under `If-Match`; a short one is the last."""
        start = 0
        while True:
            data = await self._store.get(key, start=start, end=start + RANGE_BYTES, etag=etag)
            if data:
                yield data
            if len(data) < RANGE_BYTES:
                return
            start += len(data)

    async def _next(self, batches: Iterator[LineBatch]) -> LineBatch | None:
        # One step is at most about 1 MiB of output: milliseconds, beside the loop and not in it.
        return await self._run(lambda: next(batches, None))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _shape(key: str) -> str:
    """A key without what rotations change in it: numbers, dates, and how it is compressed."""
    return _CODEC.sub("", _DIGITS.sub("", key))
