"""The scheduler model: first come first served, budgets, KV, aborts; what holds in every run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.sim.engine import Engine, EngineLimits, Step, StepCost
from mira_stream.sim.sequence import Phase, Sequence

COST = StepCost(
    fixed_seconds=1.0, prefill_token_seconds=0.01, decode_token_seconds=0.1, resident_token_seconds=0.001
)


def engine(*, budget: int = 100, seats: int = 8, blocks: int = 1000) -> Engine:
    return Engine(EngineLimits(batched_tokens_max=budget, running_max=seats, kv_blocks=blocks), COST)


def sequence(prompt: int, output: int, *, budget: int | None = None, arrived: float = 0.0) -> Sequence:
    return Sequence(prompt, output_tokens=output, output_tokens_max=budget or output, arrived=arrived)


def drain(machine: Engine) -> list[float]:
    """Play until nothing is left; the times at which steps ended."""
    ends = []
    now = 0.0
    while (start := machine.next_start(now)) is not None:
        now = machine.begin_step(start).ended
        machine.end_step()
        ends.append(now)
    return ends


def test_the_first_token_comes_with_the_last_part_of_the_prompt() -> None:
    """A completion of one token is over when its prompt is prefilled."""
    machine = engine()
    only = sequence(40, 1)
    machine.submit(only)
    assert drain(machine) == pytest.approx([1.4])
    assert only.phase is Phase.FINISHED


def test_an_idle_engine_waits_for_the_next_arrival() -> None:
    """The next step begins when its first request arrives, not before."""
    machine = engine()
    machine.submit(sequence(10, 1, arrived=7.5))
    assert machine.next_start(3.0) == 7.5
    assert machine.next_start(9.0) == 9.0


def test_running_requests_come_before_waiting_ones() -> None:
    """A long prompt takes the whole step budget until it is prefilled; a later short one gets nothing meanwhile."""
    machine = engine(budget=100)
    long, short = sequence(250, 1), sequence(5, 1)
    machine.submit(long)
    machine.submit(short)
    shares = []
    now = 0.0
    while (start := machine.next_start(now)) is not None:
        step = machine.begin_step(start)
        shares.append([tokens for _, tokens in step.prefills])
        now = step.ended
        machine.end_step()
    assert shares == [[100], [100], [50, 5]]


def test_kv_is_held_for_what_is_computed() -> None:
    """Usage counts blocks of tokens computed or being computed; nothing is reserved for the output."""
    machine = engine(budget=1000, blocks=10)
    machine.submit(sequence(30, 20, budget=100))  # 2 blocks of prompt
    machine.begin_step(0.0)
    machine.end_step()
    assert machine.stats.kv_usage == 0.2
    for number in range(3):
        machine.begin_step(1.0 + number)
        machine.end_step()
    assert machine.kv.held == 3  # the 33rd token opened the third block
    drain(machine)
    assert (machine.kv.held, machine.stats.kv_usage, machine.peak_kv_blocks) == (0, 0.0, 4)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
@pytest.mark.parametrize("within", [False, True])
def test_abort_frees_everything_it_held(steps: int, within: bool) -> None:
    """A request that is dropped while it waits, prefills or decodes leaves no token and no block behind."""
    machine = engine(budget=100)
    only = sequence(150, 30)
    machine.submit(only)
    for now in range(steps):
        machine.begin_step(float(now))
        machine.end_step()
    if within:
        machine.begin_step(float(steps))
    machine.abort(only)
    if within:
        machine.end_step()
    assert only.phase is Phase.ABORTED
    assert (machine.kv.held, machine.resident_tokens) == (0, 0)
    assert (machine.unprefilled_tokens, machine.queued, machine.next_start(9.0)) == (0, 0, None)
    machine.abort(only)  # again is no error


def test_abort_during_a_step_books_nothing_for_it() -> None:
    """What a running step computes for a dropped request is forgotten; the others get theirs."""
    machine = engine()
    dropped, kept = sequence(20, 2), sequence(20, 2)
    machine.submit(dropped)
    machine.submit(kept)
    machine.begin_step(0.0)
    machine.abort(dropped)
    end = machine.end_step()
    assert (end.advanced, end.started) == (1, [kept])
    assert (dropped.computed, kept.computed, machine.resident_tokens) == (0, 20, 20)


Job = tuple[int, int, int, float, int | None, int]
JOBS = st.lists(
    st.tuples(
        st.integers(1, 120),  # prompt
        st.integers(1, 60),  # output
        st.integers(0, 12),  # budget beyond the output
        st.floats(0, 30),  # wait since the last arrival
        st.one_of(st.none(), st.integers(0, 25)),  # step in which it is aborted
        st.integers(0, 3),  # which of some shared prefixes it has
    ),
    min_size=1,
    max_size=12,
)
LIMITS = st.builds(
    EngineLimits,
    batched_tokens_max=st.integers(16, 90),
    running_max=st.integers(1, 5),
    kv_blocks=st.just(13),
    reserve_full_isl=st.booleans(),
    watermark=st.sampled_from([0.0, 0.2]),
    prefix_cache=st.booleans(),
    aligned=st.booleans(),
    state_blocks=st.integers(0, 1),
)


class Run:
    """Plays jobs to the end and checks at each step what must hold."""

    def __init__(self, limits: EngineLimits, jobs: list[Job]) -> None:
        self.limits = limits
        self.machine = Engine(limits, COST)
        self.abort_at: dict[Sequence, int | None] = {}
        self.trail: list[tuple[float, int, int, int, int]] = []
        self.emitted = self.computed = self.finished = 0
        arrived = 0.0
        for prompt, output, slack, gap, abort_at, shared in jobs:
            arrived += gap
            keys = tuple((shared, number) for number in range(min(shared, prompt // 16)))
            one = Sequence(
                prompt, output_tokens=output, output_tokens_max=output + slack, arrived=arrived, keys=keys
            )
            self.machine.submit(one)
            self.abort_at[one] = abort_at

    def play(self) -> None:
        now = 0.0
        while (start := self.machine.next_start(now)) is not None:
            step = self.machine.begin_step(start)
            self._check_step(step)
            for one, abort_at in self.abort_at.items():
                if abort_at == len(self.trail):
                    self.machine.abort(one)
            end = self.machine.end_step()
            self.emitted += end.advanced
            self.finished += len(end.finished)
            now = step.ended
            self.trail.append(
                (now, step.prefill_tokens, step.decode_tokens, step.preempted, self.machine.kv.held)
            )
            self._check_state()

    def _check_step(self, step: Step) -> None:
        machine = self.machine
        tokens = step.prefill_tokens + step.decode_tokens
        assert 0 < tokens <= self.limits.batched_tokens_max
        assert step.prefill_tokens == sum(tokens for _, tokens in step.prefills)
        assert machine.running <= min(self.limits.running_max, self.limits.batched_tokens_max)
        assert machine.kv.held <= machine.kv.capacity
        assert not (step.preempted and any(one.scheduled == step.started for one, _ in step.prefills))
        self.computed += tokens

    def _check_state(self) -> None:
        machine = self.machine
        running = [one for one in self.abort_at if one.phase is Phase.RUNNING]
        waiting = [one for one in self.abort_at if one.phase is Phase.WAITING]
        assert machine.resident_tokens == sum(one.computed for one in running)
        left = sum(one.known_tokens - one.computed for one in running if not one.decoding)
        assert machine.unprefilled_tokens == left + sum(one.known_tokens for one in waiting)
        assert machine.stats.running == machine.running == len(running)
        assert machine.stats.waiting == machine.waiting == len(waiting)
        assert machine.kv.held >= len({key for one in running for key in one.held_keys})


@settings(max_examples=300, deadline=None)
@given(jobs=JOBS, limits=LIMITS)
def test_what_holds_in_every_run(jobs: list[Job], limits: EngineLimits) -> None:
    """Step budget, seats and KV hold at every step; all that was not dropped comes to its end; nothing is left over."""
    run = Run(limits, jobs)
    run.play()
    machine = run.machine
    whole = [one for one in run.abort_at if one.phase is Phase.FINISHED]
    assert all(one.phase in {Phase.FINISHED, Phase.ABORTED} for one in run.abort_at)
    assert all(one.phase is Phase.FINISHED for one, abort_at in run.abort_at.items() if abort_at is None)
    assert len(whole) == run.finished
    assert all(one.generated == one.output_tokens for one in whole)
    assert all(one.arrived <= one.scheduled < one.first_token <= one.finished for one in whole)
    assert [one.scheduled for one in whole] == sorted(one.scheduled for one in whole)
    assert (machine.kv.held, machine.stats.kv_usage) == (0, 0.0)
    assert (machine.unprefilled_tokens, machine.resident_tokens, machine.queued) == (0, 0, 0)
    assert machine.preemptions == sum(one.preemptions for one in run.abort_at)


@settings(max_examples=200, deadline=None)
@given(jobs=JOBS, limits=LIMITS)
def test_tokens_are_conserved(jobs: list[Job], limits: EngineLimits) -> None:
    """Without aborts, what is computed is prompts less hits, outputs but for their last tokens, and what was lost."""
    run = Run(limits, [(*job[:4], None, job[5]) for job in jobs])
    run.play()
    sequences = list(run.abort_at)
    assert run.emitted == sum(one.output_tokens for one in sequences)
    once = sum(one.prompt_tokens - one.cached_tokens + one.output_tokens - 1 for one in sequences)
    if not limits.prefix_cache:  # with it, what others computed may save a preempted sequence some
        assert run.computed == once + run.machine.recomputed_tokens
        assert run.machine.prefix_hit_tokens == 0
    if not run.machine.preemptions:
        assert (run.machine.recomputed_tokens, run.computed) == (0, once)
    assert run.machine.prefix_hit_tokens == sum(one.cached_tokens for one in sequences)


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS, limits=LIMITS)
def test_equal_runs_are_equal(jobs: list[Job], limits: EngineLimits) -> None:
    """The same submissions give the same steps to the last bit."""
    first, second = Run(limits, jobs), Run(limits, jobs)
    first.play()
    second.play()
    assert first.trail == second.trail
