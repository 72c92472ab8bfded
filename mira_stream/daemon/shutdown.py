"""Shutdown in two phases: let requests in flight end, then give them up; a second signal skips the first."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from mira_stream.daemon.notify import Notifier
from mira_stream.pipeline.topology import Pipeline

_log = structlog.get_logger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Turns signals into the two phases of a pipeline's end. All of it runs on the event loop."""

    def __init__(
        self, pipeline: Pipeline, notifier: Notifier, *, drain_seconds: float, cancel_seconds: float
    ) -> None:
        self._pipeline = pipeline
        self._notifier = notifier
        self._drain_seconds = drain_seconds
        self._cancel_seconds = cancel_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.Timeout | None = None
        self._cancelling = False

    @contextmanager
    def handling_signals(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Handle SIGTERM and SIGINT inside the block; `deadline` ends the block when both phases have run out."""
        self._deadline = deadline
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.begin)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            if self._timer is not None:
                self._timer.cancel()

    def begin(self) -> None:
        """The first call drains; the second, or `drain_seconds` later, cancels."""
        if self._pipeline.draining:
            self._cancel()
            return
        _log.info("shutting down: requests in flight may end", drain_seconds=self._drain_seconds)
        self._notifier.stopping()
        self._pipeline.drain()
        self._timer = asyncio.get_running_loop().call_later(self._drain_seconds, self._cancel)

    def _cancel(self) -> None:
        if self._cancelling:
            return
        self._cancelling = True
        if self._timer is not None:
            self._timer.cancel()
        _log.warning(
            "requests in flight are given up; what was received is published", seconds=self._cancel_seconds
        )
        self._pipeline.cancel()
        assert self._deadline is not None
        self._deadline.reschedule(asyncio.get_running_loop().time() + self._cancel_seconds)
