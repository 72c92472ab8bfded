"""The whole decision of one pool: which record goes where now, or what keeps all of them waiting."""

from collections.abc import Iterator, Sequence

from mira_stream.control.averages import Averages
from mira_stream.control.decision import Admitted, Decision, Deferred
from mira_stream.control.lane import Lane
from mira_stream.control.order import Order
from mira_stream.control.permits import Permit
from mira_stream.control.retry import Fault, RetryBudget
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.snapshot import ReplicaSnapshot, snapshot_of
from mira_stream.control.window import Candidate, Window
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, LoadReport, Usage

_PREFILL_PATIENCE = 3.0
_WARM_UP_TOKENS_MIN = 1024
_WARM_UP_RATIO_MIN = 0.05


class PoolControl:
    """Decides for one pool. Synchronous and deterministic: `now` (monotonic seconds) and `jitter` ([0, 1)) are given.

    The caller asks again after every event and at `Deferred.wake_at`. `shared_tokens` is the part of every prompt that
    all have in common.
    """

    def __init__(
        self, replicas: Sequence[str], settings: AdmissionSettings, *, shared_tokens: int = 0
    ) -> None:
        assert replicas, "a pool has at least one replica"
        assert len(set(replicas)) == len(replicas), "a replica is named twice"
        self._settings = settings
        self._shared_tokens = shared_tokens
        self._lanes = {name: Lane(name, settings) for name in replicas}
        self._now = 0.0
        self._budget = RetryBudget(settings)
        self._averages = Averages(settings.output_tokens)
        self._permits = 0
        self.window = Window(settings.window_records)
        self._order = Order(self.window, settings)
        self.stopped: str | None = None

    def __repr__(self) -> str:
        return f"PoolControl({len(self.window)} in the window, {list(self._lanes.values())!r})"

    # Records in and out.

    def offer(self, candidate: Candidate) -> None:
        """Put a record into the window."""
        self.window.add(candidate)

    def no_more(self) -> None:
        """Only what failed will be offered from now on: the end of a run."""
        self._order.in_tail = True

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
            factor = LimitingFactor.BREAKER if not lanes else _why_none_is_sendable(self.window, now)
            return Deferred(factor, self._wake_at(now))
        self._keep(sendable, lanes)
        room_tokens = max(lane.room_tokens(now) for lane in lanes)
        ordered = self._order.ordered(sendable, room_tokens)
        rooms = [lane.room(now) for lane in lanes]
        for candidate in _fitting(ordered, rooms, self._averages.output_tokens):
            lane = self._route(candidate, lanes)
            if lane is not None:
                self._order.sent(sendable, candidate)
                self.window.take(candidate.ticket)
                return self._admit(candidate, lane, now)
        for lane in lanes:
            lane.limited_by(self._factor(lane, sendable, now), now)
        return Deferred(self._why_refused(sendable, lanes), self._wake_at(now))

    def started(self, permit: Permit) -> None:
        """The first token of its reply has come: its prompt is prefilled. What has ended meanwhile is let be."""
        self._lanes[permit.replica].holdings.started(permit)

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """The request of `permit` has ended; `usage` if it was answered."""
        self._lanes[permit.replica].settle(permit, usage, now)
        if usage is not None:
            self._averages.answered(usage, now - permit.sent_at)
            self._budget.earn(usage.prompt_tokens + usage.completion_tokens, now)

    @property
    def hedge_after_seconds(self) -> float | None:
        """After which time a request is asked about elsewhere too, once nothing else is to be sent; None: not at all."""
        return self._averages.slow_seconds if self._settings.hedge else None

    def hedge(self, candidate: Candidate, now: float) -> Admitted | None:
        """Send a record that is in flight a second time, elsewhere, if a replica has room and an empty queue for it,
        and the retry budget covers it."""
        self._tick(now)
        if self.stopped is not None or self._budget.ready_at(self.need_tokens(candidate), now) > now:
            return None
        idle = [
            lane
            for lane in self._lanes.values()
            if lane.is_open(now)
            and lane.name not in candidate.avoid
            and (lane.looks.load is None or lane.looks.load.waiting == 0)
            and self._refusal(candidate, lane) is None
        ]
        return self._admit(candidate, self._least_drain(candidate, idle), now) if idle else None

    # Replicas that come and go. Whatever is told of one that has left is let be.

    def add(self, replica: str) -> None:
        """Another replica, or one that was leaving and stays after all."""
        self._lanes.setdefault(replica, Lane(replica, self._settings)).leaving = False

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
        if (lane := self._lanes.get(replica)) is not None:
            lane.observe(load, asked_at, now, output_tokens=self._averages.output_tokens)

    def reported(self, replica: str, report: LoadReport, now: float) -> None:
        """An answer said what the load there is: as fresh as a look, and free."""
        if (lane := self._lanes.get(replica)) is not None and report.waiting == 0:
            lane.idle(now)

    def wants_look(self, replica: str) -> bool:
        """Whether a fresh look at it might let the next record go."""
        lane = self._lanes.get(replica)
        return lane is not None and lane.wants_look and lane.is_open(self._now)

    def failed(self, replica: str, fault: Fault, now: float, jitter: float) -> None:
        """A request there failed (its permit is settled separately)."""
        if (lane := self._lanes.get(replica)) is not None:
            lane.failed(fault, now, jitter)

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
        return lane is not None and lane.answered_lately(now)

    def proved(self, replica: str, now: float) -> None:
        """The replica answered a canned record: failures of others from now on are not explained by its state."""
        if (lane := self._lanes.get(replica)) is not None:
            lane.proved(now)

    def blames(self, permit: Permit) -> bool:
        """Whether the failure of this request, settled just now, points at its record and not at the replica."""
        lane = self._lanes.get(permit.replica)
        return lane is not None and lane.blame.on(permit.ticket)

    def warm_up_due(self, replica: str) -> bool:
        """Whether the replica misses the shared prefix so often that sending it alone may help; at most twice."""
        lane, possible = self._lanes.get(replica), self.prefix_possible_ratio
        worth_it = self._shared_tokens >= _WARM_UP_TOKENS_MIN and possible >= _WARM_UP_RATIO_MIN
        return lane is not None and worth_it and lane.misses_prefix(possible)

    def warmed_up(self, replica: str) -> None:
        """It was sent there."""
        if (lane := self._lanes.get(replica)) is not None:
            lane.warmed_up()

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
        return candidate.prompt_tokens + self._averages.output_tokens

    def retry_budget_tokens(self, now: float) -> float:
        """What may still be sent again."""
        return self._budget.tokens(now)

    @property
    def prefix_possible_ratio(self) -> float:
        """Share of the prompt tokens that a perfect prefix cache would hold; 0 before the first answer."""
        return self._averages.share(self._shared_tokens)

    def snapshot(self, now: float) -> list[ReplicaSnapshot]:
        """All replicas, as of now."""
        self._tick(now)
        sendable = self._sendable(now)
        return [
            snapshot_of(lane, self._factor(lane, sendable, now), self._settings, now)
            for lane in self._lanes.values()
        ]

    # The decision's parts.

    def _tick(self, now: float) -> None:
        self._now = now
        for lane in self._lanes.values():
            lane.tick(now)

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

    def _keep(self, sendable: list[Candidate], lanes: list[Lane]) -> None:
        limit = max(lane.limit_tokens(self._now) for lane in self._lanes.values())
        limit = min(limit, self._settings.batched_tokens_max + self._averages.output_tokens)
        due = self._order.due(sendable, self.need_tokens, limit)
        self._order.keep(due, lambda candidate: _usable(candidate, lanes), self._least_drain)

    def _route(self, candidate: Candidate, lanes: list[Lane]) -> Lane | None:
        """The replica this record would go to now: of those that admit it, the one that would drain first."""
        kept_free = self._order.kept_free(candidate)
        admitting = [
            lane
            for lane in _usable(candidate, lanes)
            if lane is not kept_free and self._refusal(candidate, lane) is None
        ]
        return self._least_drain(candidate, admitting) if admitting else None

    def _least_drain(self, candidate: Candidate, lanes: list[Lane]) -> Lane:
        return min(
            lanes, key=lambda lane: (lane.drain_seconds(candidate.prompt_tokens, self._now), lane.name)
        )

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
        lane.reserve(permit, alone=candidate.alone)
        if candidate.retry:
            self._budget.spend(permit.tokens, now)
        return Admitted(candidate, permit)

    def _refusal(self, candidate: Candidate, lane: Lane) -> LimitingFactor | None:
        need = self.need_tokens(candidate)
        return lane.refusal(candidate.prompt_tokens, need, self._now, alone=candidate.alone)

    def _why_refused(self, sendable: list[Candidate], lanes: list[Lane]) -> LimitingFactor:
        """What keeps the record that should go next from the replica it should go to."""
        kept = self._order.kept
        ticket = kept.ticket if kept is not None else sendable[0].ticket
        head = next(candidate for candidate in sendable if candidate.ticket == ticket)
        lane = self._least_drain(head, _usable(head, lanes))
        factor = self._refusal(head, lane)
        assert factor is not None, f"{head} was refused by nothing at {lane!r}"
        return factor

    def _factor(self, lane: Lane, sendable: list[Candidate], now: float) -> LimitingFactor | None:
        """What keeps one replica from another record."""
        if self.stopped is not None or not lane.is_open(now):
            return LimitingFactor.BREAKER
        if len(self.window) == 0:
            return LimitingFactor.SOURCE_STARVED
        if not sendable:
            return _why_none_is_sendable(self.window, now)
        kept = self._order.kept
        if kept is not None and kept.lane is lane:
            sendable = [one for one in sendable if one.ticket == kept.ticket] or sendable
        head = next((one for one in sendable if lane.name not in one.avoid), sendable[0])
        return self._refusal(head, lane)

    def _wake_at(self, now: float) -> float | None:
        """The next moment at which time alone changes something: a pause ends, the budget covers a retry, a prompt
        is predicted to be prefilled, or taken to be."""
        times = [one.not_before for one in self.window if one.not_before > now]
        times += [at for lane in self._lanes.values() if (at := lane.wake_at(now)) is not None]
        retries = (one for one in self.window if one.retry and one.not_before <= now)
        ready = (self._budget.ready_at(self.need_tokens(one), now) for one in retries)
        times += [at for at in ready if at > now][:1]  # those behind the first one wait for it
        return min(times, default=None)


def _usable(candidate: Candidate, lanes: list[Lane]) -> list[Lane]:
    """Not where it has failed before, unless there is nothing else."""
    if not candidate.avoid:
        return lanes
    return [lane for lane in lanes if lane.name not in candidate.avoid] or lanes


def _fitting(
    ordered: list[Candidate], rooms: list[tuple[int, int]], reply_tokens: int
) -> Iterator[Candidate]:
    """Leaves out what fits nowhere by its size alone: a quick look that spares most of the exact ones."""
    for candidate in ordered:
        prompt = candidate.prompt_tokens
        for tokens, batched_tokens in rooms:
            if prompt + reply_tokens <= tokens and prompt <= batched_tokens:
                yield candidate
                break


def _why_none_is_sendable(window: Window, now: float) -> LimitingFactor:
    # What waits out a fault is no lack of input.
    waits_for_budget = any(candidate.not_before <= now for candidate in window)
    return LimitingFactor.RETRY_BUDGET if waits_for_budget else LimitingFactor.BREAKER
