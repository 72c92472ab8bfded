"""When the checkpoints of our chains are written: soon enough that a lake may let old segments expire."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from mira_stream.control.known import Chain
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.ports import Clock, Sink
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_LOOK_SECONDS_MAX = 600.0  # clocks are set: what is due by the wall clock is looked at again

OnBroken = Callable[[str, str], None]
"""Told of a partition whose chain cannot be gone on with, and why."""


class _Reach:
    """How far one chain is, and how far its checkpoint; `since`: when the first segment above that was written."""

    __slots__ = ("covered", "last", "since")

    def __init__(self, covered: int, last: int, since: float) -> None:
        self.covered = covered
        self.last = last
        self.since = since

    @property
    def open_segments(self) -> int:
        return self.last - self.covered


class Checkpoints:
    """Writes a checkpoint when `segments` of a chain are not covered, or the oldest of them is `seconds` old.

    Args:
        sink: where chains and checkpoints are.
        segments: most segments that no checkpoint covers.
        seconds: most seconds that a segment stays uncovered, while this runs.
        wall: seconds since the epoch: what counts is the age of files, also across restarts.
        meters: counts what is written.
        on_broken: called with a partition whose chain lacks a segment, or has a damaged one; it is then left alone.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        segments: int,
        seconds: float,
        wall: Clock,
        meters: Meters,
        on_broken: OnBroken,
    ) -> None:
        self._sink = sink
        self._segments = segments
        self._seconds = seconds
        self._wall = wall
        self._meters = meters
        self._on_broken = on_broken
        self._reaches: dict[str, _Reach] = {}
        self._changed = asyncio.Event()

    def begin(self, chains: Mapping[str, Chain]) -> None:
        """What the sink has at the start."""
        for partition, chain in chains.items():
            self._reaches[partition] = _Reach(chain.checkpoint, chain.end - 1, chain.since)

    def published(self, partition: str, seq: int) -> None:
        """A segment is confirmed, ours or a rival's."""
        reach = self._reaches.setdefault(partition, _Reach(-1, -1, self._wall()))
        if not reach.open_segments:
            reach.since = self._wall()
        reach.last = max(reach.last, seq)
        self._changed.set()

    def covered(self, partition: str, seq: int) -> None:
        """There is a checkpoint at `seq`."""
        reach = self._reaches.setdefault(partition, _Reach(-1, -1, self._wall()))
        reach.covered = max(reach.covered, seq)
        reach.last = max(reach.last, seq)
        reach.since = self._wall()

    def forget(self, partition: str) -> None:
        """Its chain is broken: nothing may be derived from it."""
        self._reaches.pop(partition, None)

    async def run(self) -> None:
        """Write what is due, one at a time, for ever; cancelled at any point it leaves nothing half done."""
        while True:
            self._changed.clear()
            await self.write_due()
            try:
                async with asyncio.timeout(self._seconds_to_next()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def write_due(self) -> None:
        """Write what is due by now."""
        while (partition := self._due()) is not None:
            await self._write(partition, self._reaches[partition].last)

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

    def _due(self) -> str | None:
        now = self._wall()
        for partition, reach in self._reaches.items():
            if reach.open_segments >= self._segments:
                return partition
            if reach.open_segments and now - reach.since >= self._seconds:
                return partition
        return None

    def _seconds_to_next(self) -> float:
        now = self._wall()
        waits = (reach.since + self._seconds - now for reach in self._reaches.values() if reach.open_segments)
        return min(max(0.0, min(waits, default=_LOOK_SECONDS_MAX)), _LOOK_SECONDS_MAX)
