"""Interval sets: which ordinals of an object are done, as few half-open spans however many ordinals there are."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

import msgspec

from mira_stream.core.segment import Span


class IntervalSet(msgspec.Struct, frozen=True):
    """An immutable set of ordinals: disjoint, non-touching, non-empty spans `[from, to)` in ascending order.

    `spans` is canonical: two sets with the same ordinals are equal, and encode to the same bytes. Build one with
    `from_spans` or `from_ordinals`; the constructor takes spans that are canonical already.
    """

    spans: tuple[Span, ...] = ()

    @classmethod
    def from_spans(cls, spans: Iterable[Span]) -> "IntervalSet":
        """The union of spans in any order; they may overlap, touch or be empty. O(n log n)."""
        return cls(tuple(_merged(sorted(spans))))

    @classmethod
    def from_ordinals(cls, ordinals: Iterable[int]) -> "IntervalSet":
        """The set of single ordinals, in any order, repeated or not. O(n log n)."""
        return cls(tuple(_merged((n, n + 1) for n in sorted(ordinals))))

    def __contains__(self, ordinal: int) -> bool:
        """Whether the set holds `ordinal`. O(log n)."""
        # The first span that ends above the ordinal is the only one that can hold it.
        index = bisect_left(self.spans, ordinal + 1, key=_stop)
        return index < len(self.spans) and self.spans[index][0] <= ordinal

    def __bool__(self) -> bool:
        return bool(self.spans)

    @property
    def count(self) -> int:
        """How many ordinals it holds. O(n) in spans."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def watermark(self) -> int:
        """The lowest ordinal, counted from 0, that is not in the set: everything below it is."""
        return self.spans[0][1] if self.spans and self.spans[0][0] == 0 else 0

    @property
    def end(self) -> int:
        """The ordinal behind the largest one; 0 for the empty set."""
        return self.spans[-1][1] if self.spans else 0

    def covers(self, count: int) -> bool:
        """Whether it holds all of `[0, count)`. O(1)."""
        assert count >= 0, count
        return self.watermark >= count

    def ordinals(self) -> Iterator[int]:
        """Every ordinal in ascending order; as long as `count`."""
        for start, stop in self.spans:
            yield from range(start, stop)

    def add(self, start: int, stop: int) -> "IntervalSet":
        """This set and `[start, stop)`. O(log n) to find the place, one copy of the spans."""
        assert 0 <= start <= stop, (start, stop)
        if start == stop:
            return self
        low = bisect_left(
            self.spans, start, key=_stop
        )  # the first span that reaches `start`, touching included
        high = bisect_left(self.spans, stop + 1, key=_start)  # behind the last span that begins by `stop`
        if low < high:
            start = min(start, self.spans[low][0])
            stop = max(stop, self.spans[high - 1][1])
        return IntervalSet((*self.spans[:low], (start, stop), *self.spans[high:]))

    def union(self, other: "IntervalSet") -> "IntervalSet":
        """The ordinals in either. Linear in spans; logarithmic where one side is a single span."""
        if len(other.spans) == 1:
            return self.add(*other.spans[0])
        if not self.spans or not other.spans:
            return self if self.spans else other
        # Sorting two sorted runs is one linear merge.
        return IntervalSet(tuple(_merged(sorted((*self.spans, *other.spans)))))

    def minus(self, other: "IntervalSet") -> "IntervalSet":
        """The ordinals that are here and not in `other`. Linear in spans."""
        if not self.spans or not other.spans:
            return self
        return IntervalSet(tuple(_without(self.spans, other.spans)))

    def intersection(self, other: "IntervalSet") -> "IntervalSet":
        """The ordinals in both. Linear in spans."""
        return self.minus(self.minus(other))

    def below(self, stop: int) -> "IntervalSet":
        """The ordinals less than `stop`."""
        return self if self.end <= stop else self.minus(IntervalSet(((stop, self.end),)))

    def __repr__(self) -> str:
        return f"IntervalSet({' '.join(f'[{start}, {stop})' for start, stop in self.spans)})"


def _start(span: Span) -> int:
    return span[0]


def _stop(span: Span) -> int:
    return span[1]


def _merged(ascending: Iterable[Span]) -> Iterator[Span]:
    """Canonical spans from spans ordered by their start."""
    start = stop = -1
    for next_start, next_stop in ascending:
        assert 0 <= next_start <= next_stop, (next_start, next_stop)
        if next_start == next_stop:
            continue
        if next_start <= stop:
            stop = max(stop, next_stop)
            continue
        if start < stop:
            yield start, stop
        start, stop = next_start, next_stop
    if start < stop:
        yield start, stop


def _without(spans: tuple[Span, ...], holes: tuple[Span, ...]) -> Iterator[Span]:
    """What is left of canonical `spans` after cutting out canonical `holes`, in one walk over both."""
    index = 0
    for span_start, stop in spans:
        start = span_start
        while index < len(holes) and holes[index][1] <= start:
            index += 1
        at = index  # a hole may reach into the next span, so the walk does not consume it
        while at < len(holes) and holes[at][0] < stop:
            if start < holes[at][0]:
                yield start, holes[at][0]
            start = max(start, holes[at][1])
            at += 1
        if start < stop:
            yield start, stop
        index = max(index, at - 1)
