"""A bounded channel between two stages: bounded by items and by bytes, closable, with its fill to look at."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Nothing will come any more, or may be put any more."""


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
        lock = asyncio.Lock()
        self._filled = asyncio.Condition(lock)
        self._drained = asyncio.Condition(lock)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Bytes of the items inside."""
        return self._bytes

    async def put(self, item: T, size: int) -> None:
        """Wait for room, then put; raises Closed."""
        async with self._drained:
            while not (self._closed or self._has_room(size)):
                await self._drained.wait()
            if self._closed:
                raise Closed
            self._items.append((item, size))
            self._bytes += size
            self._filled.notify()

    async def get(self) -> T:
        """Wait for an item; raises Closed once the channel is closed and empty."""
        return (await self.take(1))[0]

    async def take(self, items_max: int) -> list[T]:
        """Wait for at least one item, then take what is there, up to `items_max`; raises Closed like `get`."""
        async with self._filled:
            while not (self._closed or self._items):
                await self._filled.wait()
            if not self._items:
                raise Closed
            taken: list[T] = []
            while self._items and len(taken) < items_max:
                item, size = self._items.popleft()
                self._bytes -= size
                taken.append(item)
            self._drained.notify_all()
            if self._items:
                self._filled.notify()
            return taken

    async def close(self) -> None:
        """Refuse further items; what is inside can still be taken. Idempotent."""
        async with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._drained.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self.items_max and self._bytes + size <= self.bytes_max
