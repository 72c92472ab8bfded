"""An object store in memory that passes the contract of `ports.ObjectStore`, and one that misbehaves on demand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from hashlib import blake2b

from mira_stream.core.errors import AlreadyExists, Missing, Overwritten
from mira_stream.core.sight import StoredObject
from mira_stream.ports import ObjectStore


class MemoryStore:
    """Keys and bytes in a dict. `put`, `objects` and `modified` (of all) are for tests that play the rest of the world."""

    def __init__(self, uri: str = "s3://lake/scores", *, page: int = 3) -> None:
        self.uri = uri
        self.objects: dict[str, bytes] = {}
        self.modified = time.time()
        self._page = page

    def put(self, key: str, data: bytes) -> None:
        """Overwrite, as somebody else would."""
        self.objects[key] = data

    async def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        keys = [k for k in self.objects if self._under(k, prefix) and (after is None or k > after)]
        keys.sort(reverse=True)  # order is not promised
        for start in range(0, len(keys), self._page):
            await asyncio.sleep(0)
            page = [self._entry(key) for key in keys[start : start + self._page] if key in self.objects]
            yield page

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        await asyncio.sleep(0)
        if key not in self.objects:
            raise Missing(f"{self.uri}/{key} is gone")
        if etag is not None and etag != self._entry(key).etag:
            raise Overwritten(f"{self.uri}/{key} was overwritten")
        return self.objects[key][start:end]

    async def head(self, key: str) -> StoredObject | None:
        await asyncio.sleep(0)
        return self._entry(key) if key in self.objects else None

    async def create(self, key: str, data: bytes) -> None:
        await asyncio.sleep(0)
        if key in self.objects:
            raise AlreadyExists(f"{self.uri}/{key} is there")
        self.objects[key] = bytes(data)

    async def settle(self) -> None:
        """A memory loses all or nothing."""

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        self.objects.pop(key, None)

    def _entry(self, key: str) -> StoredObject:
        data = self.objects[key]
        return StoredObject(key, blake2b(data, digest_size=16).hexdigest(), len(data), self.modified)

    @staticmethod
    def _under(key: str, prefix: str) -> bool:
        prefix = prefix.rstrip("/")
        return not prefix or key == prefix or key.startswith(prefix + "/")


Fault = Callable[[], None] | None


class FaultyStore:
    """Passes calls on to `inner`, with planned trouble.

    Args:
        before: for the nth `create`, called before it reaches `inner` (raise to lose the request); None: nothing.
        after: for the nth `create`, called after it has landed (raise to lose the answer).
        reads: for the nth `head` or `get`, called before it.
        stall: the numbers (from 0) of the creates that land and are never answered.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        before: Iterable[Fault] = (),
        after: Iterable[Fault] = (),
        reads: Iterable[Fault] = (),
        stall: Iterable[int] = (),
    ) -> None:
        self.inner = inner
        self.creates = 0
        self._before, self._after, self._reads = iter(before), iter(after), iter(reads)
        self._stall = frozenset(stall)

    @property
    def uri(self) -> str:
        return self.inner.uri

    def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        return self.inner.list(prefix, after)

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        _call(next(self._reads, None))
        return await self.inner.get(key, start=start, end=end, etag=etag)

    async def head(self, key: str) -> StoredObject | None:
        _call(next(self._reads, None))
        return await self.inner.head(key)

    async def create(self, key: str, data: bytes) -> None:
        number, self.creates = self.creates, self.creates + 1
        _call(next(self._before, None))
        await self.inner.create(key, data)
        if number in self._stall:
            await asyncio.Event().wait()
        _call(next(self._after, None))

    async def settle(self) -> None:
        await self.inner.settle()

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)


def failing(error: Exception) -> Callable[[], None]:
    """A fault that raises `error`."""

    def fail() -> None:
        raise error

    return fail


def _call(fault: Fault) -> None:
    if fault is not None:
        fault()
