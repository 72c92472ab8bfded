"""What each partition holds that is received and not published, and which of them are due to be published."""

from collections.abc import Collection, Iterable, Iterator

from mira_stream.control.known import Backlog
from mira_stream.control.sealing import RollLimits
from mira_stream.ports import Clock


class _Fill:
    """One partition: its rows, their bytes, and since when they wait."""

    __slots__ = ("bytes", "rows", "since")

    def __init__(self, since: float) -> None:
        self.rows = 0
        self.bytes = 0
        self.since = since


class Fills:
    """Counts only: the rows themselves are in the ledger. `rows` and `bytes` are the sums over all partitions.

    A partition is due when it is full or its rows have waited for `roll_seconds`. One of which nothing could be sealed
    is not full until a row comes or another partition has been published: asking again at once would answer the same.
    """

    def __init__(self, roll: RollLimits, *, roll_seconds: float, clock: Clock) -> None:
        self._roll = roll
        self._roll_seconds = roll_seconds
        self._clock = clock
        # In order of `since`: whoever changes it moves to the end.
        self._fills: dict[str, _Fill] = {}
        self._full: dict[str, None] = {}
        self._held: set[str] = set()
        self.rows = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._fills)

    def __repr__(self) -> str:
        return f"Fills({self.rows} rows in {len(self._fills)} partitions, {len(self._full)} of them full)"

    def partitions(self) -> list[str]:
        """Those that hold something, the longest waiting first."""
        return list(self._fills)

    def add(self, partition: str, size: int) -> bool:
        """One more row of `size` bytes; whether that changes what is due, or when."""
        fill = self._fills.get(partition)
        is_first = fill is None
        if fill is None:
            fill = self._fills[partition] = _Fill(self._clock())
        self._change(fill, 1, size)
        was_held = partition in self._held
        self._held.discard(partition)
        if not self._is_full(fill):
            return is_first
        is_news = was_held or partition not in self._full
        self._full[partition] = None
        return is_news

    def take(self, partition: str, rows: int, size: int) -> None:
        """Rows were published; those that came meanwhile begin to wait now."""
        fill = self._fills.pop(partition)
        assert fill.rows >= rows, f"{partition} holds {fill.rows} rows, not {rows}"
        self._change(fill, -rows, -size)
        self._full.pop(partition, None)
        self._held.clear()
        if fill.rows:
            self._put(partition, fill)

    def hold(self, partition: str) -> None:
        """Nothing of it can be sealed now."""
        fill = self._fills.pop(partition, None)
        if fill is None:
            return
        self._held.add(partition)
        fill.since = self._clock()
        self._fills[partition] = fill

    def reset(self, backlogs: Iterable[Backlog]) -> None:
        """Count anew what the ledger says."""
        before = self._fills
        self._fills, self._full = {}, {}
        self._held.clear()
        self.rows = self.bytes = 0
        for backlog in backlogs:
            fill = _Fill(before[backlog.partition].since if backlog.partition in before else self._clock())
            self._change(fill, backlog.rows, backlog.bytes)
            self._fills[backlog.partition] = fill
            if self._is_full(fill):
                self._full[backlog.partition] = None
        self._fills = dict(sorted(self._fills.items(), key=lambda pair: pair[1].since))

    def due(self, limit: int, *, busy: Collection[str], everything: bool) -> list[str]:
        """Up to `limit` partitions to publish, none of them `busy`; `everything`: also those that could wait."""
        found: list[str] = []
        for partition in self._due(everything=everything):
            if len(found) >= limit:
                break
            if partition not in busy and partition not in found:
                found.append(partition)
        return found

    def next_due_at(self, *, busy: Collection[str]) -> float | None:
        """When the longest waiting partition will be due by its age; None if there is none."""
        since = next((fill.since for name, fill in self._fills.items() if name not in busy), None)
        return None if since is None else since + self._roll_seconds

    def _due(self, *, everything: bool) -> Iterator[str]:
        """The oldest first, so that a few busy partitions do not keep the others waiting."""
        now = self._clock()
        for partition, fill in self._fills.items():
            if now - fill.since >= self._roll_seconds:
                yield partition
            elif not everything:
                break
            elif partition not in self._held:
                yield partition
        yield from (partition for partition in self._full if partition not in self._held)

    def _put(self, partition: str, fill: _Fill) -> None:
        fill.since = self._clock()
        self._fills[partition] = fill
        if self._is_full(fill):
            self._full[partition] = None

    def _change(self, fill: _Fill, rows: int, size: int) -> None:
        fill.rows += rows
        fill.bytes += size
        self.rows += rows
        self.bytes += size

    def _is_full(self, fill: _Fill) -> bool:
        return fill.rows >= self._roll.records or fill.bytes >= self._roll.bytes
