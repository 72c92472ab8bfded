"""The measurement from the first request to the last point: probes alone, a sweep of fixed concurrency, our own load."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from statistics import mean, median
from typing import Protocol

import msgspec

from mira_stream.audit.bench.alone import PREFILLS, REPLIES, ask_alone
from mira_stream.audit.bench.figures import next_doubling, refinement
from mira_stream.audit.bench.fleet import FixedLoad, Fleet
from mira_stream.audit.bench.own_load import OwnLoad
from mira_stream.audit.bench.steady import points_of
from mira_stream.audit.bench.values import Alone, Failure, Mix, Point, Window
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.snapshot import ReplicaSnapshot
from mira_stream.core.errors import Refusal

OWN = "mira-stream"
ALONE = "one request at a time"
ALONE_STEPS = PREFILLS + REPLIES + 1
POINTS_EXPECTED = 9
_WARM_UP_SHARE_MAX = 4.0
_REFINEMENTS = 2
_TICKS = 20
_QUIET_SECONDS = 60.0


Keep = Callable[[int], Awaitable[None]]
"""Keeps so many requests in flight per replica from now on."""


class MeasureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` are those of a point's steady state; `concurrency` per replica, None: find out."""

    seconds: float = 120.0
    concurrency: tuple[int, ...] | None = None
    admission: AdmissionSettings = AdmissionSettings()


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """All requests that failed in one way, and what a replica said to the first of them."""

    reason: str
    requests: int
    example: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found; `own` is the point of mira-stream's own admission, `snapshots` what that learned.

    `interrupted`: it was told to stop before the end. `broken`: why it ended early of itself; empty if it did not.
    """

    alone: Sequence[Alone]
    mix: Mix
    sweep: Sequence[Point]
    own: Point | None
    snapshots: Sequence[ReplicaSnapshot]
    failures: Sequence[Failures]
    interrupted: bool
    broken: str


class Watcher(Protocol):
    """Who is told how it goes."""

    def step(self, what: str, *, share: float, points: Sequence[Point]) -> None:
        """`what` is done now, `share` (0…1) of it; `points` are those measured so far."""


class Measuring:
    """One run of the bench. Set `stop` to end it early, with what there is."""

    def __init__(
        self,
        fleet: Fleet,
        settings: MeasureSettings,
        *,
        watcher: Watcher,
        stop: asyncio.Event,
        random: Random,
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._watcher = watcher
        self._stop = stop
        self._random = random
        self._alone: list[Alone] = []
        self._windows: list[Window] = []
        self._own: Window | None = None
        self._snapshots: Sequence[ReplicaSnapshot] = ()
        self._broken = ""

    async def run(self) -> Measured:
        """Measure. Raises Refusal if no request at all is answered."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work())
            stopper = group.create_task(self._cancel_when_stopped(work))
            work.add_done_callback(lambda _: stopper.cancel())
        points = self._points()
        return Measured(
            alone=self._alone,
            mix=self._mix(),
            sweep=sorted(points[: len(self._windows)], key=lambda point: point.concurrency),
            own=points[-1] if self._own else None,
            snapshots=self._snapshots,
            failures=self._failures(),
            interrupted=self._stop.is_set(),
            broken=self._broken,
        )

    async def _cancel_when_stopped(self, work: "asyncio.Task[None]") -> None:
        await self._stop.wait()
        work.cancel()

    async def _work(self) -> None:
        await self._probe_alone()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._fleet.watch())
            load = FixedLoad(self._fleet)
            await self._sweep(lambda concurrency: load.set(concurrency, group))
            await load.stop()
            watching.cancel()
        if not self._broken:
            await self._quiet()
            await self._run_own()

    # The parts.

    async def _probe_alone(self) -> None:
        steps = iter(range(1, ALONE_STEPS * len(self._fleet.replicas) + 1))

        def on_step() -> None:
            share = next(steps, 0) / (ALONE_STEPS * len(self._fleet.replicas))
            self._watcher.step(ALONE, share=share, points=())

        self._alone = await ask_alone(self._fleet, on_step)
        if not self._fleet.answers:
            raise _nothing_answered(self._fleet.failures)
        # They were asked for one token each: they say nothing about replies.
        self._fleet.answers.clear()

    async def _sweep(self, keep: Keep) -> None:
        if self._settings.concurrency is not None:
            for concurrency in self._settings.concurrency:
                await self._fixed(keep, concurrency)
                if self._broken:
                    return
            return
        while (following := next_doubling(self._points())) is not None:
            await self._fixed(keep, following)
            if self._broken:
                return
        for _ in range(_REFINEMENTS):
            between = refinement(self._points())
            if between is None:
                return
            await self._fixed(keep, between)

    async def _fixed(self, keep: Keep, concurrency: int) -> None:
        await keep(concurrency)
        window = await self._steady(f"{concurrency}", concurrency, warm_up=concurrency)
        self._windows.append(window)
        if len(window.failures) > sum(one.ended >= window.begin for one in window.answers):
            self._broken = f"at {concurrency} in flight per replica most requests failed"

    async def _run_own(self) -> None:
        own = OwnLoad(self._fleet, self._settings.admission, self._random)
        usual = max((point.concurrency for point in self._points()), default=8.0)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(own.run())
            window = await self._steady(OWN, 0, warm_up=round(min(usual, 64)))
            self._snapshots = own.control.snapshot(self._fleet.pace.now())
            running.cancel()
        self._own = msgspec.structs.replace(window, concurrency=_mean_flights(window))

    async def _steady(self, name: str, concurrency: float, *, warm_up: int) -> Window:
        """Wait until about so many requests per replica have ended, then measure."""
        fleet, seconds = self._fleet, self._settings.seconds
        began, already = fleet.pace.now(), fleet.ended_count
        wanted, longest = warm_up * len(fleet.replicas), _WARM_UP_SHARE_MAX * seconds
        points = self._points()
        while (ended := fleet.ended_count - already) < wanted and fleet.pace.now() - began < longest:
            self._watcher.step(f"{_said(name)}: warming up", share=ended / wanted / 3, points=points)
            await fleet.pace.sleep(seconds / _TICKS)
        begin, settled = fleet.pace.now(), ended >= wanted
        while (passed := fleet.pace.now() - begin) < seconds:
            self._watcher.step(
                f"{_said(name)}: measuring", share=(1 + 2 * passed / seconds) / 3, points=points
            )
            await fleet.pace.sleep(min(seconds / _TICKS, seconds - passed))
        return fleet.window(name, concurrency, begin=begin, settled=settled)

    async def _quiet(self) -> None:
        """Wait, not for ever, until the engines have dropped what was given up."""
        deadline = self._fleet.pace.now() + _QUIET_SECONDS
        while self._fleet.pace.now() < deadline:
            loads = [await self._fleet.look(replica) for replica in self._fleet.replicas]
            if all(load is None or load.running + load.waiting == 0 for load in loads):
                return
            await self._fleet.pace.sleep(1.0)

    # What it comes to.

    def _points(self) -> list[Point]:
        return points_of([*self._windows, *([self._own] if self._own else [])], self._mix())

    def _mix(self) -> Mix:
        rates = [one.prefill_tokens_per_second for one in self._alone if one.prefill_tokens_per_second]
        return Mix(
            prompt_tokens=self._fleet.bodies.mean_prompt_tokens(),
            output_tokens=self._fleet.output_tokens,
            prefill_tokens_per_second=median(rates) if rates else None,
        )

    def _failures(self) -> list[Failures]:
        kinds: dict[str, list[Failure]] = {}
        for failure in self._fleet.failures:
            kinds.setdefault(failure.reason, []).append(failure)
        return [
            Failures(reason=reason, requests=len(those), example=those[0].message)
            for reason, those in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ]


def _said(name: str) -> str:
    return name if name == OWN else f"{name} in flight per replica"


def _mean_flights(window: Window) -> float:
    looks = [look for those in window.looks.values() for look in those]
    return mean([len(look.flights) for look in looks]) if looks else 0.0


def _nothing_answered(failures: Sequence[Failure]) -> Refusal:
    said = failures[-1].message if failures else "nothing was sent"
    return Refusal(
        f"not one request was answered: {said}", "try `mira-stream check`, which says what is wrong"
    )
