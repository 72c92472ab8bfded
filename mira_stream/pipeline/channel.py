"""A bounded channel between two stages: bounded by items and by bytes, closable, with its fill to look at."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Nothing will come any more, or may be put any more."""


class _Queue:
    """Who waits, in order; a lock around it would cost more than all the rest."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Until woken. Who is cancelled after that passes it on."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self.wake()
            elif future in self._waiting:
                self._waiting.remove(future)
            raise

    def wake(self) -> None:
        """Wake the one that has waited longest."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake all."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


class Channel(Generic[T]):
    """First in, first out, on one event loop.

    An item larger than `bytes_max` passes when the channel is empty: the bound holds to within one item. Cancelling a
    `put` or a `get` loses nothing: the item is either inside or still with the caller.
    """

    def __init__(self, *, items_max: int, bytes_max: int) -> None:
        assert items_max >= 1
        assert bytes_max >= 1
        self.items_max = items_max
        self.bytes_max = bytes_max
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._takers = _Queue()
        self._putters = _Queue()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Bytes of the items inside."""
        return self._bytes

    @property
    def is_full(self) -> bool:
        """Whether the next item has to wait."""
        return len(self._items) >= self.items_max or self._bytes >= self.bytes_max

    async def put(self, item: T, size: int) -> None:
        """Wait for room, then put; raises Closed."""
        while not (self._closed or self._has_room(size)):
            await self._putters.wait()
        if self._closed:
            raise Closed
        self._items.append((item, size))
        self._bytes += size
        self._takers.wake()

    async def get(self) -> T:
        """Wait for an item; raises Closed once the channel is closed and empty."""
        return (await self.take(1))[0]

    async def take(self, items_max: int) -> list[T]:
        """Wait for at least one item, then take what is there, up to `items_max`; raises Closed like `get`."""
        while not (self._closed or self._items):
            await self._takers.wait()
        if not self._items:
            raise Closed
        taken: list[T] = []
        while self._items and len(taken) < items_max:
            item, size = self._items.popleft()
            self._bytes -= size
            taken.append(item)
        self._putters.wake_all()
        if self._items:
            self._takers.wake()
        return taken

    async def close(self) -> None:
        """Refuse further items; what is inside can still be taken. Idempotent."""
        self._closed = True
        self._takers.wake_all()
        self._putters.wake_all()

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self.items_max and self._bytes + size <= self.bytes_max
