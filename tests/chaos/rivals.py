"""Daemons with ledgers of their own on the same partitions: zombies that come back late, strangers, and kills."""

import signal
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from random import Random

from tests.chaos.oracle import Violation
from tests.chaos.processes import Stopwatch, end, is_stopped
from tests.chaos.scene import Daemon, Scene
from tests.e2e.daemon import Scrape
from tests.e2e.harness import until

ALARM = "mira_stream_sink_rival_segments_total"
ALARM_EVENT = "a rival published a segment of our chain"
EXIT_REFUSED = 2
ZOMBIE_STEPS = (
    "receive.after",
    "seal.before",
    "seal.after",
    "publish.before",
    "publish.after",
    "confirm.before",
)
SEALED_STEPS = ("seal.after", "publish.before")
"""A zombie that stands there holds a plan that is not published: what others publish meanwhile takes its place."""
_STRANGERS = ({"sink": {"shards": 3}}, {"source": {"name_from": "field:name"}})
_BACKLOG_LINES = 200
_ACT_SECONDS = 0.4
_STALL_SECONDS = 20.0
_LATE_SEGMENTS = 8


class RivalTally:
    """What happened, summed up over rounds."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.starts = 0
        self.zombies: Counter[str] = Counter()
        self.alarms = 0
        self.strangers_refused = 0
        self.lines = 0
        self.rows = 0
        self.doubled = 0
        self.segments = 0


class RivalRound:
    """Two to four daemons at once; any of them may be killed and started again, until so many were."""

    def __init__(self, scene: Scene, tally: RivalTally) -> None:
        self._scene = scene
        self._tally = tally
        self._rng: Random = scene.rng("rivals")
        self._configs = [scene.configure(f"rival-{n}") for n in range(self._rng.randint(2, 4))]
        self._daemons: dict[Path, Daemon] = {}

    def run(self, kills: int) -> None:
        """Raises Violation."""
        self._scene.start_replicas()
        self._top_up()
        for config in self._configs[1:]:
            self._start(config)
        self._let_a_zombie_come_back()
        self._refuse_a_stranger()
        for _ in range(kills):
            self._kill_one()
        self._end_all()
        self._scene.finish(*self._configs)
        self._tally.lines += self._scene.lake.total
        self._tally.rows += self._scene.oracle.rows
        self._tally.doubled += self._scene.oracle.doubled
        self._tally.segments += self._scene.oracle.segments

    def _start(self, config: Path, failpoint: str = "") -> Daemon:
        self._tally.starts += 1
        daemon = self._daemons[config] = self._scene.start(config, failpoint=failpoint)
        self._scene.note(start=config.stem, failpoint=failpoint, log=daemon.log.name)
        return daemon

    def _top_up(self) -> None:
        while self._scene.lake.total - self._scene.oracle.rows < _BACKLOG_LINES:
            self._scene.lake.land()

    def _let_a_zombie_come_back(self) -> None:
        """It stops at a step, the others go on, and it comes back late: it must adopt, say so, and go on."""
        step = self._rng.choice(ZOMBIE_STEPS)
        zombie = self._start(self._configs[0], f"{step}@{self._rng.randint(1, 3)}:stop")
        self._busy_until(lambda: is_stopped(zombie.process), f"{zombie.log} stops at {step}", zombie)
        oracle = self._scene.oracle
        late = oracle.segments + _LATE_SEGMENTS
        self._busy_until(lambda: oracle.segments >= late, "the others publish without it")
        zombie.process.send(signal.SIGCONT)
        self._tally.zombies[step] += 1
        if step in SEALED_STEPS:
            self._busy_until(lambda: self._alarm(zombie) > 0, f"the zombie at {step} raises {ALARM}", zombie)
        later = oracle.segments
        self._busy_until(lambda: oracle.segments > later, "publishing goes on after it came back", zombie)

    def _refuse_a_stranger(self) -> None:
        """Another configuration on the same sink writes nothing."""
        changes = self._rng.choice(_STRANGERS)
        stranger = self._scene.start(self._scene.configure("stranger", **changes))
        code = stranger.process.wait(_STALL_SECONDS)
        if code != EXIT_REFUSED or "laid out differently" not in stranger.log.read_text("utf-8"):
            raise Violation(f"a stranger with {changes} ended with {code}: {stranger.tail()}")
        self._tally.strangers_refused += 1

    def _kill_one(self) -> None:
        """At a random moment one of them dies, some of them while they stand still; it is started again."""
        self._top_up()
        config = self._rng.choice(self._configs)
        daemon = self._daemons[config]
        clock, moment = Stopwatch(), self._rng.uniform(0.0, _ACT_SECONDS)
        stopped = self._rng.random() < 0.3
        if stopped:
            daemon.process.send(signal.SIGSTOP)
        self._check_alive(daemon.process.wait(moment - clock.seconds), daemon)
        code = end(daemon.process)
        self._tally.kills["stopped" if stopped else "moment"] += 1
        self._scene.note(killed=config.stem, code=code, after=moment, stopped=stopped)
        self._collect_alarms(daemon)
        self._scene.oracle.look()
        self._start(config)

    def _end_all(self) -> None:
        """SIGTERM to all; whoever is up publishes what it has received."""
        for daemon in self._daemons.values():
            daemon.process.send(signal.SIGTERM)
        for daemon in self._daemons.values():
            code = daemon.process.wait(_STALL_SECONDS)
            if code not in (0, -signal.SIGTERM):
                raise Violation(f"{daemon.log} ended with {code}: {daemon.tail()}")
            self._collect_alarms(daemon)
        if not self._tally.alarms:
            raise Violation("rivals raced, and no alarm rose")

    def _collect_alarms(self, daemon: Daemon) -> None:
        self._tally.alarms += sum(ALARM_EVENT in event["event"] for event in daemon.events())

    def _busy_until(self, holds: Callable[[], bool], what: str, *watched: Daemon) -> None:
        """Wait for something while the lake grows and all those watched live."""

        def now() -> bool:
            self._scene.oracle.look()
            self._top_up()
            for daemon in watched:
                self._check_alive(daemon.process.wait(0), daemon)
            return holds()

        until(now, what, seconds=_STALL_SECONDS)

    def _alarm(self, daemon: Daemon) -> float:
        """The metric, as a monitor sees it."""
        address = daemon.address()
        if address is None:
            return 0.0
        connection = HTTPConnection(address, timeout=_STALL_SECONDS)
        try:
            connection.request("GET", "/metrics")
            return Scrape(connection.getresponse().read().decode()).sum(ALARM)
        finally:
            connection.close()

    def _check_alive(self, code: int | None, daemon: Daemon) -> None:
        if code is not None:
            raise Violation(f"{daemon.log} ended with {code}: {daemon.tail()}")
