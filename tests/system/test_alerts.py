"""What Prometheus makes of our rules, by its own program."""

import subprocess
from pathlib import Path

import pytest

from tests.system.machine import program

PROMETHEUS = Path(__file__).parents[2] / "ops" / "prometheus"


@pytest.mark.parametrize(
    "question",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "recording.rules.yml", "alerts.rules.yml"],
        ["test", "rules", "alerts.test.yml"],
    ],
    ids=["config", "rules", "alerts"],
)
def test_promtool_is_content(question: list[str]) -> None:
    """The files are sound, every alert fires in its case, and none in the case beside it."""
    done = subprocess.run(
        [program("promtool"), *question], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
