"""One replica, by example: what it admits, and whom its failures point at."""

import pytest

from mira_stream.control.lane import Lane
from mira_stream.control.permits import Permit
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

SETTINGS = AdmissionSettings(
    kv_tokens=10_000, batched_tokens_max=4000, requests_max=3, prefill_tokens_per_second=20_000.0
)
NOW = 1.0
"""When every prompt that a test sends at 0 is predicted to be prefilled."""
ANSWER = Usage(100, 100)


class Seat:
    """A lane and the numbers of its permits."""

    def __init__(self) -> None:
        self.lane = Lane("a", SETTINGS)
        self.sent = 0

    def send(
        self, ticket: int, prompt_tokens: int = 100, *, tokens: int = 200, alone: bool = False
    ) -> Permit:
        self.sent += 1
        permit = Permit(self.sent, ticket, "a", prompt_tokens, tokens, 0.0)
        self.lane.reserve(permit, alone=alone)
        return permit

    def end(self, permit: Permit, *, answered: bool) -> None:
        self.lane.settle(permit, ANSWER if answered else None, NOW)

    def try_alone(self, ticket: int, *, answered: bool) -> bool:
        self.end(self.send(ticket), answered=answered)
        return self.lane.blame.on(ticket)


def test_an_idle_replica_takes_any_record() -> None:
    """However large: at least one goes out."""
    lane = Seat().lane
    assert lane.refusal(1_000_000, 2_000_000, NOW, alone=False) is None
    assert lane.refusal(10, 20, NOW, alone=True) is None


@pytest.mark.parametrize(
    ("prompt", "need", "alone", "factor"),
    [
        (3900, 9800, False, None),
        (3900, 9801, False, LimitingFactor.KV),
        (3901, 9800, False, LimitingFactor.PREFILL),
        (1, 2, True, LimitingFactor.REQUESTS),
    ],
)
def test_each_bound_refuses(prompt: int, need: int, alone: bool, factor: LimitingFactor | None) -> None:
    """10,000 tokens less 200 reserved; 4,000 to prefill less 100 sent; a suspect beside another request."""
    seat = Seat()
    seat.send(1)
    assert seat.lane.refusal(prompt, need, NOW, alone=alone) is factor


def test_requests_are_bounded() -> None:
    """The fourth waits."""
    seat = Seat()
    for ticket in range(3):
        assert seat.lane.refusal(100, 200, NOW, alone=False) is None
        seat.send(ticket)
    assert seat.lane.refusal(100, 200, NOW, alone=False) is LimitingFactor.REQUESTS


def test_nothing_joins_a_suspect() -> None:
    """Until it has ended."""
    seat = Seat()
    permit = seat.send(1, alone=True)
    assert seat.lane.refusal(1, 2, NOW, alone=False) is LimitingFactor.REQUESTS
    seat.end(permit, answered=False)
    assert seat.lane.refusal(1, 2, NOW, alone=False) is None


def test_a_record_over_the_limit_leaves_no_room() -> None:
    """Room is negative, not wrong."""
    seat = Seat()
    seat.send(1, 20_000, tokens=21_000)
    assert seat.lane.room_tokens(NOW) == -11_000
    assert seat.lane.refusal(1, 2, NOW, alone=False) is LimitingFactor.KV


def test_drain_time_counts_what_is_held() -> None:
    """2,000 tokens sent and 2,000 more at 20,000 a second, and a cache a fifth full: 0.2 s + 0.25 s."""
    seat = Seat()
    seat.send(1, 2000, tokens=2000)
    assert seat.lane.drain_seconds(2000, 0.0) == pytest.approx(0.45)


def test_failures_point_at_a_record_that_alone_fails() -> None:
    """The replica has answered others, and nobody else failed since."""
    seat = Seat()
    assert not seat.try_alone(1, answered=True)
    assert seat.try_alone(2, answered=False)
    assert seat.try_alone(2, answered=False)
    assert not seat.lane.blame.on(1)
    seat.try_alone(1, answered=True)
    assert seat.try_alone(3, answered=False)


def test_a_replica_that_never_answered_blames_nobody() -> None:
    """It may be broken."""
    seat = Seat()
    assert not seat.try_alone(1, answered=False)
    assert not seat.try_alone(1, answered=False)


def test_a_replica_that_fails_everybody_blames_nobody() -> None:
    """From the second record on, until it answers again."""
    seat = Seat()
    seat.try_alone(0, answered=True)
    assert seat.try_alone(1, answered=False)
    assert not seat.try_alone(2, answered=False)
    assert not seat.try_alone(1, answered=False)
    seat.try_alone(3, answered=True)
    assert seat.try_alone(1, answered=False)


def test_a_failure_in_company_blames_nobody() -> None:
    """Not even the last one that fails."""
    seat = Seat()
    seat.try_alone(0, answered=True)
    one, two = seat.send(1), seat.send(2)
    seat.end(one, answered=False)
    assert not seat.lane.blame.on(1)
    seat.end(two, answered=False)
    assert not seat.lane.blame.on(2)


def look(number: int, *, running: int = 1, waiting: int = 0, usage: float = 0.1, start: float = 1.0) -> Load:
    """Look `number` at an engine that generates and prefills all the time."""
    return Load(
        running,
        waiting,
        usage,
        generation_tokens=10.0 * number,
        prefill_seconds=float(number),
        prefilled_tokens=5000.0 * number,
        process_start_seconds=start,
    )


def learner(**changes: float) -> Lane:
    """A lane with nothing configured."""
    return Lane("a", AdmissionSettings(**changes))  # type: ignore[arg-type]


def reserve(lane: Lane, number: int, prompt_tokens: int, now: float) -> Permit:
    permit = Permit(number, number, "a", prompt_tokens, prompt_tokens + 700, now)
    lane.reserve(permit, alone=False)
    return permit


def observe(lane: Lane, load: Load, now: float) -> None:
    lane.observe(load, now - 0.05, now, output_tokens=700.0)


def test_a_prompt_waits_for_the_one_before_it() -> None:
    """The soft gate: 30,000 tokens at 20,000 a second, opened two round trips of 50 ms early once the cache is half full."""
    lane = learner(kv_tokens=50_000)
    reserve(lane, 1, 30_000, 0.0)
    assert lane.opens_at(0.0) == pytest.approx(1.4)
    assert lane.refusal(1000, 1700, 1.39, alone=False) is LimitingFactor.PREFILL
    assert lane.refusal(1000, 1700, 1.41, alone=False) is None


def test_an_emptier_cache_opens_the_soft_gate_wider() -> None:
    """Below half, up to 65,536 tokens are sent ahead."""
    lane = learner(kv_tokens=500_000)
    reserve(lane, 1, 60_000, 0.0)
    assert lane.refusal(30_000, 30_700, 0.0, alone=False) is None
    reserve(lane, 2, 30_000, 0.0)
    assert lane.refusal(1000, 1700, 0.0, alone=False) is LimitingFactor.PREFILL


def test_a_look_with_nothing_waiting_corrects_the_prediction() -> None:
    """What was sent before it is prefilled or in a step; only what came later is still predicted."""
    lane = learner(kv_tokens=50_000)
    reserve(lane, 1, 30_000, 0.0)
    observe(lane, look(1), 0.5)
    assert lane.prefill.tokens(0.5) == 0.0


def test_one_resident_prompt_teaches_the_capacity() -> None:
    """30,000 tokens that fill a tenth: 300,000; filled up in steps while less than half was seen in use."""
    lane = learner()
    assert (lane.capacity.tokens, lane.capacity.origin) == (65_536, "prior")
    reserve(lane, 1, 30_000, 0.0)
    observe(lane, look(1), 1.0)
    assert (lane.capacity.tokens, lane.capacity.origin) == (300_000, "learned")
    assert lane.limit_tokens(1.0) == 131_072
    observe(lane, look(2, usage=0.6), 2.0)
    assert lane.limit_tokens(2.0) == lane.capacity.tokens


def test_another_engine_is_learned_anew() -> None:
    """A restart: its start time changed; what we hold is still held."""
    lane = learner()
    reserve(lane, 1, 30_000, 0.0)
    observe(lane, look(1), 1.0)
    observe(lane, look(2, start=2.0, running=0, usage=0.0), 2.0)
    assert lane.capacity.origin == "prior"
    assert lane.holdings.tokens == 30_700


def test_the_prefill_rate_is_learned() -> None:
    """5,000 tokens a second by the engine's own counters."""
    lane = learner()
    reserve(lane, 1, 30_000, 0.0)
    for number in range(1, 4):
        observe(lane, look(number), float(number))
    assert lane.prefill.tokens_per_second == pytest.approx(5000.0)


def test_foreign_requests_take_their_part_but_never_more_than_half() -> None:
    """Others' requests count with our mean need, once three looks running have shown them."""
    lane = learner(kv_tokens=200_000)
    reserve(lane, 1, 9300, 0.0)
    for number in (1, 2):
        observe(lane, look(number, running=6), float(number))
    assert lane.limit_tokens(2.0) == 200_000
    observe(lane, look(3, running=6), 3.0)
    assert lane.looks.foreign_requests == 5
    assert lane.limit_tokens(3.0) == 200_000 - 5 * 10_000
    for number in range(4, 8):
        observe(lane, look(number, running=60), float(number))
    assert lane.limit_tokens(8.0) == 100_000


def test_a_foreign_request_or_two_may_be_our_own_shadow() -> None:
    """Looks and requests cross each other: up to two are let be."""
    lane = learner(kv_tokens=200_000)
    reserve(lane, 1, 9300, 0.0)
    for number in range(1, 6):
        observe(lane, look(number, running=3), float(number))
    assert lane.limit_tokens(6.0) == 200_000


def test_frozen_metrics_take_a_tenth_and_no_more() -> None:
    """Ten seconds without a change while work is there; a change ends it."""
    lane = learner(kv_tokens=100_000)
    reserve(lane, 1, 9300, 0.0)
    observe(lane, look(1), 1.0)
    for second in range(2, 40):
        observe(lane, look(1), float(second))
        assert lane.is_stale(float(second)) is (second >= 11), second
    assert lane.limit_tokens(39.0) == 90_000
    observe(lane, look(2), 40.0)
    assert lane.limit_tokens(40.0) == 100_000


def test_an_idle_replica_is_not_stale() -> None:
    """Nothing moves where nothing is to be done; the clock starts with the next request."""
    lane = learner()
    observe(lane, look(1), 1.0)
    assert not lane.is_stale(1000.0)
    reserve(lane, 1, 9300, 1000.0)
    assert not lane.is_stale(1009.9)
    assert lane.is_stale(1010.1)


def test_frozen_metrics_do_not_halt_a_replica_that_answers() -> None:
    """Prompts are taken to be prefilled in order at 0.7 of the rate once five seconds went by, while replies come."""
    lane = learner(kv_tokens=1_000_000)
    one = reserve(lane, 1, 14_000, 0.0)
    for number in (2, 3):
        reserve(lane, number, 14_000, 0.5)
    lane.tick(20.0)
    assert lane.holdings.unprefilled_tokens == 42_000, "nobody has answered"
    lane.settle(one, ANSWER, 20.0)
    wake_at = lane.drain_wake_at(20.0)
    assert wake_at == pytest.approx(21.0)
    lane.tick(20.9)
    assert lane.holdings.unprefilled_tokens == 28_000
    lane.tick(wake_at)
    assert lane.holdings.unprefilled_tokens == 14_000
    lane.tick(22.1)
    assert lane.holdings.unprefilled_tokens == 0


def test_cached_tokens_count_only_where_they_were_seen() -> None:
    """Routing credits what replies report, else what the counters show, else nothing."""
    lane = learner()
    assert lane.uncached(1000) == 1000
    permit = reserve(lane, 1, 1000, 0.0)
    lane.settle(permit, Usage(1000, 100, cached_tokens=400), 1.0)
    assert lane.uncached(1000) == 600


def test_several_engines_share_the_budget_but_not_the_queue() -> None:
    """Four queues behind one address: four budgets, and an answer proves nothing about those sent before it."""
    lane = learner(kv_tokens=10_000_000)
    load = Load(1, 0, 0.1, generation_tokens=1.0, engines=4)
    observe(lane, load, 1.0)
    assert lane.batched_tokens_max == 4 * 131_072
    reserve(lane, 1, 1000, 2.0)
    lane.settle(reserve(lane, 2, 500, 2.0), ANSWER, 3.0)
    assert lane.holdings.unprefilled_tokens == 1000


def test_a_look_is_wanted_where_only_evidence_is_missing() -> None:
    """Not while the prediction itself says wait, and not for want of KV."""
    lane = learner(kv_tokens=1_000_000)
    for number in range(1, 4):
        reserve(lane, number, 40_000, 0.0)
    lane.limited_by(lane.refusal(40_000, 40_700, 0.0, alone=False), 0.0)
    assert not lane.wants_look
    lane.limited_by(lane.refusal(40_000, 40_700, 10.0, alone=False), 10.0)
    assert lane.wants_look
    observe(lane, look(1), 10.2)
    assert not lane.wants_look


def test_a_lane_reads_well() -> None:
    """Its repr is for an operator."""
    assert repr(Seat().lane).startswith("Lane(a, Holdings(0 requests")


def test_an_answer_that_says_nothing_waits_corrects_the_prediction() -> None:
    """As fresh as a look: what was sent before it is prefilled, or in a step."""
    lane = learner(kv_tokens=50_000)
    reserve(lane, 1, 30_000, 0.0)
    lane.idle(0.5)
    assert lane.prefill.tokens(0.5) == 0.0
    reserve(lane, 2, 20_000, 0.5)
    lane.idle(0.51)
    assert lane.prefill.tokens(0.51) == pytest.approx(20_000, rel=0.05)


def test_what_ended_is_forgotten_even_where_no_look_ever_comes() -> None:
    """A replica without metrics answers for months; only the last half minute is of interest."""
    lane = Lane("a", SETTINGS)
    for number in range(1, 1001):
        permit = Permit(number, number, "a", 100, 200, float(number))
        lane.reserve(permit, alone=False)
        lane.settle(permit, ANSWER, float(number))
    assert len(lane._settled_at) < 40


def test_a_full_lane_is_left_out_by_the_quick_look_too() -> None:
    """Else every record of a long window would be tried there one by one."""
    seat = Seat()
    for ticket in range(SETTINGS.requests_max - 1):
        seat.send(ticket, 10, tokens=10)
    assert seat.lane.room(NOW) > (0, 0)
    seat.send(SETTINGS.requests_max, 10, tokens=10)
    assert seat.lane.room(NOW) == (-1, -1)


def test_more_running_than_can_be_counted_does_no_harm() -> None:
    """A page that says so is nonsense, and no reason to end."""
    seat = Seat()
    lane = seat.lane
    seat.send(1)
    for number in range(1, 5):
        look = Load(1 << 70, 0, 0.5, generation_tokens=float(number))
        lane.observe(look, float(number), float(number), output_tokens=100)
    assert lane.limit_tokens(5.0) == SETTINGS.kv_tokens // 2
