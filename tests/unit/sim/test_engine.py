"""The scheduler model: exact step times, first come first served, budgets, KV."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.sim.engine import Engine, EngineLimits, StepCost
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


def test_steps_cost_what_a_hand_calculation_says() -> None:
    """A chunked prompt, a second one that joins, and decoding to the end take exactly the modelled times."""
    machine = engine(budget=100)
    first, second = sequence(150, 3), sequence(20, 2, arrived=1.0)
    machine.submit(first)
    machine.submit(second)
    assert drain(machine) == pytest.approx(
        [
            2.0,  # 100 of the first prompt: 1 + 100 × 0.01
            3.8,  # its other 50 and all 20 of the second, over 100 resident: 1 + 0.7 + 0.1
            5.17,  # two decodes over 170 resident: 1 + 0.2 + 0.17
            6.421,  # one decode, the second is done; 150 + 1 resident: 1 + 0.1 + 0.151
        ]
    )
    assert (first.scheduled, first.first_token, first.finished) == pytest.approx((0.0, 3.8, 6.421))
    assert (second.scheduled, second.first_token, second.finished) == pytest.approx((2.0, 3.8, 5.17))


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
        shares.append([tokens for _, tokens in step.work])
        now = step.ended
        machine.end_step()
    assert shares == [[100], [100], [50, 5]]


def test_a_request_that_does_not_fit_blocks_those_behind_it() -> None:
    """Admission is by order of arrival: a short request does not slip past a long one that lacks KV."""
    machine = engine(budget=1000, blocks=10)
    first, large, small = sequence(64, 16), sequence(96, 16), sequence(8, 8)
    for one in (first, large, small):
        machine.submit(one)
    machine.begin_step(0.0)
    machine.end_step()
    assert [one.phase for one in (first, large, small)] == [Phase.RUNNING, Phase.WAITING, Phase.WAITING]
    assert (machine.stats.running, machine.stats.waiting) == (1, 2)
    drain(machine)
    assert first.finished <= large.scheduled <= small.scheduled


def test_kv_is_reserved_for_the_budget_and_shown_as_held() -> None:
    """Usage counts blocks of the full prompt and of generated tokens; the output budget keeps others out."""
    machine = engine(budget=1000, blocks=10)
    machine.submit(sequence(30, 20, budget=100))  # 2 blocks of prompt, 9 with its budget
    machine.submit(sequence(20, 4))  # needs 2
    machine.begin_step(0.0)
    machine.end_step()
    assert machine.stats.kv_usage == 0.2
    assert (machine.kv.held, machine.kv.reserved) == (2, 9)
    for now in range(2):
        machine.begin_step(float(now))
        machine.end_step()
    assert machine.kv.held == 3  # the 33rd token opened the third block
    assert machine.stats.waiting == 1
    drain(machine)
    assert (machine.kv.held, machine.kv.reserved, machine.stats.kv_usage) == (0, 0, 0.0)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_abort_frees_everything_it_held(steps: int) -> None:
    """A request that is dropped while it waits, prefills or decodes leaves no token and no block behind."""
    machine = engine(budget=100)
    only = sequence(150, 30)
    machine.submit(only)
    for now in range(steps):
        machine.begin_step(float(now))
        machine.end_step()
    machine.abort(only)
    assert only.phase is Phase.ABORTED
    assert (machine.kv.held, machine.kv.reserved, machine.resident_tokens) == (0, 0, 0)
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
    assert end.advanced == [kept]
    assert (dropped.computed, kept.computed, machine.resident_tokens) == (0, 20, 20)


Job = tuple[int, int, int, float, int | None]
JOBS = st.lists(
    st.tuples(
        st.integers(1, 120),  # prompt
        st.integers(1, 12),  # output
        st.integers(0, 40),  # budget beyond the output
        st.floats(0, 30),  # wait since the last arrival
        st.one_of(st.none(), st.integers(0, 25)),  # step before which it is aborted
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(jobs=JOBS, budget=st.integers(4, 90), seats=st.integers(1, 4))
def test_no_limit_is_ever_passed(jobs: list[Job], budget: int, seats: int) -> None:
    """Step budget, seats and KV hold at every step; order is FCFS; all that was not dropped comes to its end."""
    machine = engine(budget=budget, seats=seats, blocks=12)
    arrived = 0.0
    all_of_them: list[tuple[Sequence, int | None]] = []
    for prompt, output, slack, gap, abort_at in jobs:
        arrived += gap
        one = sequence(prompt, output, budget=output + slack, arrived=arrived)
        machine.submit(one)
        all_of_them.append((one, abort_at))
    now, number = 0.0, 0
    while (start := machine.next_start(now)) is not None:
        step = machine.begin_step(start)
        for one, abort_at in all_of_them:
            if abort_at == number:
                machine.abort(one)
        assert sum(tokens for _, tokens in step.work) == step.prefill_tokens + step.decode_tokens <= budget
        assert len(step.work) <= seats
        assert machine.kv.held <= machine.kv.reserved <= machine.kv.capacity
        machine.end_step()
        now, number = step.ended, number + 1
        running = [one for one, _ in all_of_them if one.phase is Phase.RUNNING]
        assert machine.resident_tokens == sum(one.computed + max(0, one.generated - 1) for one in running)
    whole = [one for one, _ in all_of_them if one.phase is Phase.FINISHED]
    assert all(one.phase in {Phase.FINISHED, Phase.ABORTED} for one, _ in all_of_them)
    assert all(one.generated == one.output_tokens for one in whole)
    assert all(one.arrived <= one.scheduled < one.first_token <= one.finished for one in whole)
    assert [one.scheduled for one in whole] == sorted(one.scheduled for one in whole)
    assert (machine.kv.held, machine.kv.reserved, machine.unprefilled_tokens) == (0, 0, 0)
