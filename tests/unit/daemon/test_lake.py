"""What is said of a sink that is in trouble."""

import pytest

from mira_stream.daemon.lake import SinkTrouble
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters


def test_trouble_of_the_sink_is_said_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """Every try is counted; the log says why at once, and again as long as it lasts, and is not flooded."""
    meters, now = Meters(), [0.0]
    tell = SinkTrouble(meters, clock=lambda: now[0])
    for moment in (0.0, 1.0, 59.0, 60.5, 61.0):
        now[0] = moment
        tell(f"no room at {moment}")
    said = capsys.readouterr().out
    assert [moment for moment in (0.0, 1.0, 59.0, 60.5, 61.0) if f"no room at {moment}" in said] == [
        0.0,
        60.5,
    ]
    assert meters.value(metrics.SINK_RETRIES) == 5
