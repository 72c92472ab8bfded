"""Writes the checkpoints of our chains when they are due."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from mira_stream.control.coverage import Coverage
from mira_stream.control.known import Chain
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.ports import Clock, Sink
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_LOOK_SECONDS_MAX = 600.0  # clocks are set: what is due by the wall clock is looked at again

OnBroken = Callable[[str, str], None]
"""Told of a partition whose chain cannot be gone on with, and why."""


class Checkpoints:
    """Acts on `Coverage`.

    Args:
        sink: where chains and checkpoints are.
        coverage: decides what is due.
        wall: seconds since the epoch: what counts is the age of files, also across restarts.
        meters: counts what is written.
        on_broken: called with a partition whose chain lacks a segment, or has a damaged one; it is then left alone.
    """

    def __init__(
        self, sink: Sink, coverage: Coverage, *, wall: Clock, meters: Meters, on_broken: OnBroken
    ) -> None:
        self._sink = sink
        self._coverage = coverage
        self._wall = wall
        self._meters = meters
        self._on_broken = on_broken
        self._changed = asyncio.Event()

    def begin(self, chains: Mapping[str, Chain]) -> None:
        """What the sink has at the start."""
        self._coverage.begin(chains)

    def published(self, partition: str, seq: int) -> None:
        """A segment is confirmed, ours or a rival's."""
        self._coverage.published(partition, seq, self._wall())
        self._changed.set()

    def covered(self, partition: str, seq: int) -> None:
        """There is a checkpoint at `seq`."""
        self._coverage.covered(partition, seq, self._wall())

    def forget(self, partition: str) -> None:
        """Its chain is broken: nothing may be derived from it."""
        self._coverage.forget(partition)

    async def run(self) -> None:
        """Write what is due, one at a time, for ever; cancelled at any point it leaves nothing half done."""
        while True:
            self._changed.clear()
            await self.write_due()
            seconds = self._coverage.seconds_to_next(self._wall())
            try:
                async with asyncio.timeout(min(seconds, _LOOK_SECONDS_MAX)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def write_due(self) -> None:
        """Write what is due by now."""
        while (due := self._coverage.due(self._wall())) is not None:
            await self._write(*due)

    async def _write(self, partition: str, seq: int) -> None:
        try:
            await self._sink.write_checkpoint(partition, seq)
        except (Corrupt, Missing) as error:
            self._on_broken(partition, str(error))
            self.forget(partition)
            return
        self.covered(partition, seq)
        self._meters.add(metrics.SINK_CHECKPOINTS)
        _log.info("checkpoint written", partition=partition, seq=seq)
