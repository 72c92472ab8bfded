"""The simulated replica behind its HTTP surface: engine, scorer, faults, and how it dies."""

import asyncio
import os
import time
from enum import Enum, auto
from zlib import crc32

import msgspec

from mira_stream.sim.answers import Head, Kind
from mira_stream.sim.damage import DamagePlan, damage_kinds
from mira_stream.sim.driver import Driver, EngineDead, Ticket
from mira_stream.sim.engine import Engine, EngineLimits, StepCost
from mira_stream.sim.faults import FaultPlan
from mira_stream.sim.intake import Call, Prompt
from mira_stream.sim.metrics import Metrics
from mira_stream.sim.request_log import RequestLog
from mira_stream.sim.scorer import Scorer
from mira_stream.sim.sequence import Sequence
from mira_stream.sim.settings import BLOCK_TOKENS, SimSettings, check_sizes
from mira_stream.sim.stream import Generated
from mira_stream.sim.wire import BUSY, LEAVING, VERSION, error


class SimStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica has seen so far, for tests and benches; gauges are exact, not as of the last step."""

    requests: int
    answered: int
    refused: int
    faulted: int
    aborted: int
    in_flight: int
    prompt_tokens: int
    generation_tokens: int
    unprefilled_tokens: int
    peak_unprefilled_tokens: int
    peak_kv_usage: float


class Ending(Enum):
    """How a replica's life ends."""

    STOPPED = auto()  # asked to: SIGTERM
    CRASHED = auto()  # the engine died: everything in flight gets a 500, then the server leaves
    KILLED = auto()  # gone at once, connections and all


class SimReplica:
    """One replica's state. Synchronous except where it waits; use it on one event loop."""

    def __init__(self, settings: SimSettings) -> None:
        """Raises Refusal for settings that no server would start with, and for faults that cannot be read."""
        check_sizes(settings)
        self.settings = settings
        self.started = time.time()
        self.metrics = Metrics(settings, started=self.started)
        self.faults = FaultPlan(settings.faults, seed=settings.seed)
        kinds = damage_kinds(settings.damage_kinds)
        self._scorer = Scorer(DamagePlan(settings.damage_share, kinds, settings.seed))
        self.log = RequestLog(settings.request_log)
        self._engine = _engine(settings)
        self._driver = (
            Driver(self._engine, self.metrics, time_scale=settings.time_scale)
            if settings.time_scale
            else None
        )
        self._fingerprint = f"vllm-{VERSION}-{crc32(msgspec.json.encode(settings)):08x}"
        self.outcomes = dict.fromkeys(("answered", "refused", "faulted", "aborted"), 0)
        self.requests = 0
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._arrived = asyncio.Event()
        self.draining = False
        self.ending: Ending | None = None
        self.ended = asyncio.Event()
        self._dead = asyncio.Event()

    @property
    def dead(self) -> bool:
        """Whether the engine is gone."""
        return self._dead.is_set()

    @property
    def stats(self) -> SimStats:
        """What happened so far."""
        return SimStats(
            requests=self.requests,
            in_flight=self._in_flight,
            prompt_tokens=self.metrics.prompt_tokens,
            generation_tokens=self.metrics.generation_tokens,
            unprefilled_tokens=self._engine.unprefilled_tokens,
            peak_unprefilled_tokens=self._engine.peak_unprefilled_tokens,
            peak_kv_usage=self._engine.peak_kv_blocks / self._engine.kv.capacity,
            **self.outcomes,
        )

    def arrive(self) -> int:
        """A generation request has come whole; returns its number, from 1."""
        self.requests += 1
        self._in_flight += 1
        self._drained.clear()
        self._arrived.set()
        return self.requests

    def leave(self, outcome: str) -> None:
        """A generation request has gone, one way or another."""
        self.outcomes[outcome] += 1
        self._in_flight -= 1
        if not self._in_flight:
            self._drained.set()

    def head(self, kind: Kind, request_id: str | None) -> Head:
        """What the answer begins with; its id is the client's if it gave one."""
        identity = request_id or os.urandom(8).hex()
        return Head(
            kind, f"{kind.prefix}-{identity}", int(time.time()), self.settings.model, self._fingerprint
        )

    def begin(self, call: Call, *, follow: bool) -> tuple[list[Generated], Ticket | None]:
        """Start a call. The ticket is None if everything is done already (time scale 0).

        Raises WireError for what is too long, for a full queue, and while leaving; EngineDead.
        """
        if self.dead:
            raise EngineDead
        if self.draining:
            raise error(500, LEAVING)
        budgets = call.budgets(self.settings.max_model_len)
        limit = self.settings.max_num_queued_reqs
        if limit is not None and self._engine.queued >= limit:
            self.metrics.rejections["max_num_queued_reqs"] += 1
            raise error(503, BUSY)
        generated = [self._generate(call, prompt, budget) for prompt, budget in budgets]
        if self._driver is None:
            for completion, sequence in generated:
                sequence.generated = sequence.output_tokens
                self.metrics.count_at_once(sequence, completion.finish_reason)
            return generated, None
        reasons = [one.completion.finish_reason for one in generated]
        ticket = Ticket([one.sequence for one in generated], reasons, follow=follow)
        self._driver.submit(ticket)
        return generated, ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Drop what is left of a call: its client has gone, or it is done."""
        if self._driver is not None and ticket.left:
            self._driver.withdraw(ticket)

    async def pause(self, seconds: float | None) -> None:
        """Wait that many wall seconds, for ever if None. Raises EngineDead if the engine dies meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._dead.wait()
        except TimeoutError:
            return
        raise EngineDead

    async def reached(self, requests: int) -> None:
        """Wait until so many requests have come: each is in the engine then, or at its fault, or gone."""
        while self.requests < requests:
            self._arrived.clear()
            await self._arrived.wait()

    async def drained(self, seconds: float | None) -> None:
        """Wait until no generation request is in flight, at most so long if not None."""
        try:
            async with asyncio.timeout(seconds):
                await self._drained.wait()
        except TimeoutError:
            return

    def end(self, ending: Ending) -> None:
        """Begin to end; the first ending counts. A crash takes the engine down at once."""
        if self.ending is None:
            self.ending = ending
            self.ended.set()
        if ending is Ending.CRASHED:
            self.die()

    def die(self) -> None:
        """The engine is gone; everything in flight learns of it. Idempotent."""
        self._dead.set()
        if self._driver is not None:
            self._driver.die()

    def close(self) -> None:
        """Let go of files; idempotent."""
        self.die()
        self.log.close()

    def _generate(self, call: Call, prompt: Prompt, budget: int) -> Generated:
        request = call.request
        completion = self._scorer.complete(
            prompt.parts,
            max_tokens=budget,
            stops=request.stops,
            keep_stop=request.include_stop_str_in_output,
        )
        arrived = self._driver.now() if self._driver is not None else 0.0
        sequence = Sequence(
            prompt.tokens, output_tokens=completion.tokens, output_tokens_max=budget, arrived=arrived
        )
        return Generated(completion, sequence)


def _engine(settings: SimSettings) -> Engine:
    limits = EngineLimits(
        batched_tokens_max=settings.max_num_batched_tokens,
        running_max=settings.max_num_seqs,
        kv_blocks=settings.kv_capacity_tokens // BLOCK_TOKENS,
        block_tokens=BLOCK_TOKENS,
    )
    cost = StepCost(
        fixed_seconds=settings.step_seconds,
        prefill_token_seconds=settings.prefill_token_seconds,
        decode_token_seconds=settings.decode_token_seconds,
        resident_token_seconds=settings.resident_token_seconds,
    )
    return Engine(limits, cost)
