"""The whole decision of one pool: which record goes where now, or what keeps all of them waiting."""

from collections.abc import Sequence

import msgspec

from mira_stream.control.capacity import CapacityOrigin
from mira_stream.control.health import BreakerState
from mira_stream.control.lane import Lane
from mira_stream.control.permits import Permit
from mira_stream.control.retry import REPLICA_FAULTS, Fault, FaultKind, RetryBudget
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate, Window
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

_ANSWERED_SECONDS = 60.0
_BEST_FIT_BELOW = 3 * 65_536
_SATURATION_SECONDS = 1.0
_PREFILL_PATIENCE = 3.0
_MEAN_WEIGHT = 0.02


class Admitted(msgspec.Struct, frozen=True):
    """Send it now: the permit is reserved and must be settled exactly once."""

    candidate: Candidate
    permit: Permit


class Deferred(msgspec.Struct, frozen=True):
    """Nothing can be sent now. `wake_at`: when time alone may change that; None: only an event can.

    Events are what the caller tells: an offer, a settlement, a look at a replica, a probe.
    """

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
    capacity_tokens: int
    capacity_origin: CapacityOrigin
    capacity_share: float
    unprefilled_tokens: int
    unprefilled_tokens_limit: int
    predicted_unprefilled_tokens: int
    prefill_tokens_per_second: float
    foreign_requests: int
    cached_ratio: float | None
    telemetry_age_seconds: float | None
    stale: bool
    leaving: bool
    load: Load | None


class _Kept(msgspec.Struct, frozen=True):
    """A replica that takes nothing else until the record with `ticket` has gone, there or elsewhere."""

    ticket: int
    lane: Lane


class PoolControl:
    """Decides for one pool. Synchronous and deterministic: `now` (monotonic seconds) and `jitter` ([0, 1)) are given.

    The caller asks again after every event and at `Deferred.wake_at`.
    """

    def __init__(self, replicas: Sequence[str], settings: AdmissionSettings) -> None:
        assert replicas, "a pool has at least one replica"
        assert len(set(replicas)) == len(replicas), "a replica is named twice"
        self._settings = settings
        self._lanes = {name: Lane(name, settings) for name in replicas}
        self._now = 0.0
        self._budget = RetryBudget(settings)
        self._output_tokens = float(settings.output_tokens)
        self._reply_tokens = settings.output_tokens
        self._permits = 0
        self._kept: _Kept | None = None
        self.window = Window(settings.window_records)
        self.stopped: str | None = None

    def __repr__(self) -> str:
        return f"PoolControl({len(self.window)} in the window, {list(self._lanes.values())!r})"

    # Records in and out.

    def offer(self, candidate: Candidate) -> None:
        """Put a record into the window."""
        self.window.add(candidate)

    def decide(self, now: float) -> Decision:
        """Send one record, or say why none can be sent. Call again until it defers."""
        self._tick(now)
        if self.stopped is not None:
            return Deferred(LimitingFactor.BREAKER)
        if len(self.window) == 0:
            return Deferred(LimitingFactor.SOURCE_STARVED)
        lanes = [lane for lane in self._lanes.values() if lane.is_open(now)]
        sendable = self._sendable(now)
        if not lanes or not sendable:
            factor = LimitingFactor.BREAKER if not lanes else self._why_none_is_sendable(now)
            return Deferred(factor, self._wake_at(now))
        self._kept = self._keep(sendable, lanes)
        for candidate in self._fitting(self._ordered(sendable, lanes), lanes):
            lane = self._route(candidate, lanes)
            if lane is not None:
                self._count_passed_over(sendable, candidate)
                return self._admit(candidate, lane, now)
        for lane in lanes:
            lane.limited_by(self._factor(lane, sendable, now), now)
        return Deferred(self._why_refused(sendable, lanes), self._wake_at(now))

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """The request of `permit` has ended; `usage` if it was answered."""
        self._lanes[permit.replica].settle(permit, usage, now)
        if usage is not None:
            self._output_tokens += _MEAN_WEIGHT * (usage.completion_tokens - self._output_tokens)
            self._reply_tokens = round(self._output_tokens)
            self._budget.earn(usage.prompt_tokens + usage.completion_tokens, now)

    def started(self, permit: Permit) -> None:
        """The first token of its reply has come: its prompt is prefilled. What has ended meanwhile is let be."""
        self._lanes[permit.replica].holdings.started(permit)

    # Replicas that come and go.

    def add(self, replica: str) -> None:
        """Another replica, or one that was leaving and stays after all."""
        lane = self._lanes.setdefault(replica, Lane(replica, self._settings))
        lane.leaving = False

    def leave(self, replica: str) -> None:
        """Send nothing more there; `left` tells when its last request has ended."""
        self._lanes[replica].leaving = True

    def left(self, replica: str) -> bool:
        """Whether a replica that leaves holds nothing any more; if so it is forgotten."""
        lane = self._lanes[replica]
        if not lane.leaving or len(lane.holdings) > 0:
            return False
        del self._lanes[replica]
        return True

    # What is learned about replicas.

    def observe(self, replica: str, load: Load, asked_at: float, now: float) -> None:
        """A look at the replica's metrics; `asked_at` is when it was asked for: what was sent later is not in it."""
        lane = self._lanes.get(replica)
        if lane is not None:
            lane.observe(load, asked_at, now, output_tokens=self._output_tokens)

    def wants_look(self, replica: str) -> bool:
        """Whether a fresh look at it might let the next record go."""
        lane = self._lanes.get(replica)
        return lane is not None and lane.wants_look

    def failed(self, replica: str, fault: Fault, now: float, jitter: float) -> None:
        """A request there failed (its permit is settled separately)."""
        lane = self._lanes.get(replica)
        if lane is None:
            return  # it has left
        breaker = lane.breaker
        if fault.kind is FaultKind.SATURATION:
            pause = fault.retry_after_seconds
            breaker.saturated(
                now + (pause if pause is not None else _SATURATION_SECONDS * (0.5 + jitter / 2))
            )
        elif fault.kind in REPLICA_FAULTS:
            breaker.failed(now, jitter, at_once=fault.kind is FaultKind.ABSENT)

    def shut_out(self, replica: str, now: float, jitter: float) -> None:
        """Send nothing there until a probe goes well: it is absent, or not what the configuration says."""
        if (lane := self._lanes.get(replica)) is not None:
            lane.breaker.open(now, jitter)

    def probes_due(self, now: float) -> list[str]:
        """Replicas that somebody should look at again (`/v1/models`)."""
        return [
            name for name, lane in self._lanes.items() if not lane.leaving and lane.breaker.probe_due(now)
        ]

    def probed(self, replica: str, now: float, jitter: float, *, ok: bool) -> None:
        """The result of such a look."""
        if (lane := self._lanes.get(replica)) is not None:
            lane.breaker.probed(now, jitter, ok=ok)

    def others_answered(self, replica: str, now: float) -> bool:
        """Whether the replica answered a record of this pool within the last minute."""
        lane = self._lanes.get(replica)
        answered_at = lane.answered_at if lane is not None else None
        return answered_at is not None and now - answered_at <= _ANSWERED_SECONDS

    def proved(self, replica: str, now: float) -> None:
        """The replica answered a canned record: failures of others from now on are not explained by its state."""
        if (lane := self._lanes.get(replica)) is not None:
            lane.proved(now)

    def blames(self, permit: Permit) -> bool:
        """Whether the failure of this request, settled just now, points at its record and not at the replica."""
        lane = self._lanes.get(permit.replica)
        return lane is not None and lane.blames(permit.ticket)

    def stop(self, message: str) -> None:
        """A configuration fault: send nothing more. The first message stays."""
        self.stopped = self.stopped or message

    # What others want to know.

    def timeout_seconds(self, permit: Permit, max_tokens: int) -> float:
        """After which time a request counts as failed: by predicted work, since healthy ones may take minutes."""
        lane = self._lanes[permit.replica]
        prefill = _PREFILL_PATIENCE * lane.holdings.unprefilled_tokens / lane.prefill.tokens_per_second
        decode = max_tokens / self._settings.decode_tokens_per_second
        return self._settings.timeout_seconds_min + prefill + decode

    def need_tokens(self, candidate: Candidate) -> int:
        """What a request is expected to hold: its prompt and the pool's mean reply."""
        return candidate.prompt_tokens + self._reply_tokens

    def retry_budget_tokens(self, now: float) -> float:
        """What may still be sent again."""
        return self._budget.tokens(now)

    def snapshot(self, now: float) -> list[ReplicaSnapshot]:
        """All replicas, as of now."""
        self._tick(now)
        sendable = self._sendable(now)
        return [self._snapshot(lane, sendable, now) for lane in self._lanes.values()]

    # The decision's parts.

    def _sendable(self, now: float) -> list[Candidate]:
        """Records that may be sent now, in order. Retries wait for the budget in order too, so that a large one that
        is not covered yet is not overtaken for ever by small ones."""
        sendable, covered = [], True
        for candidate in self.window:
            if candidate.not_before > now or (candidate.retry and not covered):
                continue
            if candidate.retry:
                covered = self._budget.ready_at(self.need_tokens(candidate), now) <= now
                if not covered:
                    continue
            sendable.append(candidate)
        return sendable

    def _why_none_is_sendable(self, now: float) -> LimitingFactor:
        # What waits out a fault is no lack of input.
        waits_for_budget = any(candidate.not_before <= now for candidate in self.window)
        return LimitingFactor.RETRY_BUDGET if waits_for_budget else LimitingFactor.BREAKER

    def _keep(self, sendable: list[Candidate], lanes: list[Lane]) -> _Kept | None:
        """The replica kept free, and the record it is kept for: one that fits nowhere beside others, or was passed
        over too often. It stays the same one while it can: hopping about, none would ever become free enough."""
        due = self._due(sendable)
        if not due:
            return None
        before = self._kept
        kept = next((one for one in due if before is not None and one.ticket == before.ticket), due[0])
        usable = _usable(kept, lanes)
        if before is not None and before.ticket == kept.ticket and before.lane in usable:
            return before
        return _Kept(kept.ticket, self._least_drain(kept, usable))

    def _due(self, sendable: list[Candidate]) -> list[Candidate]:
        """Records that a replica must be kept free for: passed over too often, or fitting only where nothing else is."""
        limit = max(lane.limit_tokens(self._now) for lane in self._lanes.values())
        limit = min(limit, self._settings.batched_tokens_max + self._reply_tokens)
        return [
            one
            for one in sendable
            if self.need_tokens(one) > limit
            or self.window.passed_over(one.ticket) >= self._settings.passed_over_max
        ]

    def _ordered(self, sendable: list[Candidate], lanes: list[Lane]) -> list[Candidate]:
        """Best fit (longest first) while room is scarce, else in order; one that a replica is kept for comes first."""
        order = sendable
        if max(lane.room_tokens(self._now) for lane in lanes) < _BEST_FIT_BELOW:
            order = sorted(sendable, key=lambda one: -one.prompt_tokens)  # stable: equal ones stay in order
        if self._kept is None:
            return order
        ticket = self._kept.ticket
        return sorted(order, key=lambda one: one.ticket != ticket)

    def _fitting(self, order: list[Candidate], lanes: list[Lane]) -> list[Candidate]:
        """Leaves out what fits nowhere by its size alone: a quick look that spares most of the exact ones."""
        rooms = [lane.room(self._now) for lane in lanes]
        reply_tokens = self._reply_tokens
        fitting = []
        for candidate in order:
            prompt = candidate.prompt_tokens
            for tokens, batched_tokens in rooms:
                if prompt + reply_tokens <= tokens and prompt <= batched_tokens:
                    fitting.append(candidate)
                    break
        return fitting

    def _route(self, candidate: Candidate, lanes: list[Lane]) -> Lane | None:
        """The replica this record would go to now: of those that admit it, the one that would drain first."""
        need = self.need_tokens(candidate)
        kept_free = self._kept.lane if self._kept and self._kept.ticket != candidate.ticket else None
        admitting = [
            lane
            for lane in _usable(candidate, lanes)
            if lane is not kept_free
            and lane.refusal(candidate.prompt_tokens, need, self._now, alone=candidate.alone) is None
        ]
        return self._least_drain(candidate, admitting) if admitting else None

    def _count_passed_over(self, sendable: list[Candidate], sent: Candidate) -> None:
        for earlier in sendable:
            if earlier.ticket == sent.ticket:
                return
            self.window.pass_over(earlier.ticket)

    def _admit(self, candidate: Candidate, lane: Lane, now: float) -> Admitted:
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
        lane.reserve(permit, alone=candidate.alone)
        if candidate.retry:
            self._budget.spend(permit.tokens, now)
        return Admitted(candidate, permit)

    def _why_refused(self, sendable: list[Candidate], lanes: list[Lane]) -> LimitingFactor:
        """What keeps the record that should go next from the replica it should go to."""
        ticket = self._kept.ticket if self._kept is not None else sendable[0].ticket
        head = next(candidate for candidate in sendable if candidate.ticket == ticket)
        lane = self._least_drain(head, _usable(head, lanes))
        factor = self._refusal(head, lane)
        assert factor is not None, f"{head} was refused by nothing at {lane!r}"
        return factor

    def _refusal(self, candidate: Candidate, lane: Lane) -> LimitingFactor | None:
        need = self.need_tokens(candidate)
        return lane.refusal(candidate.prompt_tokens, need, self._now, alone=candidate.alone)

    def _least_drain(self, candidate: Candidate, lanes: list[Lane]) -> Lane:
        return min(
            lanes, key=lambda lane: (lane.drain_seconds(candidate.prompt_tokens, self._now), lane.name)
        )

    def _tick(self, now: float) -> None:
        self._now = now
        for lane in self._lanes.values():
            lane.tick(now)

    def _wake_at(self, now: float) -> float | None:
        """The next moment at which time alone changes something: a pause ends, the budget covers a retry, a prompt
        is predicted to be prefilled, or taken to be."""
        times = [one.not_before for one in self.window if one.not_before > now]
        for lane in self._lanes.values():
            times += [at for at in (lane.breaker.wake_at(now), lane.drain_wake_at(now)) if at is not None]
            if (at := lane.opens_at(now)) > now:
                times.append(at)
        retries = (one for one in self.window if one.retry and one.not_before <= now)
        ready = (self._budget.ready_at(self.need_tokens(one), now) for one in retries)
        times += [at for at in ready if at > now][:1]  # those behind the first one wait for it
        return min(times, default=None)

    def _snapshot(self, lane: Lane, sendable: list[Candidate], now: float) -> ReplicaSnapshot:
        return ReplicaSnapshot(
            name=lane.name,
            breaker=lane.breaker.state,
            factor=self._factor(lane, sendable, now),
            requests=len(lane.holdings),
            requests_limit=self._settings.requests_max,
            reserved_tokens=lane.holdings.tokens,
            reserved_tokens_limit=lane.limit_tokens(now),
            capacity_tokens=lane.capacity.tokens,
            capacity_origin=lane.capacity.origin,
            capacity_share=lane.capacity.share,
            unprefilled_tokens=lane.holdings.unprefilled_tokens,
            unprefilled_tokens_limit=lane.batched_tokens_max,
            predicted_unprefilled_tokens=round(lane.prefill.tokens(now)),
            prefill_tokens_per_second=lane.prefill.tokens_per_second,
            foreign_requests=lane.looks.foreign_requests,
            cached_ratio=lane.cached_ratio,
            telemetry_age_seconds=lane.looks.age_seconds(now),
            stale=lane.is_stale(now),
            leaving=lane.leaving,
            load=lane.looks.load,
        )

    def _factor(self, lane: Lane, sendable: list[Candidate], now: float) -> LimitingFactor | None:
        if self.stopped is not None or not lane.is_open(now):
            return LimitingFactor.BREAKER
        if len(self.window) == 0:
            return LimitingFactor.SOURCE_STARVED
        if not sendable:
            return self._why_none_is_sendable(now)
        if self._kept is not None and self._kept.lane is lane:
            sendable = [one for one in sendable if one.ticket == self._kept.ticket] or sendable
        head = next((one for one in sendable if lane.name not in one.avoid), sendable[0])
        return self._refusal(head, lane)


def _usable(candidate: Candidate, lanes: list[Lane]) -> list[Lane]:
    """Not where it has failed before, unless there is nothing else."""
    if not candidate.avoid:
        return lanes
    return [lane for lane in lanes if lane.name not in candidate.avoid] or lanes
