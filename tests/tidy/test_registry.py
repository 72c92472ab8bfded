"""Metrics are declared once, written somewhere, and spelled alike wherever people meet them."""

import re

import pytest

from mira_stream.telemetry import registry
from mira_stream.telemetry.registry import LABELS, REGISTRY, Kind, Metric
from tests.tidy.tree import modules, texts

PARTS = {
    "clock",
    "config",
    "records",
    "source",
    "prepare",
    "pool",
    "replica",
    "reply",
    "ledger",
    "sink",
    "loop",
}
UNITS = {
    "bytes",
    "checkpoints",
    "objects",
    "partitions",
    "points",
    "ratio",
    "records",
    "requests",
    "rows",
    "seconds",
    "segments",
    "tokens",
}
COUNTED_OR_STATE = {
    "mira_stream_config_reloads_total": "counts itself",
    "mira_stream_reply_recommendations_total": "counts itself",
    "mira_stream_pool_limiting_factor": "0 or 1",
    "mira_stream_pool_stopped": "0 or 1",
    "mira_stream_replica_capacity_origin": "0 or 1",
    "mira_stream_replica_breaker_open": "0, 0.5 or 1",
    "mira_stream_replica_limiting_factor": "0 or 1",
    "mira_stream_pool_reasks_total": "counts itself",
    "mira_stream_pool_retries_total": "counts itself",
    "mira_stream_replica_answers_total": "counts itself",
    "mira_stream_replica_faults_total": "counts itself",
    "mira_stream_sink_retries_total": "counts itself",
    "mira_stream_source_names_ignored_total": "counts names",
    "mira_stream_source_retries_total": "counts itself",
}
NAME = re.compile(r"\bmira_stream_[a-z_]+\b(?![/.*])")
SERIES = ("_bucket", "_count", "_sum")


def test_every_declared_metric_is_written_somewhere() -> None:
    """A metric that nothing sets would show nothing for ever."""
    code = "\n".join(module.text for module in modules() if module.name != "telemetry/registry.py")
    declared = [name for name, value in vars(registry).items() if isinstance(value, Metric)]
    assert len(declared) == len(REGISTRY)
    assert not [name for name in declared if not re.search(rf"\bmetrics\.{name}\b", code)]


@pytest.mark.parametrize("metric", REGISTRY.values(), ids=lambda metric: metric.name)
def test_names_and_labels_have_the_agreed_form(metric: Metric) -> None:
    """`mira_stream_<part>_<noun>_<unit>[_total]` in base units; labels come from the agreed set."""
    assert re.fullmatch(r"mira_stream(?:_[a-z]+){2,}", metric.name)
    words = metric.name.removeprefix("mira_stream_").split("_")
    assert words[0] in PARTS
    assert UNITS & set(words) or metric.name in COUNTED_OR_STATE
    assert (words[-1] == "total") is (metric.kind is Kind.COUNTER)
    assert set(metric.labels) <= LABELS
    assert re.fullmatch(r"[0-9A-Z].*\.", metric.help)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)


def test_every_limit_stands_beside_its_use() -> None:
    """A gauge of a limit without the gauge it bounds cannot be drawn."""
    limits = {name.removesuffix("_limit") for name in REGISTRY if name.endswith("_limit")}
    assert limits <= set(REGISTRY)


def test_every_exempt_metric_exists() -> None:
    """An exemption ends with what it was for."""
    assert set(COUNTED_OR_STATE) <= set(REGISTRY)


@pytest.mark.parametrize("folder", ["README.md", "bench/", "docs/", "grafana/", "mira_stream/", "ops/"])
def test_every_metric_that_is_named_exists(folder: str) -> None:
    """Runbook, docs, dashboards and alarms name metrics of the registry, or series made of its histograms."""
    series = {
        f"{metric.name}{suffix}"
        for metric in REGISTRY.values()
        if metric.kind is Kind.HISTOGRAM
        for suffix in SERIES
    }
    named = {name for path, text in texts() if path.startswith(folder) for name in NAME.findall(text)}
    assert named <= set(REGISTRY) | series
