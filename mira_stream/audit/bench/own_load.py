"""The product's own admission in place of a fixed concurrency: what it reaches with nothing configured."""

import asyncio
from itertools import count
from random import Random

from mira_stream.audit.bench.bodies import Body
from mira_stream.audit.bench.fleet import Fleet
from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted
from mira_stream.control.retry import classify
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate
from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient
from mira_stream.core.usage import Reply

_LOOK_WALL_SECONDS_MIN = 0.02


class OwnLoad:
    """Keeps the replicas busy as the daemon's dispatcher does; `run` never returns, so cancel it."""

    def __init__(self, fleet: Fleet, settings: AdmissionSettings, random: Random) -> None:
        self._fleet = fleet
        self._settings = settings
        self._random = random
        self._tickets = count()
        self._bodies: dict[int, Body] = {}
        self._wake = asyncio.Event()
        self.control = PoolControl(list(fleet.replicas), settings)

    async def run(self) -> None:
        """Send what is admitted, for ever."""
        async with asyncio.TaskGroup() as group:
            for replica in self._fleet.replicas:
                group.create_task(self._watch(replica))
            while True:
                self._wake.clear()
                wake_at = self._send_all(group)
                pause = None if wake_at is None else wake_at - self._fleet.pace.now()
                await self._fleet.pace.within(self._wake, pause)

    def _send_all(self, group: asyncio.TaskGroup) -> float | None:
        while True:
            while len(self.control.window) < self.control.window.places:
                self._offer()
            decision = self.control.decide(self._fleet.pace.now())
            if not isinstance(decision, Admitted):
                return decision.wake_at
            group.create_task(self._follow(decision))

    def _offer(self) -> None:
        ticket, body = next(self._tickets), self._fleet.bodies.next()
        self._bodies[ticket] = body
        tokens = self._fleet.bodies.prompt_tokens(body)
        self.control.offer(Candidate(ticket=ticket, prompt_tokens=tokens))

    async def _follow(self, admitted: Admitted) -> None:
        permit, usage = admitted.permit, None
        try:
            ended = await self._fleet.ask(permit.replica, self._bodies.pop(admitted.candidate.ticket))
            usage = ended.usage if isinstance(ended, Reply) else None
        finally:
            self.control.settle(permit, usage, self._fleet.pace.now())
            self._wake.set()
        if isinstance(ended, Transient | Saturated | Permanent):
            self._failed(permit.replica, ended)

    def _failed(self, replica: str, error: Transient | Saturated | Permanent) -> None:
        """The replica's breaker hears of it; the record is not sent again: others are like it."""
        fault = classify(error, others_answered=True, over_length=False)
        self.control.failed(replica, fault, self._fleet.pace.now(), self._random.random())

    async def _watch(self, replica: str) -> None:
        """Look at the replica as often as the daemon does: now and then, and sooner where admission waits for it."""
        pace, settings = self._fleet.pace, self._settings
        least = max(settings.scrape_seconds_min, _LOOK_WALL_SECONDS_MIN / pace.scale)
        looked_at = pace.now()
        while True:
            await pace.sleep(least)
            asked_at = pace.now()
            if not self.control.wants_look(replica) and asked_at - looked_at < settings.scrape_seconds:
                continue
            await self._probe_if_due(replica)
            looked_at = asked_at = pace.now()
            load = await self._fleet.look(replica)
            if load is not None:
                self.control.observe(replica, load, asked_at, pace.now())
                self._wake.set()

    async def _probe_if_due(self, replica: str) -> None:
        now = self._fleet.pace.now()
        if replica not in self.control.probes_due(now):
            return
        try:
            await self._fleet.replicas[replica].models()
            answered = True
        except MiraStreamError:
            answered = False
        self.control.probed(replica, self._fleet.pace.now(), self._random.random(), ok=answered)
        self._wake.set()
