"""Where a fresh look at a replica might let a record go: asked for by the dispatcher, waited for by the watcher."""

import asyncio
from collections.abc import Iterable

from mira_stream.control.admission import PoolControl


class WantedLooks:
    """One event per replica of a pool."""

    def __init__(self, control: PoolControl, replicas: Iterable[str]) -> None:
        self._control = control
        self._events = {name: asyncio.Event() for name in replicas}

    def add(self, replica: str) -> None:
        """A replica has come, or stays."""
        self._events.setdefault(replica, asyncio.Event())

    def drop(self, replica: str) -> None:
        """A replica has left; who waits for it goes on."""
        self._events.pop(replica).set()

    def update(self) -> None:
        """Nothing can be sent now: ask for those looks that might change it."""
        for name, wanted in self._events.items():
            if self._control.wants_look(name):
                wanted.set()
            else:
                wanted.clear()

    async def wait(self, replica: str, seconds: float) -> None:
        """Wait until a look at the replica is wanted, at most so long."""
        if (wanted := self._events.get(replica)) is not None:
            await set_within(wanted, seconds)
            wanted.clear()  # it is asked for anew, where it is still wanted after the look


async def set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Wait until the event is set, at most so long if not None."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
