"""The values of all metrics, kept on one thread so that one look at them is one consistent snapshot."""

from bisect import bisect_left
from collections.abc import Callable

from mira_stream.telemetry.registry import Kind, Metric

Labels = tuple[str, ...]


class HistogramState:
    """Counts per bucket (the last is +Inf), and the sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Meters:
    """Where every part writes what it counted. Not thread-safe: written and read on the event loop's thread alone.

    Label values are given in the order of `Metric.labels`.
    """

    def __init__(self, sources: frozenset[str] = frozenset()) -> None:
        self._sources = sources
        self.values: dict[Metric, dict[Labels, float]] = {}
        self.histograms: dict[Metric, dict[Labels, HistogramState]] = {}
        self._refreshers: list[Callable[[], None]] = []

    def source(self, name: str) -> str:
        """The label of a source: its name if config or `groups.toml` knows it, else `other`."""
        return name if name in self._sources else "other"

    def add(self, metric: Metric, amount: float = 1, labels: Labels = ()) -> None:
        """Raise a counter."""
        assert metric.kind is Kind.COUNTER, metric.name
        assert amount >= 0, metric.name
        series = self._series(metric, labels)
        series[labels] = series.get(labels, 0) + amount

    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        """Set a gauge."""
        assert metric.kind is Kind.GAUGE, metric.name
        self._series(metric, labels)[labels] = value

    def observe(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        """Put one observation into a histogram."""
        assert metric.kind is Kind.HISTOGRAM, metric.name
        assert len(labels) == len(metric.labels), metric.name
        states = self.histograms.setdefault(metric, {})
        state = states.get(labels)
        if state is None:
            state = states[labels] = HistogramState(len(metric.buckets))
        state.counts[bisect_left(metric.buckets, value)] += 1
        state.total += value

    def value(self, metric: Metric, labels: Labels = ()) -> float:
        """The value now; 0 where nothing was written yet."""
        return self.values.get(metric, {}).get(labels, 0)

    def sum(self, metric: Metric) -> float:
        """The sum over all label values."""
        return sum(self.values.get(metric, {}).values())

    def mean(self, metric: Metric, labels: Labels = ()) -> float | None:
        """The mean of a histogram's observations; None where there is none."""
        state = self.histograms.get(metric, {}).get(labels)
        return state.total / sum(state.counts) if state is not None else None

    def quantile(self, metric: Metric, labels: Labels, share: float) -> float | None:
        """Below which value `share` of a histogram's observations lie, by straight lines between its bounds; None
        where there is none, the last bound for what lies beyond it."""
        state = self.histograms.get(metric, {}).get(labels)
        if state is None:
            return None
        below, wanted, lower = 0, share * sum(state.counts), 0.0
        for bound, count in zip(metric.buckets, state.counts, strict=False):
            if count and below + count >= wanted:
                return lower + (bound - lower) * (wanted - below) / count
            below, lower = below + count, bound
        return metric.buckets[-1]

    def clear(self, metric: Metric) -> None:
        """Forget all series of a gauge whose label values have changed."""
        assert metric.kind is Kind.GAUGE, metric.name
        self.values.pop(metric, None)

    def forget(self, label: str, value: str) -> None:
        """Drop the gauges in which that label has that value: what it stood for is gone. What it did stays counted."""
        for metric, series in self.values.items():
            if metric.kind is Kind.GAUGE and label in metric.labels:
                at = metric.labels.index(label)
                for labels in [labels for labels in series if labels[at] == value]:
                    del series[labels]

    def refresh_with(self, refresher: Callable[[], None]) -> None:
        """Have `refresher` set its gauges just before each snapshot is taken."""
        self._refreshers.append(refresher)

    def refresh(self) -> None:
        """Bring all gauges up to date; no await lies between this and the reading of the snapshot."""
        for refresher in self._refreshers:
            refresher()

    def _series(self, metric: Metric, labels: Labels) -> dict[Labels, float]:
        assert len(labels) == len(metric.labels), metric.name
        return self.values.setdefault(metric, {})
