"""Patience with a store: a call is made again until its answer is known, with growing waits that have a bound."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

from mira_stream.core.errors import Saturated, Transient, TransientKind
from mira_stream.sink.settings import SinkSettings

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Patience:
    """Repeats calls that end in Transient, Saturated or no answer in time; all other errors pass.

    Args:
        settings: the waits and the time a single call may take.
        sleep: waits the given seconds; the only wait between two tries, so cancelling it ends the patience.
        jitter: a number in [0, 1), so that daemons that failed together do not come back together.
        on_retry: told what went wrong before each wait.
        tries_max: after so many tries the last error is raised; None: as long as it takes.
    """

    def __init__(
        self,
        settings: SinkSettings,
        *,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        on_retry: Callable[[str], None] = lambda _: None,
        tries_max: int | None = None,
    ) -> None:
        self._settings = settings
        self._sleep = sleep
        self._jitter = jitter
        self._on_retry = on_retry
        self._tries_max = tries_max

    async def until_known(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of the first call of `call` that gives one."""
        for attempt in count(1):
            try:
                return await call()
            except (Transient, Saturated) as error:
                if attempt == self._tries_max:
                    raise
                self._on_retry(str(error))
                await self._sleep(self._wait_seconds(attempt, error))
        raise AssertionError("count() has no end")

    async def answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of one call; raises Transient if it takes longer than a call may."""
        seconds = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except TimeoutError as error:
            raise Transient(TransientKind.TIMEOUT, f"no answer of the store in {seconds:g} s") from error

    async def fetched(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call that is safe to repeat, each try bounded in time."""
        return await self.until_known(lambda: self.answered(call))

    def _wait_seconds(self, attempt: int, error: Transient | Saturated) -> float:
        most = self._settings.retry_max_seconds
        grown = self._settings.retry_initial_seconds * 2.0 ** min(attempt - 1, 32)
        # Half of the wait is fixed: a jitter near 0 must not turn patience into hammering.
        wait = min(most, grown) * (0.5 + self._jitter() / 2)
        asked = error.retry_after_seconds if isinstance(error, Saturated) else None
        return min(most, max(wait, asked or 0.0))
