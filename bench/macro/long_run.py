"""A daemon under observation for long: started, asked for its status, and measured from outside."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COMMAND = (sys.executable, "-c", "from mira_stream.cli import main; main()", "run", "--config")
_PAUSE_SECONDS = 0.02
_START_SECONDS = 60.0


class Observed:
    """One running daemon; `began` is when it was started, on the monotonic clock."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.began = time.monotonic()
        self._log = log
        self._url = ""

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began

    def status(self) -> dict[str, Any]:
        """`/status.json`; empty while it does not listen yet."""
        assert self.process.poll() is None, self._log.read_text("utf-8")[-3000:]
        if not self._url:
            for line in self._log.read_text("utf-8").splitlines():
                if '"listening"' in line:
                    self._url = json.loads(line)["url"]
        if not self._url:
            return {}
        with urllib.request.urlopen(f"{self._url}/status.json", timeout=120) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def metric(self, name: str) -> float:
        """The sum over all samples of one metric."""
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=120) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name
        )

    def until_dispatched(self) -> float:
        """Seconds from its start until a record is at a replica."""
        while self.age < _START_SECONDS:
            status = self.status()
            if status and status["in_pipeline"]["in_flight"]:
                return self.age
            time.sleep(_PAUSE_SECONDS)
        raise AssertionError("nothing was dispatched in a minute")

    def rss_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8").splitlines()
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024

    def descriptors(self) -> int:
        """Open file descriptors now, as the daemon counts them: only root and the daemon itself may look into it."""
        return int(self.metric("process_open_fds"))

    def cpu_seconds(self) -> float:
        """User + system so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def observed(config: Path, *, extra: Mapping[str, str] | None = None) -> Iterator[Observed]:
    """`mira-stream run` over `config`, which must log at level info; killed after the block."""
    log = config.with_name("daemon.log")
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*_COMMAND, str(config)], stderr=stderr, env=os.environ | dict(extra or {})
        ) as process,
    ):
        try:
            yield Observed(process, log)
        finally:
            process.kill()


@contextmanager
def helper(*arguments: str) -> Iterator[str]:
    """`python -m <arguments>` as a process; the first line that it prints."""
    with subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()
