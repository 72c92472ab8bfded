"""A running daemon as an operator sees it: its HTTP endpoints, its log, its signals."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.e2e.harness import CLI, RUN_SECONDS, Lab, Row, environment, until

END_SECONDS = 20.0
_GET_SECONDS = 10.0


class Daemon:
    """`mira-stream run` as a process; what it says on stderr goes to `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self._address = ""

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and text of one endpoint. Raises OSError if the daemon is not, or no longer, there."""
        connection = HTTPConnection(self.address, timeout=_GET_SECONDS)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self) -> Row:
        """`/status.json`."""
        found: Row = json.loads(self.get("/status.json")[1])
        return found

    def until(self, holds: Callable[[Row], bool], what: str) -> None:
        """Wait for a status in which something holds."""
        until(lambda: holds(self.status()), what)

    def until_scored(self, records: int) -> None:
        """Wait until so many records are scored and published."""
        self.until(lambda status: status["outcomes"]["scored"] == records, f"{records} records are scored")

    def until_read_ahead_is_full(self) -> None:
        """Wait until it has read all that it reads while no replica is there."""
        seen: list[int] = []

        def at_rest(status: Row) -> bool:
            seen.append(status["read"])
            return seen[-1] > 60 and len(seen) > 20 and len(set(seen[-20:])) == 1

        self.until(at_rest, "reading pauses because nothing is sent")

    def events(self) -> list[Row]:
        """What it logged so far."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line[:1] == "{"]

    def wait(self, *, seconds: float = RUN_SECONDS) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(seconds)

    def terminate(self) -> int:
        """SIGTERM, as systemd ends it, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds=END_SECONDS)

    @property
    def address(self) -> str:
        """`host:port`; waits until it says it."""
        if not self._address:
            until(lambda: self.ended or self._said_address(), "the daemon says where it listens")
            assert self._address, self.log.read_text("utf-8")
        return self._address

    def _said_address(self) -> bool:
        complete = self.log.read_text("utf-8").rpartition("\n")[0]
        for line in complete.splitlines():
            if line[:1] == "{" and (event := json.loads(line))["event"] == "listening":
                self._address = event["url"].removeprefix("http://")
        return bool(self._address)


@contextmanager
def running(lab: Lab, *arguments: str, log: str = "daemon.log") -> Iterator[Daemon]:
    """`mira-stream run` over `lab`, whose configuration must log at level info; it is gone after the block."""
    path, command = lab.folder / log, (*CLI, "run", "--config", str(lab.config), *arguments)
    with path.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, env=environment()) as process:
        try:
            yield Daemon(process, path)
        finally:
            process.kill()  # does nothing to one that has ended


class Scrape:
    """One answer of `/metrics`, parsed as Prometheus would."""

    def __init__(self, text: str) -> None:
        self.samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.samples[name] = family.samples

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all samples of a counter or gauge that have these labels."""
        return sum(sample.value for sample in self.samples[name] if labels.items() <= sample.labels.items())

    @property
    def read(self) -> float:
        return self.sum("mira_stream_records_read_total")

    @property
    def accounted(self) -> float:
        """All records that have ended or are somewhere under way: must equal `read`."""
        return self.sum("mira_stream_records_ended_total") + self.sum("mira_stream_records_in_pipeline")


def scrape(daemon: Daemon) -> Scrape:
    """`/metrics`, now."""
    status, text = daemon.get("/metrics")
    assert status == 200
    return Scrape(text)
