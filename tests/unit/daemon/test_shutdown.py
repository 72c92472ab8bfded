"""The two phases of an end: drain, then cancel, then no more patience; real signals, and nothing left behind."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine

import pytest

from mira_stream.daemon.notify import Notifier
from mira_stream.daemon.shutdown import Shutdown


class Work:
    """What a shutdown needs of a pipeline; it ends by itself at `ends_at`: drain, cancel, or never."""

    def __init__(self, ends_at: str) -> None:
        self.draining = False
        self.events: list[str] = []
        self._ends_at = ends_at
        self._over = asyncio.Event()
        self.begun = asyncio.Event()

    async def run(self) -> None:
        self.begun.set()
        await self._over.wait()

    def drain(self) -> None:
        self.draining = True
        self._happened("drain")

    def cancel(self) -> None:
        self._happened("cancel")

    def _happened(self, event: str) -> None:
        self.events.append(event)
        if event == self._ends_at:
            self._over.set()


Disturb = Callable[[Work, Shutdown], Coroutine[None, None, None]]


def _live(
    ends_at: str, disturb: Disturb, *, drain: float = 60.0, cancel: float = 60.0
) -> tuple[list[str], bool]:
    """Run work until it ends; its events, and whether it had to be cut off."""

    async def run() -> tuple[list[str], bool]:
        work = Work(ends_at)
        shutdown = Shutdown(work, Notifier(""), drain_seconds=drain, cancel_seconds=cancel)
        cut_off = False
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(disturb(work, shutdown))
            try:
                async with asyncio.timeout(None) as deadline:
                    with shutdown.handling_signals(deadline):
                        await work.run()
            except TimeoutError:
                cut_off = True
        return work.events, cut_off

    return asyncio.run(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: signal.Signals) -> None:
    """What is in flight may end; the process goes when it has."""

    async def disturb(work: Work, _: Shutdown) -> None:
        await work.begun.wait()
        os.kill(os.getpid(), number)

    assert _live("drain", disturb) == (["drain"], False)


def test_a_second_signal_cancels_at_once() -> None:
    """It skips the rest of the first phase."""

    async def disturb(work: Work, _: Shutdown) -> None:
        await work.begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while not work.draining:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)

    assert _live("cancel", disturb) == (["drain", "cancel"], False)


def test_the_first_phase_is_bounded() -> None:
    """After `drain_seconds` requests are given up, without another signal."""

    async def disturb(work: Work, shutdown: Shutdown) -> None:
        await work.begun.wait()
        shutdown.begin()

    assert _live("cancel", disturb, drain=0.01) == (["drain", "cancel"], False)


def test_the_second_phase_is_bounded() -> None:
    """A store that does not take what was received cannot hold the process for ever."""

    async def disturb(work: Work, shutdown: Shutdown) -> None:
        await work.begun.wait()
        for _ in range(4):
            shutdown.begin()

    assert _live("never", disturb, cancel=0.02) == (["drain", "cancel"], True)


def test_work_that_ends_by_itself_leaves_no_timer_and_no_handler() -> None:
    """Signals are handled inside the block only."""

    async def disturb(work: Work, shutdown: Shutdown) -> None:
        await work.begun.wait()
        shutdown.begin()

    async def nothing_left() -> None:
        loop = asyncio.get_running_loop()
        assert not loop.remove_signal_handler(signal.SIGTERM)
        assert not loop.remove_signal_handler(signal.SIGINT)

    async def both() -> None:
        work = Work("drain")
        shutdown = Shutdown(work, Notifier(""), drain_seconds=0.01, cancel_seconds=0.01)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(disturb(work, shutdown))
            async with asyncio.timeout(None) as deadline:
                with shutdown.handling_signals(deadline):
                    await work.run()
        await asyncio.sleep(0.03)  # longer than both phases: a timer left behind would fire
        assert work.events == ["drain"]
        await nothing_left()

    asyncio.run(both())
