"""One daemon after the other on one ledger, each killed: at a random moment, or at a step of the commit protocol."""

import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mira_stream.core.failpoint import FAILPOINTS
from tests.chaos.oracle import Violation
from tests.chaos.processes import Stopwatch, end
from tests.chaos.replays import Lost, check_kept, lost_per_life, read_requests
from tests.chaos.scene import COLD_SHARE, Daemon, Scene

FRUITLESS_MAX = 4
"""So many starts in a row may end before they published anything; the next one is left alone until it has."""
PROGRESS_SECONDS_MAX = 30.0
_STEPS = sorted(FAILPOINTS, key=lambda name: name.partition(".")[::-1])
_BACKLOG_LINES = 150
_LIFE_SECONDS = 0.7
_IMPORT_SECONDS = 0.7
_FAILPOINT_SECONDS = 2.0
_DRAIN_SECONDS = 0.3
_LOOK_SECONDS = 0.05


class Plan(NamedTuple):
    """How one daemon is to live and die. Seconds count from its start.

    Args:
        failpoint: where it kills itself, or empty; it is killed at `seconds` if it does not come there.
        drained_after: seconds at which it is asked to stop by SIGTERM, or None.
        lands: when objects land; replica_dies: which replica is killed when, or None.
    """

    once: bool
    cold: bool
    failpoint: str
    seconds: float
    drained_after: float | None
    lands: tuple[float, ...]
    replica_dies: tuple[int, float] | None


class Tally:
    """What happened, summed up over rounds."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.starts = 0
        self.cold_starts = 0
        self.ended_by_themselves = 0
        self.terminated_early = 0
        self.killed_before_listening = 0
        self.replica_kills = 0
        self.fruitless_longest = 0
        self.left_alone = 0
        self.progress_seconds_max = 0.0
        self.rows = 0
        self.doubled = 0
        self.segments = 0
        self.objects = 0
        self.lines = 0
        self.ends: Counter[str] = Counter()
        self.requests = 0
        self.lost: list[Lost] = []

    def add_scene(self, scene: Scene) -> None:
        """What came out of a round."""
        self.rows += scene.oracle.rows
        self.segments += scene.oracle.segments
        self.objects += len(scene.lake.lines)
        self.lines += scene.lake.total
        self.doubled += scene.oracle.doubled
        self.ends += scene.oracle.ends


class CrashRound:
    """So many kills of a lone daemon, then the oracle's last word."""

    def __init__(self, scene: Scene, tally: Tally) -> None:
        self._scene = scene
        self._tally = tally
        self._config: Path = scene.configure("alone")
        self._fruitless = 0
        self._starts: list[float] = []
        self._ends: list[float] = []

    def run(self, kills: int) -> None:
        """Raises Violation."""
        killed = 0
        while killed < kills:
            self._scene.start_replicas()
            self._top_up()
            plan = self._draw()
            is_patient = self._fruitless >= FRUITLESS_MAX
            killed += self._live(_left_alone(plan) if is_patient else plan)
        self._live_to_the_end()
        self._count_replays()
        self._tally.add_scene(self._scene)

    def _draw(self) -> Plan:
        number = len(self._starts)
        rng = self._scene.rng(f"life {number}")
        cold = rng.random() < COLD_SHARE
        at_step, drained = rng.random() < 0.4, rng.random() < 0.1
        start = _IMPORT_SECONDS if cold else 0.0
        moment = rng.uniform(0.0, start + _LIFE_SECONDS)
        seconds = start + _FAILPOINT_SECONDS if at_step else moment
        return Plan(
            once=rng.random() < 0.3,
            cold=cold,
            failpoint=f"{_STEPS[number % len(_STEPS)]}@{rng.choice((1, 1, 2, 2, 3, 5, 8))}"
            if at_step
            else "",
            seconds=seconds + (_DRAIN_SECONDS if drained else 0.0),
            drained_after=moment if drained and not at_step else None,
            lands=tuple(sorted(rng.uniform(0.0, seconds) for _ in range(rng.randint(0, 2)))),
            replica_dies=(rng.randrange(len(self._scene.replicas)), moment) if rng.random() < 0.1 else None,
        )

    def _top_up(self) -> None:
        while self._scene.lake.total - self._scene.oracle.rows < _BACKLOG_LINES:
            self._scene.lake.land()

    def _live(self, plan: Plan) -> bool:
        """One life; whether it was killed."""
        scene, tally = self._scene, self._tally
        sizes = scene.lake.sizes()
        scene.note(start=tally.starts, **plan._asdict())
        self._starts.append(_now())
        daemon = scene.start(self._config, once=plan.once, failpoint=plan.failpoint, cold=plan.cold)
        tally.starts += 1
        tally.cold_starts += plan.cold
        clock = Stopwatch()
        code = self._act(daemon, plan, clock)
        progressed = False
        if code is None and self._fruitless >= FRUITLESS_MAX:
            code = self._until_progress(daemon, clock)
            progressed = True
        by_us = code is None
        if code is None:
            code = end(daemon.process)
            tally.killed_before_listening += daemon.address() is None
        self._ends.append(_now())
        scene.note(code=code, by_us=by_us, seconds=round(clock.seconds, 3), rows=scene.oracle.rows)
        self._judge(daemon, plan, code, by_us=by_us)
        is_done = code == 0 and plan.drained_after is None
        published = scene.oracle.look()
        if is_done:
            scene.oracle.expect(sizes, "after a run --once that ended well")
        self._fruitless = 0 if published or is_done or progressed else self._fruitless + 1
        tally.fruitless_longest = max(tally.fruitless_longest, self._fruitless)
        return code == -signal.SIGKILL

    def _act(self, daemon: Daemon, plan: Plan, clock: Stopwatch) -> int | None:
        """What happens while it lives, up to the moment of its death; its exit code if it ended before."""
        acts = [(at, "land") for at in plan.lands] + [(plan.seconds, "kill")]
        if plan.replica_dies is not None:
            acts.append((plan.replica_dies[1], "replica"))
        if plan.drained_after is not None:
            acts.append((plan.drained_after, "drain"))
        for at, act in sorted(acts):
            if (code := daemon.process.wait(at - clock.seconds)) is not None:
                return code
            if act == "land":
                self._scene.lake.land()
            elif act == "drain":
                daemon.process.send(signal.SIGTERM)
            elif act == "replica" and plan.replica_dies is not None:
                self._scene.replicas[plan.replica_dies[0]].kill()
                self._tally.replica_kills += 1
        return None

    def _until_progress(self, daemon: Daemon, clock: Stopwatch) -> int | None:
        """Left alone until it has published something. Raises Violation if it does not."""
        self._tally.left_alone += 1
        self._scene.start_replicas()
        while not self._scene.oracle.look():
            if (code := daemon.process.wait(_LOOK_SECONDS)) is not None:
                return code
            if clock.seconds > PROGRESS_SECONDS_MAX:
                raise Violation(f"no progress in {PROGRESS_SECONDS_MAX:g} s ({daemon.log}): {daemon.tail()}")
        self._tally.progress_seconds_max = max(self._tally.progress_seconds_max, clock.seconds)
        return None

    def _judge(self, daemon: Daemon, plan: Plan, code: int, *, by_us: bool) -> None:
        if code == -signal.SIGKILL:
            self._tally.kills["moment" if by_us else plan.failpoint.partition("@")[0]] += 1
        elif code == 0 and (plan.once or plan.drained_after is not None):
            self._tally.ended_by_themselves += 1
        elif code == -signal.SIGTERM and plan.drained_after is not None:
            self._tally.terminated_early += 1
        else:
            raise Violation(f"a daemon ended with {code} ({daemon.log}): {daemon.tail()}")

    def _live_to_the_end(self) -> None:
        self._starts.append(_now())
        self._scene.finish(self._config)
        self._ends.append(_now())

    def _count_replays(self) -> None:
        requests = read_requests(replica.requests for replica in self._scene.replicas)
        lost = lost_per_life(requests, self._starts, self._ends)
        check_kept(lost)
        self._tally.requests += len(requests)
        self._tally.lost += lost


def _left_alone(plan: Plan) -> Plan:
    """The same, without anything that could end it before it has published something."""
    return plan._replace(once=False, failpoint="", drained_after=None)


def _now() -> float:
    """Seconds since the epoch, as in the replicas' logs."""
    return time.time()
