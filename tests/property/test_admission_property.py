"""Whatever comes in whatever order: no bound is broken, nobody waits for ever, and equal inputs decide alike."""

from collections.abc import Callable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted, Decision, Deferred
from mira_stream.control.health import BreakerState
from mira_stream.control.permits import Permit
from mira_stream.control.retry import Fault, FaultKind, GiveUp, History, Resend, StopPool, next_step
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate
from mira_stream.core.outcome import LimitingFactor, Reason
from mira_stream.core.usage import Load, Usage

SETTINGS = AdmissionSettings(
    kv_tokens=10_000,
    batched_tokens_max=6000,
    requests_max=4,
    window_records=6,
    passed_over_max=3,
    output_tokens=100,
    breaker_failures=2,
    breaker_seconds_min=1.0,
    breaker_seconds_max=4.0,
    retry_budget_tokens=8000,
)
LEARNING = msgspec.structs.replace(SETTINGS, kv_tokens=None)
PROMPTS = st.one_of(st.integers(0, 3000), st.integers(0, 12_000))
PICK = st.integers(0, 1 << 30)
JITTER = st.floats(0, 1, exclude_max=True)
REPLICA_FAULTS = st.sampled_from(
    [FaultKind.CRASH, FaultKind.TIMEOUT, FaultKind.ABSENT, FaultKind.PROTOCOL, FaultKind.SATURATION]
)


LOADS = st.builds(
    Load,
    running=st.integers(0, 6),
    waiting=st.integers(0, 6),
    kv_usage=st.none() | st.floats(0, 1),
    kv_usage_max=st.none() | st.floats(0, 1),
    prefill_seconds=st.none() | st.floats(0, 100),
    prefilled_tokens=st.none() | st.floats(0, 1e6),
    prefix_cache_queries=st.none() | st.floats(0, 1e6),
    prefix_cache_hits=st.none() | st.floats(0, 1e6),
    process_start_seconds=st.sampled_from([None, 1.0, 2.0]),
    kv_tokens=st.none() | st.integers(0, 50_000),
    engines=st.integers(1, 2),
)


class AdmissionMachine(RuleBasedStateMachine):
    """A pool and its twin, which is told the same; and what a caller knows: who is in flight, who has ended."""

    @initialize(replicas=st.integers(1, 3), learning=st.booleans())
    def begin(self, replicas: int, learning: bool) -> None:
        self.names = [f"r{number}" for number in range(replicas)]
        self.leaving: set[str] = set()
        chosen = LEARNING if learning else SETTINGS
        self.pool, self.twin = (PoolControl(self.names, chosen) for _ in range(2))
        self.now = 0.0
        self.tickets = 0
        self.generated = 0.0
        self.waiting: dict[int, Candidate] = {}
        self.flying: dict[int, tuple[Candidate, Permit]] = {}
        self.histories: dict[int, History] = {}
        self.ended: list[int] = []
        self.deferred: Deferred | None = None

    def _tell(self, event: Callable[[PoolControl], None]) -> None:
        event(self.pool)
        event(self.twin)
        self.deferred = None

    def _offer(self, candidate: Candidate) -> None:
        self.waiting[candidate.ticket] = candidate
        self._tell(lambda control: control.offer(candidate))

    # Records.

    @precondition(lambda self: len(self.waiting) < SETTINGS.window_records)
    @rule(prompt=PROMPTS)
    def offer(self, prompt: int) -> None:
        self.tickets += 1
        self.histories[self.tickets] = History()
        self._offer(Candidate(ticket=self.tickets, prompt_tokens=prompt))

    @rule()
    def send_all(self) -> None:
        """As a dispatcher does."""
        while isinstance(decision := self._decide(), Admitted):
            self._sent(decision)
        self._check_deferral(decision)
        self.deferred = decision

    @rule()
    def send_one(self) -> None:
        """A dispatcher may be stopped in between."""
        if isinstance(decision := self._decide(), Admitted):
            self._sent(decision)

    def _decide(self) -> Decision:
        before = {name: len(self._permits_at(name)) for name in self.names}
        decision = self.pool.decide(self.now)
        assert decision == self.twin.decide(self.now)
        if isinstance(decision, Admitted):
            self._check_admission(decision, others=before[decision.permit.replica])
        return decision

    def _permits_at(self, name: str) -> list[Permit]:
        return [permit for _, permit in self.flying.values() if permit.replica == name]

    def _sent(self, admitted: Admitted) -> None:
        candidate = admitted.candidate
        assert self.waiting.pop(candidate.ticket) == candidate
        assert candidate.ticket not in self.flying
        self.flying[candidate.ticket] = (candidate, admitted.permit)

    def _check_admission(self, admitted: Admitted, *, others: int) -> None:
        candidate, permit = admitted.candidate, admitted.permit
        after = next(one for one in self.pool.snapshot(self.now) if one.name == permit.replica)
        assert candidate.not_before <= self.now
        assert after.breaker is BreakerState.CLOSED or (
            after.breaker is BreakerState.HALF_OPEN and others == 0
        )
        assert not candidate.alone or others == 0
        assert permit.replica not in self.leaving
        suspects = [one.replica for candidate, one in self.flying.values() if candidate.alone]
        assert permit.replica not in suspects
        if others > 0:
            assert after.reserved_tokens <= after.reserved_tokens_limit
            assert after.unprefilled_tokens <= after.unprefilled_tokens_limit
            assert after.requests <= after.requests_limit

    def _check_deferral(self, deferred: Deferred) -> None:
        """There is always a reason, and something that will end it."""
        events = (
            not self.waiting
            or self.flying
            or self.pool.stopped is not None
            or all(one.breaker is BreakerState.OPEN or one.leaving for one in self.pool.snapshot(self.now))
        )
        assert events or deferred.wake_at is not None
        assert deferred.wake_at is None or deferred.wake_at > self.now
        assert (deferred.factor is LimitingFactor.SOURCE_STARVED) == (
            not self.waiting and not self.pool.stopped
        )

    @precondition(lambda self: self.deferred is not None)
    @rule(share=st.floats(0, 1, exclude_max=True))
    def time_alone_changes_nothing_before_wake_at(self, share: float) -> None:
        """A dispatcher that sleeps until then misses nothing."""
        assert self.deferred is not None
        until = self.deferred.wake_at
        self.now += share * (1000.0 if until is None else (until - self.now) * 0.999)
        assert isinstance(self._decide(), Deferred)

    @precondition(lambda self: self.deferred is not None and self.deferred.wake_at is not None)
    @rule()
    def wake(self) -> None:
        assert self.deferred is not None
        assert self.deferred.wake_at is not None
        self.now, self.deferred = self.deferred.wake_at, None

    # What becomes of them.

    @precondition(lambda self: self.flying)
    @rule(pick=PICK, completion=st.integers(0, 400))
    def answer(self, pick: int, completion: int) -> None:
        ticket = list(self.flying)[pick % len(self.flying)]
        candidate, permit = self.flying.pop(ticket)
        self._tell(
            lambda control: control.settle(permit, Usage(candidate.prompt_tokens, completion), self.now)
        )
        self.ended.append(ticket)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK, kind=REPLICA_FAULTS, jitter=JITTER)
    def fail(self, pick: int, kind: FaultKind, jitter: float) -> None:
        """A replica's fault: the record comes back, or is poison."""
        ticket = list(self.flying)[pick % len(self.flying)]
        company = len(self._permits_at(self.flying[ticket][1].replica)) > 1
        candidate, permit = self.flying.pop(ticket)
        fault = Fault(kind, "")
        self._tell(lambda control: control.settle(permit, None, self.now))
        blamed = self.pool.blames(permit)
        assert not (blamed and company)
        self._tell(lambda control: control.failed(permit.replica, fault, self.now, jitter))
        step = next_step(
            self.histories[ticket], fault, replica=permit.replica, was_alone=blamed, jitter=jitter
        )
        assert not isinstance(step, StopPool)
        if isinstance(step, GiveUp):
            assert (step.reason, kind, blamed) == (Reason.POISON, FaultKind.CRASH, True)
            self.ended.append(ticket)
        else:
            self._come_back(candidate, step)

    def _come_back(self, candidate: Candidate, step: Resend) -> None:
        self.histories[candidate.ticket] = step.history
        self._offer(
            Candidate(
                ticket=candidate.ticket,
                prompt_tokens=candidate.prompt_tokens,
                retry=step.spends_budget,
                avoid=step.history.avoid,
                alone=step.alone,
                not_before=self.now + step.after_seconds,
            )
        )

    @rule(pick=PICK, load=LOADS, generated=st.integers(0, 500))
    def look(self, pick: int, load: Load, generated: int) -> None:
        self.generated += generated
        load = msgspec.structs.replace(load, generation_tokens=self.generated)
        name = self.names[pick % len(self.names)]
        self._tell(lambda control: control.observe(name, load, self.now, self.now))

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def first_token(self, pick: int) -> None:
        """Streaming shows it; it may come more than once, and late."""
        _, permit = self.flying[list(self.flying)[pick % len(self.flying)]]
        self._tell(lambda control: control.started(permit))

    @precondition(lambda self: len(self.names) > len(self.leaving) + 1)
    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        """A replica is taken out of the configuration; one at least stays."""
        staying = [name for name in self.names if name not in self.leaving]
        name = staying[pick % len(staying)]
        self.leaving.add(name)
        self._tell(lambda control: control.leave(name))

    @precondition(lambda self: self.leaving)
    @rule(back=st.booleans())
    def left_or_back(self, back: bool) -> None:
        """It comes back, or is gone once it holds nothing."""
        name = min(self.leaving)
        if back:
            self.leaving.discard(name)
            self._tell(lambda control: control.add(name))
            return
        empty = not self._permits_at(name)
        assert self.twin.left(name) is self.pool.left(name) is empty
        if empty:
            self.leaving.discard(name)
            self.names.remove(name)
            self.deferred = None

    @rule(ok=st.booleans(), jitter=JITTER)
    def probe(self, ok: bool, jitter: float) -> None:
        for name in self.pool.probes_due(self.now):
            self._tell(lambda control, name=name: control.probed(name, self.now, jitter, ok=ok))  # type: ignore[misc]

    @rule(seconds=st.floats(0, 20))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.deferred = None

    # What holds at all times.

    @invariant()
    def sums_are_what_is_in_flight(self) -> None:
        for one in self.pool.snapshot(self.now) if hasattr(self, "pool") else ():
            permits = self._permits_at(one.name)
            assert one.requests == len(permits)
            assert one.reserved_tokens == sum(permit.tokens for permit in permits)
            assert 0 <= one.unprefilled_tokens <= sum(permit.prompt_tokens for permit in permits)

    @invariant()
    def every_record_is_somewhere_once(self) -> None:
        if hasattr(self, "pool"):
            everywhere = [*self.waiting, *self.flying, *self.ended]
            assert sorted(everywhere) == list(range(1, self.tickets + 1))
            assert sorted(self.waiting) == sorted(candidate.ticket for candidate in self.pool.window)

    def teardown(self) -> None:
        """Once faults stop, everything goes, in a bounded number of steps."""
        if not hasattr(self, "pool"):
            return
        for _ in range(10 * (len(self.waiting) + len(self.flying)) + 10):
            self.send_all()
            if self.flying:
                self.answer(0, 100)
            self.now += 30.0
            self.probe(True, 0.0)
        assert sorted(self.ended) == list(range(1, self.tickets + 1))


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@settings(deadline=None)
@given(
    large=st.integers(4000, 12_000),
    alone=st.booleans(),
    small=st.lists(st.integers(1, 2500), min_size=1, max_size=8),
    picks=st.lists(PICK, min_size=1, max_size=8),
)
def test_nobody_waits_for_ever(large: int, alone: bool, small: list[int], picks: list[int]) -> None:
    """An endless stream of small records passes a large one or a suspect over only so often."""
    control = PoolControl(["a"], SETTINGS)
    flying: list[Permit] = []
    for ticket in range(200):
        if ticket == 10:
            control.offer(Candidate(ticket=ticket, prompt_tokens=large, alone=alone))
        else:
            control.offer(Candidate(ticket=ticket, prompt_tokens=small[ticket % len(small)]))
        while isinstance(decision := control.decide(0.0), Admitted):
            flying.append(decision.permit)
            if decision.permit.ticket == 10:
                return
        if ticket >= 10:
            assert control.window.passed_over(10) <= SETTINGS.passed_over_max
        permit = flying.pop(picks[ticket % len(picks)] % len(flying))
        control.settle(permit, Usage(permit.prompt_tokens, 100), 0.0)
    raise AssertionError(f"{large} tokens never went")
