"""One small lake, simulated replicas and the command line itself, each a process of its own, as an operator has them."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import zstandard
from typer.testing import CliRunner

from mira_stream.cli import app

CLI = (sys.executable, "-c", "from mira_stream.cli import main; main()")
START_SECONDS = 20.0
RUN_SECONDS = 45.0
POLL_SECONDS = 0.02
NOWHERE = "http://127.0.0.1:9"
"""A replica for runs that end before any replica is asked."""

Row = dict[str, Any]
Sections = dict[str, dict[str, Any]]


class Ended(NamedTuple):
    """What a command said and how it ended."""

    code: int
    stdout: str
    stderr: str


def cli(*arguments: str, seconds: float = RUN_SECONDS, extra: Mapping[str, str] | None = None) -> Ended:
    """Run one command to its end, with `extra` in its environment."""
    command, env = (*CLI, *arguments), environment(extra)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=env)
    return Ended(done.returncode, done.stdout, done.stderr)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what would change a run, and with `extra`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MIRA_STREAM_")}
    return inherited | dict(extra or {})


def until(holds: Callable[[], bool], what: str, *, seconds: float = START_SECONDS) -> None:
    """Wait for something that other processes do; fails with `what` if it does not come about in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"in {seconds:g} s it did not happen that {what}"
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(*arguments: str, stream: str) -> Iterator[subprocess.Popen[str]]:
    """A running command whose `stream` (stdout or stderr) can be read; it is gone after the block."""
    pipe: dict[str, Any] = {stream: subprocess.PIPE}
    with subprocess.Popen((*CLI, *arguments), text=True, env=environment(), **pipe) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def line_with(process: subprocess.Popen[str], stream: str, words: str) -> str:
    """The next line of `stream` that holds `words`; fails if the process ends or says nothing of it in time."""
    pipe = getattr(process, stream)
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in pipe:
            if words in line:
                return str(line)
    finally:
        watchdog.cancel()
    raise AssertionError(f"{process.args!r} ended, or was silent, without saying {words!r}")


@contextmanager
def replicas(*arguments: str, count: int = 2) -> Iterator[list[str]]:
    """The addresses of simulated replicas that answer at once; `arguments` are those of `mira-stream sim`."""
    with ExitStack() as stack:
        command = ("sim", "--port", "0", "--time-scale", "0", *arguments)
        sims = [stack.enter_context(started(*command, stream="stdout")) for _ in range(count)]
        yield [line_with(sim, "stdout", "listening on").split()[-1] for sim in sims]


class Lab:
    """A folder with a lake, its scores and its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = folder / "lake"
        self.scores = folder / "scores"
        self.config = folder / "mira.toml"
        self.lake.mkdir(parents=True)

    def land(self, key: str, data: bytes) -> None:
        """Put a whole object into the lake, at once."""
        target = self.lake / key
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.tmp")
        part.write_bytes(data)
        part.rename(target)

    def configure(self, urls: Sequence[str], *, pools: Sequence[Row] = (), **sections: Row) -> None:
        """Write the configuration; `sections` override single keys, `pools` replace the one pool of `agent/A`."""
        known: Sections = {
            "source": {"uri": str(self.lake), "list_seconds": 0.2, "grow_settle_seconds": 0},
            "sink": {"uri": str(self.scores), "roll_seconds": 0.5},
            "ledger": {"path": str(self.folder / "ledger" / "ledger.sqlite")},
            "http": {"listen": "127.0.0.1:0"},
            "log": {"level": "warning"},
        }
        lines: list[str] = []
        for name in (*known, *(extra for extra in sections if extra not in known)):
            lines += _section(f"[{name}]", known.get(name, {}) | sections.get(name, {}))
        for pool in pools or ({},):
            lines += _section("[[pool]]", {"group": "agent/A", "replicas": urls, "sources": ["*"]} | pool)
        self.config.write_text("\n".join(lines) + "\n", "utf-8")

    def command(self, name: str, *arguments: str, extra: Mapping[str, str] | None = None) -> Ended:
        """`mira-stream <name> --config … <arguments>`, to its end."""
        return cli(name, "--config", str(self.config), *arguments, extra=extra)

    def run_once(self, *, extra: Mapping[str, str] | None = None) -> Ended:
        """`run --once`."""
        return self.command("run", "--once", extra=extra)

    def scored(self) -> list[Row]:
        """The rows after a `run --once` that must end well and an audit that must be clean."""
        run = self.run_once()
        assert run.code == 0, run.stderr
        return self.audited()

    def audited(self) -> list[Row]:
        """The rows, once `verify --strict` has called them complete and has counted as many."""
        found, rows = self.audit(), self.rows()
        assert found["rows"] == found["source_lines"] == len(rows)
        return rows

    def audit(self) -> Row:
        """What `verify --strict` found, which must be nothing wrong and nothing pending."""
        # In this process: it is asked for after nearly every run, and the start of a process costs most of its time.
        audit = CliRunner().invoke(app, ["verify", "--strict", "--json", "--config", str(self.config)])
        assert audit.exit_code == 0, audit.output
        found: Row = json.loads(audit.stdout)
        assert found["found"] == {}
        assert found["pending"] == 0
        return found

    def rows(self) -> list[Row]:
        """All rows of the sink, read as any user would."""
        rows: list[Row] = []
        for _, segment in self.segments():
            data = zstandard.ZstdDecompressor().decompressobj().decompress(segment)
            rows += map(json.loads, data.splitlines())
        return rows

    def segments(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the published files, in order."""
        for segment in sorted(self.scores.glob("source=*/shard=*/*.jsonl.zst")):
            yield segment.relative_to(self.scores).as_posix(), segment.read_bytes()


def _section(head: str, keys: Row) -> list[str]:
    # JSON's strings, numbers, booleans and arrays are TOML's too.
    return [head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]


def conversation(task: str, answer: str = "Done; the tests pass.") -> bytes:
    """The line of a record that can be scored."""
    messages = [{"role": "user", "content": task}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode() + b"\n"
