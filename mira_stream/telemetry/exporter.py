"""Prometheus text from the meters: one collector, one snapshot."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from mira_stream.telemetry.meters import HistogramState, Meters
from mira_stream.telemetry.registry import REGISTRY, Kind, Metric

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _MetersCollector(Collector):
    """All declared metrics; those without a value yet appear with their help and, if unlabelled, a zero."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def collect(self) -> Iterator[Family]:
        self._meters.refresh()
        for metric in REGISTRY.values():
            yield _family(metric, self._meters)


class Exporter:
    """Renders `/metrics`: the meters and the process (memory, CPU, descriptors)."""

    def __init__(self, meters: Meters) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_MetersCollector(meters))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self) -> bytes:
        """The Prometheus text format; call it on the event loop's thread."""
        return generate_latest(self._registry)


def _family(metric: Metric, meters: Meters) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        return _histogram_family(metric, meters.histograms.get(metric, {}))
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = make(metric.name, metric.help, labels=metric.labels)
    series = meters.values.get(metric, {})
    if not series and not metric.labels:
        series = {(): 0.0}
    for labels, value in series.items():
        family.add_metric(labels, value)
    return family


def _histogram_family(metric: Metric, states: dict[tuple[str, ...], HistogramState]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
    for labels, state in states.items():
        counts = list(accumulate(state.counts))
        buckets = list(zip(bounds, map(float, counts), strict=True))
        family.add_metric(labels, buckets=buckets, sum_value=state.total)
    return family
