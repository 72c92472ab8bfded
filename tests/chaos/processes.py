"""Daemons and replicas as processes that can be waited for, signalled and killed; most start without an import."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from tests.e2e.harness import CLI, environment

ROOT = Path(__file__).parents[2]
_READY_SECONDS = 60.0
_END_SECONDS = 30.0


class Process(Protocol):
    """One command that runs, or ran."""

    pid: int

    def wait(self, seconds: float) -> int | None:
        """Its exit code (minus the signal that killed it), or None if it still runs after so long."""

    def send(self, number: int) -> None:
        """A signal; nothing if it has ended."""


def end(process: Process) -> int:
    """`kill -9`, and its exit code."""
    process.send(signal.SIGKILL)
    code = process.wait(_END_SECONDS)
    assert code is not None, f"process {process.pid} outlived SIGKILL"
    return code


def is_stopped(process: Process) -> bool:
    """Whether all of it stands still because of SIGSTOP."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text("ascii", "replace")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


class Cold:
    """The command line, started from nothing."""

    def __init__(self, arguments: tuple[str, ...], log: Path, env: Mapping[str, str]) -> None:
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                (*CLI, *arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(env)
            )
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: int) -> None:
        self._process.send_signal(number)


class _Forked:
    """A command that the warm process runs. Its end is told to this object and not looked up by process id: in a
    thousand kills those come round again."""

    def __init__(self, pid: int, news: threading.Condition) -> None:
        self.pid = pid
        self.code: int | None = None
        self._news = news

    def wait(self, seconds: float) -> int | None:
        with self._news:
            self._news.wait_for(lambda: self.code is not None, max(0.0, seconds))
            return self.code

    def send(self, number: int) -> None:
        with self._news:
            if self.code is None:
                os.kill(self.pid, number)


class Warm:
    """Starts commands by forking a process that has imported them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders: IO[bytes] = process.stdin
        self._said: IO[bytes] = process.stdout
        self._news = threading.Condition()
        self._running: dict[int, _Forked] = {}
        self._started: list[_Forked] = []
        self._is_ready = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._until(lambda: self._is_ready, "the warm process is ready")

    def start(self, arguments: tuple[str, ...], log: Path, env: Mapping[str, str]) -> Process:
        """One command; what it says on stdout and stderr goes to `log`."""
        asked: dict[str, Any] = {"arguments": arguments, "log": str(log), "env": dict(env)}
        self._orders.write(json.dumps(asked).encode() + b"\n")
        self._orders.flush()
        self._until(lambda: bool(self._started), f"{arguments} is forked")
        with self._news:
            return self._started.pop()

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        with self._news:
            assert self._news.wait_for(holds, _READY_SECONDS), f"it did not happen that {what}"

    def _listen(self) -> None:
        for line in self._said:
            said = json.loads(line)
            with self._news:
                if "started" in said:
                    forked = _Forked(said["started"], self._news)
                    self._running[forked.pid] = forked
                    self._started.append(forked)
                elif "ended" in said:
                    self._running.pop(said["ended"]).code = said["code"]
                else:
                    self._is_ready = True
                self._news.notify_all()


@contextmanager
def warm() -> Iterator[Warm]:
    """A warm process; all that it started is killed after the block."""
    command = (sys.executable, "-m", "tests.chaos.warm")
    env = environment()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=env
    ) as process:
        try:
            yield Warm(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(_END_SECONDS)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
