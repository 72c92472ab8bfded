"""What is read back out of the meters."""

import pytest

from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters


def test_a_quantile_lies_between_the_bounds_of_its_bucket() -> None:
    """By straight lines; None of nothing, the last bound beyond all bounds."""
    meters, metric = Meters(), metrics.REPLICA_LATENCY_SECONDS
    assert meters.quantile(metric, ("x",), 0.5) is None
    for _ in range(90):
        meters.observe(metric, 3.0, ("x",))
    for _ in range(10):
        meters.observe(metric, 20.0, ("x",))
    assert meters.quantile(metric, ("x",), 0.45) == pytest.approx(3.75)
    assert meters.quantile(metric, ("x",), 0.95) == pytest.approx(20.0)
    meters.observe(metric, 9e9, ("y",))
    assert meters.quantile(metric, ("y",), 0.5) == metric.buckets[-1]
