"""The whole decision of one pool: which record goes where now, or what keeps all of them waiting."""

from collections.abc import Sequence

import msgspec

from mira_stream.control.capacity import Capacity
from mira_stream.control.health import Breaker, BreakerState
from mira_stream.control.permits import Holdings, Permit
from mira_stream.control.retry import Fault, FaultKind, RetryBudget
from mira_stream.control.routing import drain_seconds
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate, Window
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

_ANSWERED_SECONDS = 60.0
_BEST_FIT_BELOW = 3 * 65_536
_SATURATION_SECONDS = 1.0
_MEAN_WEIGHT = 0.02


class Admitted(msgspec.Struct, frozen=True):
    """Send it now: the permit is reserved and must be settled exactly once."""

    candidate: Candidate
    permit: Permit


class Deferred(msgspec.Struct, frozen=True):
    """Nothing can be sent now. `wake_at`: when time alone may change that; None: only an event can."""

    factor: LimitingFactor
    wake_at: float | None = None


Decision = Admitted | Deferred


class ReplicaSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as admission sees it; `factor` None: another record could be sent."""

    name: str
    breaker: BreakerState
    factor: LimitingFactor | None
    requests: int
    requests_limit: int
    reserved_tokens: int
    reserved_tokens_limit: int
    unprefilled_tokens: int
    unprefilled_tokens_limit: int
    load: Load | None


class _Lane:
    """Everything about one replica."""

    def __init__(self, name: str, settings: AdmissionSettings) -> None:
        self.name = name
        self.holdings = Holdings()
        self.capacity = Capacity(settings)
        self.breaker = Breaker(settings)
        self.answered_at: float | None = None
        self.occupied_alone = False

    @property
    def room_tokens(self) -> int:
        return self.capacity.limit_tokens - self.holdings.tokens


class PoolControl:
    """Decides for one pool. Synchronous and deterministic: `now` (monotonic seconds) and `jitter` ([0, 1)) are given.

    The caller wakes it after every event: an offer, a settlement, a look at a replica, a probe.
    """

    def __init__(self, replicas: Sequence[str], settings: AdmissionSettings) -> None:
        assert replicas, "a pool has at least one replica"
        self._settings = settings
        self._lanes = {name: _Lane(name, settings) for name in replicas}
        self._budget = RetryBudget(settings)
        self._output_tokens = float(settings.output_tokens)
        self._permits = 0
        self.window = Window(settings.window_records)
        self.stopped: str | None = None

    # Records in and out.

    def offer(self, candidate: Candidate) -> None:
        """Put a record into the window."""
        self.window.add(candidate)

    def decide(self, now: float) -> Decision:
        """Send one record, or say why none can be sent. Call again until it defers."""
        if self.stopped is not None:
            return Deferred(LimitingFactor.BREAKER)
        ready = [candidate for candidate in self.window if candidate.not_before <= now]
        if not ready:
            # Records that wait out a fault are no lack of input.
            factor = LimitingFactor.BREAKER if len(self.window) else LimitingFactor.SOURCE_STARVED
            return Deferred(factor, self._next_ready())
        lanes = [lane for lane in self._lanes.values() if self._is_open(lane, now)]
        if not lanes:
            return Deferred(LimitingFactor.BREAKER, self._next_open())
        kept_for = next((one for one in ready if self._is_aged(one)), None)
        for candidate in self._ordered(ready, lanes, kept_for):
            lane = self._lane_for(candidate, lanes, kept_for, now)
            if lane is not None:
                return self._admit(candidate, lane, now)
        return self._deferred(kept_for or ready[0], lanes, now)

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """The request of `permit` has ended; `usage` if it was answered."""
        lane = self._lanes[permit.replica]
        lane.holdings.settle(permit, answered=usage is not None)
        lane.occupied_alone = lane.occupied_alone and len(lane.holdings) > 0
        if usage is not None:
            lane.answered_at = now
            lane.breaker.succeeded()
            self._output_tokens += _MEAN_WEIGHT * (usage.completion_tokens - self._output_tokens)
            self._budget.earn(usage.prompt_tokens + usage.completion_tokens, now)

    # What is learned about replicas.

    def observe(self, replica: str, load: Load, now: float) -> None:
        """A look at the replica's metrics, taken at `now`."""
        lane = self._lanes[replica]
        if lane.capacity.observe(load):
            lane.holdings.scraped(now, waiting=load.waiting)

    def failed(self, replica: str, fault: Fault, now: float, jitter: float) -> None:
        """A request there failed (its permit is settled separately)."""
        breaker = self._lanes[replica].breaker
        if fault.kind is FaultKind.SATURATION:
            breaker.saturated(now + (fault.retry_after_seconds or _SATURATION_SECONDS * (0.5 + jitter / 2)))
        elif fault.kind in (FaultKind.ABSENT, FaultKind.CRASH, FaultKind.TIMEOUT):
            breaker.failed(now, jitter, at_once=fault.kind is FaultKind.ABSENT)

    def shut_out(self, replica: str, now: float, jitter: float) -> None:
        """Send nothing there until a probe goes well: it is absent, or not what the configuration says."""
        self._lanes[replica].breaker.open(now, jitter)

    def probes_due(self, now: float) -> list[str]:
        """Replicas that somebody should look at again (`/v1/models`)."""
        return [name for name, lane in self._lanes.items() if lane.breaker.probe_due(now)]

    def probed(self, replica: str, now: float, jitter: float, *, ok: bool) -> None:
        """The result of such a look."""
        self._lanes[replica].breaker.probed(now, jitter, ok=ok)

    def others_answered(self, replica: str, now: float) -> bool:
        """Whether the replica answered a record of this pool within the last minute."""
        answered_at = self._lanes[replica].answered_at
        return answered_at is not None and now - answered_at <= _ANSWERED_SECONDS

    def stop(self, message: str) -> None:
        """A configuration fault: send nothing more. The first message stays."""
        self.stopped = self.stopped or message

    # What others want to know.

    def timeout_seconds(self, permit: Permit, max_tokens: int) -> float:
        """After which time a request counts as failed: by predicted work, since healthy ones may take minutes."""
        ahead = self._lanes[permit.replica].holdings.unprefilled_tokens
        work = (
            ahead / self._settings.prefill_tokens_per_second
            + max_tokens / self._settings.decode_tokens_per_second
        )
        return self._settings.timeout_seconds_min + work

    def need_tokens(self, candidate: Candidate) -> int:
        """What a request is expected to hold: its prompt and the pool's mean reply."""
        return candidate.prompt_tokens + round(self._output_tokens)

    def retry_budget_tokens(self, now: float) -> float:
        """What may still be sent again."""
        return self._budget.tokens(now)

    def snapshot(self, now: float) -> list[ReplicaSnapshot]:
        """All replicas, as of now."""
        head = next(iter(self.window), None)
        return [self._snapshot(lane, head, now) for lane in self._lanes.values()]

    # The decision's parts.

    def _is_open(self, lane: _Lane, now: float) -> bool:
        return lane.breaker.allows(now, in_flight=len(lane.holdings)) and not lane.occupied_alone

    def _is_aged(self, candidate: Candidate) -> bool:
        largest = max(lane.capacity.limit_tokens for lane in self._lanes.values())
        too_large = self.need_tokens(candidate) > largest
        return too_large or self.window.passed_over(candidate.ticket) >= self._settings.passed_over_max

    def _ordered(
        self, ready: list[Candidate], lanes: list[_Lane], kept_for: Candidate | None
    ) -> list[Candidate]:
        """Best fit (longest first) while room is scarce, else in order; an aged record is asked about first."""
        order = ready
        if max(lane.room_tokens for lane in lanes) < _BEST_FIT_BELOW:
            order = sorted(ready, key=lambda one: (-one.prompt_tokens, one.ticket))
        if kept_for is None:
            return order
        return [kept_for, *(one for one in order if one.ticket != kept_for.ticket)]

    def _lane_for(
        self, candidate: Candidate, lanes: list[_Lane], kept_for: Candidate | None, now: float
    ) -> _Lane | None:
        if candidate.retry and self._budget.ready_at(self.need_tokens(candidate), now) > now:
            return None
        usable = self._usable(candidate, lanes)
        if kept_for is not None and candidate.ticket != kept_for.ticket:
            kept = self._least_drain(kept_for, self._usable(kept_for, lanes))
            usable = [lane for lane in usable if lane is not kept]
        elif kept_for is not None:
            usable = [self._least_drain(kept_for, usable)]
        admitting = [lane for lane in usable if self._refusal(candidate, lane) is None]
        return self._least_drain(candidate, admitting) if admitting else None

    def _usable(self, candidate: Candidate, lanes: list[_Lane]) -> list[_Lane]:
        return [lane for lane in lanes if lane.name not in candidate.avoid] or lanes

    def _least_drain(self, candidate: Candidate, lanes: list[_Lane]) -> _Lane:
        return min(lanes, key=lambda lane: (self._drain_seconds(candidate, lane), lane.name))

    def _drain_seconds(self, candidate: Candidate, lane: _Lane) -> float:
        return drain_seconds(
            unprefilled_tokens=lane.holdings.unprefilled_tokens,
            prompt_tokens=candidate.prompt_tokens,
            prefill_tokens_per_second=self._settings.prefill_tokens_per_second,
            filled_share=lane.holdings.tokens / lane.capacity.limit_tokens,
        )

    def _refusal(self, candidate: Candidate, lane: _Lane) -> LimitingFactor | None:
        """What keeps this record from that replica; None if it may go. An idle replica takes any one record."""
        if len(lane.holdings) == 0:
            return None
        if candidate.alone or len(lane.holdings) >= self._settings.requests_max:
            return LimitingFactor.REQUESTS
        if self.need_tokens(candidate) > lane.room_tokens:
            return LimitingFactor.KV
        if lane.holdings.unprefilled_tokens + candidate.prompt_tokens > self._settings.batched_tokens_max:
            return LimitingFactor.PREFILL
        return None

    def _admit(self, candidate: Candidate, lane: _Lane, now: float) -> Admitted:
        self._permits += 1
        permit = Permit(
            number=self._permits,
            ticket=candidate.ticket,
            replica=lane.name,
            prompt_tokens=candidate.prompt_tokens,
            tokens=self.need_tokens(candidate),
            sent_at=now,
        )
        self.window.take(candidate.ticket)
        lane.holdings.reserve(permit)
        lane.occupied_alone = candidate.alone
        if candidate.retry:
            self._budget.spend(permit.tokens, now)
        return Admitted(candidate, permit)

    def _deferred(self, candidate: Candidate, lanes: list[_Lane], now: float) -> Deferred:
        if candidate.retry:
            ready_at = self._budget.ready_at(self.need_tokens(candidate), now)
            if ready_at > now:
                return Deferred(LimitingFactor.RETRY_BUDGET, ready_at)
        lane = self._least_drain(candidate, self._usable(candidate, lanes))
        factor = self._refusal(candidate, lane) or LimitingFactor.KV
        return Deferred(factor, self._next_ready(after=now))

    def _next_ready(self, after: float | None = None) -> float | None:
        times = [one.not_before for one in self.window if after is None or one.not_before > after]
        return min(times, default=None)

    def _next_open(self) -> float | None:
        times = [at for lane in self._lanes.values() if (at := lane.breaker.wake_at()) is not None]
        return min(times, default=None)

    def _snapshot(self, lane: _Lane, head: Candidate | None, now: float) -> ReplicaSnapshot:
        factor: LimitingFactor | None
        if not self._is_open(lane, now):
            factor = LimitingFactor.BREAKER
        elif head is None:
            factor = LimitingFactor.SOURCE_STARVED
        else:
            factor = self._refusal(head, lane)
        return ReplicaSnapshot(
            name=lane.name,
            breaker=lane.breaker.state,
            factor=factor,
            requests=len(lane.holdings),
            requests_limit=self._settings.requests_max,
            reserved_tokens=lane.holdings.tokens,
            reserved_tokens_limit=lane.capacity.limit_tokens,
            unprefilled_tokens=lane.holdings.unprefilled_tokens,
            unprefilled_tokens_limit=self._settings.batched_tokens_max,
            load=lane.capacity.load,
        )
