"""What a round of chaos plays in: a lake, replicas that can die, configurations, and a journal of what was done."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from tests.chaos.lakes import GrowingLake, LocalShelf, S3Shelf, Shelf
from tests.chaos.oracle import Oracle, Violation
from tests.chaos.processes import Cold, Process, Warm, end, warm
from tests.e2e.harness import Row, free_port, until
from tests.fakes.s3_server import S3Lake, s3_lake

REPLICAS = 3
REQUESTS_MAX = 8
COLD_SHARE = 0.1
"""Share of the daemons that are started from nothing by their command line, not forked from a warm process."""
_FAULTS = ("lost@all:share=0.01", "reset@all:share=0.01", "500@all:share=0.01", "slow@all:0.03s")
_VERIFY_SECONDS = 120.0
_RUN_SECONDS = 120.0
_ENDED_SECONDS = 30.0

StoreKind = Literal["local", "s3"]


class World(NamedTuple):
    """What rounds share: a warm process, and a server where the lake is a bucket."""

    warm: Warm
    s3: S3Lake | None


@contextmanager
def world(store: StoreKind) -> Iterator[World]:
    """For as long as chaos lasts."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the server's, which would tell of each request
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_lake()) if store == "s3" else None
        yield World(stack.enter_context(warm()), s3)


class Replica:
    """A simulated replica at a fixed address, with a log of its requests over all its lives."""

    def __init__(self, warm: Warm, folder: Path, number: int) -> None:
        self.requests = folder / f"requests-{number}.jsonl"
        self._warm, self._log, self._number = warm, folder / f"replica-{number}.log", number
        self._port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it unless it runs; it may not answer at once."""
        if self._process is not None and self._process.wait(0) is None:
            return
        faults = (part for rule in _FAULTS for part in ("--fault", rule))
        settings = ("--time-scale", "0", "--damage-share", "0.03", "--seed", str(self._number))
        command = ("sim", "--port", str(self._port), *settings, *faults)
        self._process = self._warm.start((*command, "--set", f"request_log={self.requests}"), self._log, {})

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            end(self._process)


class Scene:
    """One round's world: everything random comes from `seed`, everything done goes into the journal."""

    def __init__(self, folder: Path, *, world: World, seed: str) -> None:
        self.folder = folder
        self._seed = seed
        self._world = world
        folder.mkdir(parents=True)
        shelf: Shelf = S3Shelf(world.s3) if world.s3 is not None else LocalShelf(folder)
        self.lake = GrowingLake(shelf, self.rng("lake"))
        self.oracle = Oracle(self.lake)
        self.replicas = [Replica(world.warm, folder, number) for number in range(REPLICAS)]
        self._starts = 0

    def rng(self, what: str) -> Random:
        """Chance of its own for each thing, so that no timing changes what another one draws."""
        return Random(f"{self._seed}/{what}")

    def note(self, **what: object) -> None:
        """One line of the journal."""
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(what) + "\n")

    def configure(self, name: str, **changes: dict[str, Any]) -> Path:
        """A configuration with a ledger of its own; `changes` override single keys of sections."""
        sections: dict[str, dict[str, Any]] = {
            "source": {"list_seconds": 0.15, "full_list_seconds": 0.3, "grow_settle_seconds": 3600},
            "sink": {"roll_records": 24, "roll_seconds": 0.2, "shards": 2, "retry_initial_seconds": 0.01},
            "ledger": {"path": str(self.folder / name / "ledger.sqlite")},
            "http": {"listen": "127.0.0.1:0"},
            "record": {"meta": ["name"]},
            "admission": {
                "requests_max": REQUESTS_MAX,
                "scrape_seconds": 0.2,
                "breaker_seconds_min": 0.05,
                "breaker_seconds_max": 0.2,
            },
        }
        for extra in (self.lake.shelf.sections, changes):
            for section, keys in extra.items():
                sections[section] = sections.get(section, {}) | keys
        lines = []
        for section, keys in sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
        urls = json.dumps([replica.url for replica in self.replicas])
        lines += ["[[pool]]", 'group = "agent/A"', f"replicas = {urls}", 'sources = ["*"]', ""]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines), "utf-8")
        return path

    def start(self, config: Path, *, once: bool = False, failpoint: str = "", cold: bool = False) -> "Daemon":
        """A daemon."""
        self._starts += 1
        log = self.folder / f"daemon-{self._starts:04d}.log"
        log.touch()
        arguments = ("run", *(("--once",) if once else ()), "--config", str(config))
        env = {"MIRA_STREAM_FAILPOINT": failpoint} if failpoint else {}
        process = Cold(arguments, log, env) if cold else self._world.warm.start(arguments, log, env)
        return Daemon(process, log)

    def start_replicas(self) -> None:
        """All of them."""
        for replica in self.replicas:
            replica.start()

    def finish(self, *configs: Path) -> None:
        """Let every daemon run to its end, at the same time, on a lake that grows no more; then the last word.

        Raises Violation if anything is lost, doubled, or left undone.
        """
        self.lake.settle()
        self.start_replicas()
        for daemon in [self.start(config, once=True) for config in configs]:
            code = daemon.process.wait(_RUN_SECONDS)
            if code != 0:
                raise Violation(f"the last run ended with {code} ({daemon.log}): {daemon.tail()}")
        self.oracle.expect_all()
        for config in configs:
            self._verify(config)

    def close(self) -> None:
        """No replica lives on."""
        for replica in self.replicas:
            replica.kill()

    def _verify(self, config: Path) -> None:
        log = self.folder / f"verify-{config.stem}.json"
        arguments = ("verify", "--strict", "--ledger", "--json", "--config", str(config))
        code = self._world.warm.start(arguments, log, {}).wait(_VERIFY_SECONDS)
        text = log.read_text("utf-8")
        if code != 0:
            raise Violation(f"verify ended with {code}: {text[-2000:]}")
        audit: Row = json.loads(text)
        counted = (audit["rows"], audit["source_lines"], audit["pending"], audit["found"])
        if counted != (self.oracle.rows, self.oracle.rows, 0, {}):
            raise Violation(f"verify counts {counted}, the oracle {self.oracle.rows} rows")


class Daemon:
    """A running one."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log

    def events(self) -> list[Row]:
        """What it logged so far, whole lines only."""
        complete = self.log.read_text("utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines() if line[:1] == "{"]

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text("utf-8")[-1500:]

    def address(self) -> str | None:
        """`host:port` of its endpoints, once it listens."""
        for event in self.events():
            if event["event"] == "listening":
                return str(event["url"]).removeprefix("http://")
        return None

    def until(self, said: str) -> None:
        """Wait until it has logged an event with these words."""
        until(lambda: any(said in event["event"] for event in self.events()), f"{self.log} says {said!r}")


@contextmanager
def scene(world: World, seed: str, folder: Path) -> Iterator[Scene]:
    """A scene in `folder`, which is removed afterwards unless something goes wrong."""
    found = Scene(folder, world=world, seed=seed)
    try:
        yield found
    finally:
        found.close()
    shutil.rmtree(folder)
