"""Sets of ordinals as merged spans. The audit has its own: one that shared the daemon's would share its mistakes."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """A set of non-negative integers, `[from, to)` by `[from, to)`; memory grows with its gaps, not with its size."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> int:
        """Put `[start, end)` in; returns how many of them were in already."""
        assert 0 <= start < end
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        doubled = sum(
            max(0, min(end, e) - max(start, s))
            for s, e in zip(self._starts[first:last], self._ends[first:last], strict=True)
        )
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return doubled

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    @property
    def end(self) -> int:
        """One past the largest, 0 if empty."""
        return self._ends[-1] if self._ends else 0

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The spans of `[start, end)` that are not in the set."""
        gaps = []
        for s, e in self:
            if s > start and start < end:
                gaps.append((start, min(s, end)))
            start = max(start, e)
        if start < end:
            gaps.append((start, end))
        return gaps


def size(spans: Iterable[tuple[int, int]]) -> int:
    """How many integers the spans hold."""
    return sum(end - start for start, end in spans)


def merged(ordinals: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ordinals, sorted and distinct, as spans."""
    start = end = -1
    for ordinal in ordinals:
        if ordinal != end:
            if end >= 0:
                yield start, end
            start = ordinal
        end = ordinal + 1
    if end >= 0:
        yield start, end


def named(spans: Iterable[tuple[int, int]], *, most: int = 5) -> str:
    """`3, 7–9, …` for a person."""
    parts = [f"{start}" if end - start == 1 else f"{start}–{end - 1}" for start, end in spans]
    return ", ".join(parts[:most]) + (", …" if len(parts) > most else "")
