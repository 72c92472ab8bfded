"""When a chain is due for a checkpoint: soon enough that a lake may let old segments expire."""

from collections.abc import Mapping
from math import inf

from mira_stream.control.known import Chain


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


class Coverage:
    """How far the checkpoints of our chains are behind; `now` is seconds since the epoch, as the ages of files are.

    Args:
        segments_max: most segments of a chain that no checkpoint covers.
        seconds_max: most seconds that a segment stays uncovered.
    """

    def __init__(self, *, segments_max: int, seconds_max: float) -> None:
        self._segments_max = segments_max
        self._seconds_max = seconds_max
        self._reaches: dict[str, _Reach] = {}

    def __repr__(self) -> str:
        return f"Coverage({len(self._reaches)} chains)"

    def begin(self, chains: Mapping[str, Chain]) -> None:
        """What the sink has at the start."""
        for partition, chain in chains.items():
            self._reaches[partition] = _Reach(chain.checkpoint, chain.end - 1, chain.since)

    def published(self, partition: str, seq: int, now: float) -> None:
        """A segment is confirmed, ours or a rival's."""
        reach = self._reaches.setdefault(partition, _Reach(-1, -1, now))
        if not reach.open_segments:
            reach.since = now
        reach.last = max(reach.last, seq)

    def covered(self, partition: str, seq: int, now: float) -> None:
        """There is a checkpoint at `seq`."""
        reach = self._reaches.setdefault(partition, _Reach(-1, -1, now))
        reach.covered = max(reach.covered, seq)
        reach.last = max(reach.last, seq)
        reach.since = now

    def forget(self, partition: str) -> None:
        """Its chain is broken: nothing may be derived from it."""
        self._reaches.pop(partition, None)

    def due(self, now: float) -> tuple[str, int] | None:
        """A partition that is due, and the last segment that its checkpoint is to cover."""
        for partition, reach in self._reaches.items():
            too_old = reach.open_segments and now - reach.since >= self._seconds_max
            if too_old or reach.open_segments >= self._segments_max:
                return partition, reach.last
        return None

    def seconds_to_next(self, now: float) -> float:
        """How long until age alone makes one due, at least 0; infinite if there is nothing to cover."""
        since = (reach.since for reach in self._reaches.values() if reach.open_segments)
        return max(0.0, min(since, default=inf) + self._seconds_max - now)
