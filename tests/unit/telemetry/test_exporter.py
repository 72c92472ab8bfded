"""Metrics: declared once, exported from one snapshot in Prometheus' text format."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.exporter import Exporter
from mira_stream.telemetry.meters import Meters


def _samples(meters: Meters) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Exporter(meters).render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_gauges_and_histograms_come_out_as_prometheus_reads_them() -> None:
    """Prometheus' own parser reads back what was counted."""
    meters = Meters()
    meters.add(metrics.RECORDS_ENDED, 2, ("scored", "none"))
    meters.set(metrics.LOOP_LAG_SECONDS, 0.25)
    for seconds in (0.003, 0.02, 99.0):
        meters.observe(metrics.LEDGER_RECEIVE_SECONDS, seconds)
    samples = _samples(meters)
    labels = (("outcome", "scored"), ("reason", "none"))
    assert samples["mira_stream_records_ended_total", labels] == 2
    assert samples["mira_stream_loop_lag_seconds", ()] == 0.25
    name = "mira_stream_ledger_receive_seconds"
    assert samples[f"{name}_bucket", (("le", "0.005"),)] == 1
    assert samples[f"{name}_bucket", (("le", "0.025"),)] == 2
    assert samples[f"{name}_bucket", (("le", "+Inf"),)] == samples[f"{name}_count", ()] == 3
    assert samples[f"{name}_sum", ()] == pytest.approx(99.023)


def test_gauges_are_refreshed_just_before_they_are_exported() -> None:
    """A scrape sees the state of that moment."""
    meters = Meters()
    fill = [0]
    meters.refresh_with(lambda: meters.set(metrics.SINK_BACKLOG_ROWS, fill[0]))
    fill[0] = 7
    assert _samples(meters)["mira_stream_sink_backlog_rows", ()] == 7


def test_an_unlabelled_metric_is_there_before_its_first_event() -> None:
    """A rate over a counter that appears with its first event misses that event."""
    assert _samples(Meters())["mira_stream_sink_rival_segments_total", ()] == 0


def test_a_source_that_nobody_configured_is_other() -> None:
    """Label values come from config or groups.toml alone: their number is bounded."""
    meters = Meters(frozenset({"claude_cli"}))
    assert meters.source("claude_cli") == "claude_cli"
    assert meters.source("x" * 1000) == "other"


def test_a_metric_is_declared_once_with_agreed_labels() -> None:
    """The registry refuses a second declaration and a foreign label."""
    with pytest.raises(AssertionError, match="twice"):
        metrics._declare(metrics.RECORDS_READ)
    foreign = metrics.Metric("mira_stream_x_total", metrics.Kind.COUNTER, "x", ("user",))
    with pytest.raises(AssertionError, match="label"):
        metrics._declare(foreign)
