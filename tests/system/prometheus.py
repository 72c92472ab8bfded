"""A Prometheus of the distribution over a running daemon: it scrapes every second, with our rules."""

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.harness import free_port, until
from tests.system.machine import program

RULES = Path(__file__).parents[2] / "ops" / "prometheus"
_ANSWER_SECONDS = 10.0


class Prometheus:
    """One that listens at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ready(self) -> bool:
        """Whether it takes queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=_ANSWER_SECONDS):
                return True
        except OSError:
            return False

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an expression now; those that are no number are left out."""
        question = urllib.parse.urlencode({"query": expr})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{question}", timeout=_ANSWER_SECONDS) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return [sample for sample in result if sample["value"][1] != "NaN"]


@contextmanager
def prometheus(
    folder: Path, target: str, history: Mapping[str, list[tuple[float, float]]]
) -> Iterator[Prometheus]:
    """It is gone after the block. `history`: series as text, and values that they had at earlier times."""
    folder.mkdir()
    data = folder / "data"
    _remember(folder, data, history)
    for rules in RULES.glob("*.rules.yml"):
        text = rules.read_text("utf-8")
        (folder / rules.name).write_text(text.replace("interval: 5m", "interval: 1s"), "utf-8")
    (folder / "prometheus.yml").write_text(_configuration(target), "utf-8")
    url = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={url}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            found = Prometheus(f"http://{url}")
            until(lambda: found.ready() or process.poll() is not None, "Prometheus is ready")
            assert process.poll() is None, (folder / "log").read_text("utf-8")
            yield found
        finally:
            process.terminate()
            process.wait(20)


def _configuration(target: str) -> str:
    """Ours, in a hurry, and over the daemon of the test."""
    text = (RULES / "prometheus.yml").read_text("utf-8")
    head, _, _ = text.partition("  # The replicas of all pools")
    return head.replace("15s", "1s").replace("127.0.0.1:9464", target)


def _remember(folder: Path, data: Path, history: Mapping[str, list[tuple[float, float]]]) -> None:
    lines = [f"{series} {value} {at:.0f}" for series, values in history.items() for at, value in values]
    (folder / "history").write_text("\n".join([*lines, "# EOF\n"]), "utf-8")
    command = [
        program("promtool"),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        str(folder / "history"),
        str(data),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
