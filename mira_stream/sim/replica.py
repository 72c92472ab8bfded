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
from mira_stream.sim.settings import SimSettings, block_tokens, check_sizes, kv_blocks, state_blocks
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
    peak_unprefilled_tokens: int  # of the engine that had most
    peak_kv_usage: float  # of the engine that had most
    preemptions: int
    recomputed_tokens: int
    prefix_hit_tokens: int


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
        self._origin = time.monotonic()
        self.metrics = Metrics(settings, started=self.started)
        self.faults = FaultPlan(settings.faults, seed=settings.seed)
        kinds = damage_kinds(settings.damage_kinds)
        self._scorer = Scorer(DamagePlan(settings.damage_share, kinds, settings.seed))
        self.log = RequestLog(settings.request_log)
        self._engines = [_engine(settings) for _ in range(settings.engines)]
        self._drivers = [
            Driver(engine, metrics, time_scale=settings.time_scale)
            for engine, metrics in zip(self._engines, self.metrics.engines, strict=True)
            if settings.time_scale
        ]
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
        engines = self._engines
        return SimStats(
            requests=self.requests,
            in_flight=self._in_flight,
            prompt_tokens=sum(metrics.prompt_tokens for metrics in self.metrics.engines),
            generation_tokens=sum(metrics.generation_tokens for metrics in self.metrics.engines),
            unprefilled_tokens=sum(engine.unprefilled_tokens for engine in engines),
            peak_unprefilled_tokens=max(engine.peak_unprefilled_tokens for engine in engines),
            peak_kv_usage=max(engine.peak_kv_blocks / engine.kv.capacity for engine in engines),
            preemptions=sum(engine.preemptions for engine in engines),
            recomputed_tokens=sum(engine.recomputed_tokens for engine in engines),
            prefix_hit_tokens=sum(engine.prefix_hit_tokens for engine in engines),
            **self.outcomes,
        )

    def modelled_seconds(self) -> float:
        """Modelled seconds since the start; wall seconds if answers come at once."""
        return (time.monotonic() - self._origin) / (self.settings.time_scale or 1.0)

    def wall_seconds_to(self, modelled: float) -> float:
        """Wall seconds from now until so many modelled seconds since the start; 0 if they have passed."""
        return max(0.0, (modelled - self.modelled_seconds()) * (self.settings.time_scale or 1.0))

    def metrics_page(self) -> bytes:
        """`/metrics`, as it stands or as a planned fault has frozen it."""
        return self.metrics.page(frozen=self.faults.frozen(self.modelled_seconds()))

    def load_report(self) -> dict[str, float]:
        """What a client can have with each answer (ORCA); of several engines the last one's, as in vLLM."""
        stats = self.metrics.engines[-1].stats
        return {"num_requests_waiting": float(stats.waiting), "kv_cache_usage_perc": stats.kv_usage}

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
        if limit is not None and sum(engine.queued for engine in self._engines) >= limit:
            self.metrics.rejections["max_num_queued_reqs"] += 1
            raise error(503, BUSY)
        arrived = self._drivers[0].now() if self._drivers else 0.0
        generated = [self._generate(call, prompt, budget, arrived) for prompt, budget in budgets]
        if not self._drivers:
            for completion, sequence in generated:
                sequence.finish_at_once()
                self.metrics.engines[0].count_at_once(sequence, completion.finish_reason)
            return generated, None
        reasons = [one.completion.finish_reason for one in generated]
        ticket = Ticket([one.sequence for one in generated], reasons, follow=follow)
        for sequence in ticket.sequences:
            self._least_loaded().submit(sequence, ticket)
        return generated, ticket

    def _least_loaded(self) -> Driver:
        """The engine that gets the next sequence: vLLM weighs a waiting one like four that run."""
        return min(self._drivers, key=lambda driver: 4 * driver.engine.waiting + driver.engine.running)

    def withdraw(self, ticket: Ticket) -> None:
        """Drop what is left of a call: its client has gone, or it is done."""
        if ticket.left:
            for driver in self._drivers:
                driver.withdraw(ticket)

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
        for driver in self._drivers:
            driver.die()

    def close(self) -> None:
        """Let go of files; idempotent."""
        self.die()
        self.log.close()

    def _generate(self, call: Call, prompt: Prompt, budget: int, arrived: float) -> Generated:
        request = call.request
        completion = self._scorer.complete(
            prompt.parts,
            max_tokens=budget,
            stops=request.stops,
            keep_stop=request.include_stop_str_in_output,
        )
        sequence = Sequence(
            prompt.tokens,
            output_tokens=completion.tokens,
            output_tokens_max=budget,
            arrived=arrived,
            keys=prompt.keys,
        )
        return Generated(completion, sequence)


def _engine(settings: SimSettings) -> Engine:
    limits = EngineLimits(
        batched_tokens_max=settings.max_num_batched_tokens,
        running_max=settings.max_num_seqs,
        kv_blocks=kv_blocks(settings),
        block_tokens=block_tokens(settings),
        reserve_full_isl=settings.reserve_full_isl,
        watermark=settings.watermark,
        prefix_cache=settings.prefix_cache != "off",
        aligned=settings.prefix_cache == "hybrid",
        state_blocks=state_blocks(settings),
    )
    cost = StepCost(
        fixed_seconds=settings.step_seconds,
        prefill_token_seconds=settings.prefill_token_seconds,
        decode_token_seconds=settings.decode_token_seconds,
        resident_token_seconds=settings.resident_token_seconds,
    )
    return Engine(limits, cost)
