"""Replicas that come and go, the end of a run, and the shared prefix: a pool's decisions beside the everyday ones."""

from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted
from mira_stream.control.permits import Permit
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

WIDE = {"kv_tokens": 10_000_000, "prefill_tokens_per_second": 1e9, "output_tokens": 100}


def pool(*replicas: str, shared_tokens: int = 0, **changes: object) -> PoolControl:
    settings = AdmissionSettings(**{**WIDE, **changes})  # type: ignore[arg-type]
    return PoolControl(replicas or ("a",), settings, shared_tokens=shared_tokens)


def offer(control: PoolControl, *sizes: int) -> None:
    """Records 1, 2, 3 … of those sizes."""
    for ticket, size in enumerate(sizes, 1):
        control.offer(Candidate(ticket=ticket, prompt_tokens=size))


def sent(control: PoolControl, now: float = 0.0) -> list[Permit]:
    """Everything that goes now."""
    permits = []
    while isinstance(decision := control.decide(now), Admitted):
        permits.append(decision.permit)
    return permits


def answer_many(control: PoolControl, *, usage: Usage, seconds: float = 20.0, count: int = 16) -> None:
    """So many records are sent and answered, one after the other."""
    for number in range(count):
        control.offer(Candidate(ticket=1000 + number, prompt_tokens=usage.prompt_tokens))
        (permit,) = sent(control)
        control.settle(permit, usage, permit.sent_at + seconds)


def test_a_replica_that_leaves_is_sent_nothing_and_is_forgotten_when_empty() -> None:
    """Its request ends first."""
    control = pool("a", "b")
    offer(control, 10, 10)
    permits = {permit.replica: permit for permit in sent(control)}
    control.leave("a")
    control.offer(Candidate(ticket=3, prompt_tokens=10))
    assert [permit.replica for permit in sent(control)] == ["b"]
    assert not control.left("a")
    control.settle(permits["a"], None, 1.0)
    assert control.left("a")
    assert [one.name for one in control.snapshot(1.0)] == ["b"]


def test_a_replica_that_stays_after_all_goes_on() -> None:
    """What it held and what was learned of it are kept."""
    control = pool("a", "b", kv_tokens=None)
    offer(control, 10)
    sent(control)
    control.leave("a")
    control.add("a")
    held = {one.name: one.requests for one in control.snapshot(0.0)}
    assert held == {"a": 1, "b": 0}
    assert not control.left("a")


def test_a_replica_that_comes_is_used() -> None:
    """Like any other."""
    control = pool("a", requests_max=1)
    control.add("b")
    offer(control, 10, 10)
    assert {permit.replica for permit in sent(control)} == {"a", "b"}


def test_where_all_replicas_leave_nothing_is_sent() -> None:
    """And the pool says what it waits for."""
    control = pool("a")
    control.leave("a")
    offer(control, 10)
    decision = control.decide(0.0)
    assert not isinstance(decision, Admitted)
    assert decision.factor is LimitingFactor.BREAKER


def test_news_of_a_replica_that_has_left_is_let_be() -> None:
    """It may still be on its way."""
    control = pool("a", "b")
    control.leave("a")
    assert control.left("a")
    control.observe("a", Load(0, 0, 0.0), 0.0, 0.1)
    control.probed("a", 0.1, 0.0, ok=True)
    control.proved("a", 0.1)
    control.warmed_up("a")
    control.shut_out("a", 0.1, 0.0)
    assert not control.wants_look("a")
    assert not control.others_answered("a", 0.1)
    assert [one.name for one in control.snapshot(0.1)] == ["b"]


def test_a_first_token_frees_the_batched_token_budget() -> None:
    """Evidence without any look; those sent before it are prefilled too."""
    control = pool(batched_tokens_max=130_000)
    offer(control, 60_000, 60_000, 60_000)
    permits = sent(control)
    assert len(permits) == 2
    control.started(permits[1])
    assert [permit.ticket for permit in sent(control)] == [3]


def test_records_go_in_order_while_there_is_room_and_longest_first_at_the_end() -> None:
    """The last one to finish is what everybody waits for."""
    control = pool(requests_max=8)
    offer(control, 10, 30, 20)
    assert [permit.ticket for permit in sent(control)] == [1, 2, 3]
    control = pool(requests_max=8)
    control.no_more()
    offer(control, 10, 30, 20)
    assert [permit.ticket for permit in sent(control)] == [2, 3, 1]


def test_a_second_request_goes_to_another_idle_replica() -> None:
    """Not to the slow one, not beside a queue, and only within the retry budget, which it spends."""
    control = pool("a", "b")
    candidate = Candidate(ticket=1, prompt_tokens=1000, retry=True, avoid=frozenset("a"))
    before = control.retry_budget_tokens(0.0)
    control.observe("b", Load(2, 1, 0.5), 0.0, 0.0)
    assert control.hedge(candidate, 0.0) is None
    control.observe("b", Load(2, 0, 0.5), 0.1, 0.1)
    admitted = control.hedge(candidate, 0.1)
    assert admitted is not None
    assert admitted.permit.replica == "b"
    assert control.retry_budget_tokens(0.1) == before - 1100
    assert pool("a").hedge(candidate, 0.0) is None
    poor = pool("a", "b", retry_budget_tokens=1)
    poor.offer(Candidate(ticket=7, prompt_tokens=10, retry=True))
    sent(poor)
    assert poor.hedge(candidate, 0.0) is None


def test_what_is_stuck_is_known_from_what_is_usual() -> None:
    """One and a half times what nearly all took; never while hedging is off."""
    control, off = pool(), pool(hedge=False)
    assert control.hedge_after_seconds is None
    for one in (control, off):
        answer_many(one, usage=Usage(1000, 100))
    assert control.hedge_after_seconds == 30.0
    assert off.hedge_after_seconds is None


def test_a_prefix_cache_that_misses_is_warmed_at_most_twice() -> None:
    """4,000 of 20,000 tokens are shared; where replies show hardly any of them, sending them alone may help."""
    control = pool(shared_tokens=4000)
    answer_many(control, usage=Usage(20_000, 100, cached_tokens=100), count=15)
    assert not control.warm_up_due("a")
    answer_many(control, usage=Usage(20_000, 100, cached_tokens=100), count=1)
    assert control.prefix_possible_ratio == 0.2
    for _ in range(2):
        assert control.warm_up_due("a")
        control.warmed_up("a")
        assert not control.warm_up_due("a")
        answer_many(control, usage=Usage(20_000, 100, cached_tokens=100), count=32)
    assert not control.warm_up_due("a")


def test_a_prefix_cache_that_hits_is_let_be() -> None:
    """So is one that nothing is known of, and a prefix that is not worth it."""
    hits, unknown, small = pool(shared_tokens=4000), pool(shared_tokens=4000), pool(shared_tokens=100)
    answer_many(hits, usage=Usage(20_000, 100, cached_tokens=3900))
    answer_many(unknown, usage=Usage(20_000, 100))
    answer_many(small, usage=Usage(20_000, 100, cached_tokens=0))
    assert [one.warm_up_due("a") for one in (hits, unknown, small)] == [False, False, False]


def test_no_look_is_wanted_at_a_replica_that_may_not_be_sent_anything() -> None:
    """It would be looked at for ever where its metrics fail: only a look ends the wish."""
    control = PoolControl(["a"], AdmissionSettings(kv_tokens=1_000_000, prefill_tokens_per_second=1e6))
    for ticket in range(4):
        control.offer(Candidate(ticket=ticket, prompt_tokens=40_000))
    now = 1.0
    while isinstance(control.decide(now), Admitted):
        now += 1.0
    assert control.wants_look("a")
    control.shut_out("a", now, 0.0)
    control.decide(now)
    assert not control.wants_look("a")
