"""The whole decision of a pool, by example: which record goes where, and what keeps all of them waiting."""

import pytest

from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted, Deferred
from mira_stream.control.health import BreakerState
from mira_stream.control.permits import Permit
from mira_stream.control.retry import Fault, FaultKind
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

BREAKER, KV, PREFILL = LimitingFactor.BREAKER, LimitingFactor.KV, LimitingFactor.PREFILL
STARVED = Deferred(LimitingFactor.SOURCE_STARVED)
CRASH, ABSENT, FULL = (Fault(kind, "") for kind in (FaultKind.CRASH, FaultKind.ABSENT, FaultKind.SATURATION))


def pool(*replicas: str, **changes: float) -> PoolControl:
    """Replies are expected to have 100 tokens, so that sums are easy."""
    return PoolControl(
        replicas or ("a",),
        AdmissionSettings(
            **{"output_tokens": 100, "kv_tokens": 262_144, "prefill_tokens_per_second": 1e9, **changes}
        ),
    )  # type: ignore[arg-type]


def offer(
    control: PoolControl,
    ticket: int,
    prompt_tokens: int,
    *,
    retry: bool = False,
    avoid: str = "",
    alone: bool = False,
    not_before: float = 0.0,
) -> None:
    control.offer(
        Candidate(
            ticket=ticket,
            prompt_tokens=prompt_tokens,
            retry=retry,
            avoid=frozenset(avoid),
            alone=alone,
            not_before=not_before,
        )
    )


def admitted(control: PoolControl, now: float = 0.0) -> Permit:
    decision = control.decide(now)
    assert isinstance(decision, Admitted), decision
    assert decision.permit.ticket == decision.candidate.ticket
    return decision.permit


def sent(control: PoolControl, now: float = 0.0) -> list[tuple[int, str]]:
    """Everything that goes now, as (ticket, replica)."""
    pairs = []
    while isinstance(decision := control.decide(now), Admitted):
        pairs.append((decision.permit.ticket, decision.permit.replica))
    return pairs


def answer(control: PoolControl, permit: Permit, *, completion_tokens: int = 100, now: float = 0.0) -> None:
    control.settle(permit, Usage(permit.prompt_tokens, completion_tokens), now)


def send(control: PoolControl, ticket: int, prompt_tokens: int, now: float = 0.0) -> Permit:
    offer(control, ticket, prompt_tokens)
    return admitted(control, now)


# What is admitted.


def test_nothing_to_send_says_so() -> None:
    """Only an offer can change it."""
    assert pool().decide(5.0) == STARVED


def test_a_permit_reserves_the_prompt_and_the_mean_reply() -> None:
    """1,000 + 100 tokens; the permit says where and when."""
    assert send(pool(), 7, 1000, now=3.0) == Permit(1, 7, "a", 1000, 1100, 3.0)


def test_kv_is_never_promised_twice() -> None:
    """Limit 10,000: 6,100 are held, 4,000 would be too many, 3,900 are not."""
    control = pool(kv_tokens=10_000)
    first = send(control, 1, 6000)
    offer(control, 2, 3900)
    assert control.decide(0.0) == Deferred(KV)
    offer(control, 3, 3800)
    assert sent(control) == [(3, "a")]
    answer(control, first)
    assert sent(control) == [(2, "a")]


def test_the_batched_token_budget_holds() -> None:
    """131,072 tokens of prompts may be unprefilled, not one more, whatever KV could hold."""
    control = pool(kv_tokens=10_000_000)
    send(control, 1, 65_536)
    send(control, 2, 65_535)
    offer(control, 3, 2)
    assert control.decide(0.0) == Deferred(PREFILL)
    offer(control, 4, 1)
    assert sent(control) == [(4, "a")]


def test_a_look_at_the_engine_frees_the_batched_token_budget() -> None:
    """Three looks with progress after sending; the third record goes."""
    control = pool(kv_tokens=10_000_000)
    for ticket in (1, 2):
        send(control, ticket, 65_000, now=1.0)
    offer(control, 3, 65_000)
    for second in range(5):
        decision = control.decide(float(second))
        assert isinstance(decision, Deferred)
        assert decision.factor is PREFILL, second
        control.observe("a", Load(2, 0, 0.1, generation_tokens=float(second)), float(second), float(second))
    assert sent(control, 5.0) == [(3, "a")]


def test_requests_are_bounded() -> None:
    """Two at a time."""
    control = pool(requests_max=2)
    send(control, 1, 10)
    send(control, 2, 10)
    offer(control, 3, 10)
    assert control.decide(0.0) == Deferred(LimitingFactor.REQUESTS)


def test_a_record_over_the_limit_goes_alone() -> None:
    """It fits nowhere beside others: a replica is kept free for it at once, and it goes when that is empty."""
    control = pool(kv_tokens=10_000)
    small = send(control, 1, 100)
    offer(control, 2, 20_000)
    offer(control, 3, 100)
    assert control.decide(0.0) == Deferred(KV)
    answer(control, small)
    assert sent(control) == [(2, "a")]
    assert control.decide(0.0) == Deferred(KV)


def test_a_prompt_over_the_batched_token_budget_goes_alone() -> None:
    """Although its KV would fit."""
    control = pool(kv_tokens=10_000, batched_tokens_max=2000)
    small = send(control, 1, 100)
    offer(control, 2, 3000)
    offer(control, 3, 100)
    assert control.decide(0.0) == Deferred(PREFILL)
    answer(control, small)
    assert sent(control) == [(2, "a")]


def test_the_mean_reply_is_learned() -> None:
    """2 % of the way with each reply: 100 → 120 → 137.6 after two of 1,100 and 1,000."""
    control = pool()
    answer(control, send(control, 1, 10), completion_tokens=1100)
    assert send(control, 2, 10).tokens == 130
    answer(control, send(control, 3, 10), completion_tokens=1000)
    assert send(control, 4, 10).tokens == 148


def test_a_failed_request_teaches_nothing_about_replies() -> None:
    """Its tokens are free again, and that is all."""
    control = pool()
    control.settle(send(control, 1, 10), None, 1.0)
    assert control.snapshot(1.0)[0].reserved_tokens == 0
    assert send(control, 2, 10).tokens == 110


# Which goes first.


def test_records_go_in_order_while_there_is_room() -> None:
    """Three times 65,536 free tokens are enough for any next record."""
    control = pool(kv_tokens=1_000_000)
    for ticket, tokens in ((1, 10), (2, 5000), (3, 70)):
        offer(control, ticket, tokens)
    assert [ticket for ticket, _ in sent(control)] == [1, 2, 3]


def test_the_longest_that_fits_goes_first_when_room_is_scarce() -> None:
    """Best fit: 6,000 leave 3,900, of which 3,000 and then 500 are used; equal ones stay in order."""
    control = pool(kv_tokens=10_000)
    for ticket, tokens in ((1, 500), (2, 3000), (3, 6000), (4, 3000), (5, 500)):
        offer(control, ticket, tokens)
    assert [ticket for ticket, _ in sent(control)] == [3, 2, 1]


def test_a_record_passed_over_too_often_gets_a_replica() -> None:
    """After four others went first, nothing else goes to its replica until it fits there."""
    control = pool(kv_tokens=10_000, passed_over_max=4)
    held = [send(control, ticket, 2900) for ticket in range(3)]
    offer(control, 100, 5000)
    for ticket in range(10, 14):
        offer(control, ticket, 10)
        permit = admitted(control)
        assert permit.ticket == ticket
        answer(control, permit)
    offer(control, 20, 10)
    assert control.decide(0.0) == Deferred(KV)
    answer(control, held[0])
    assert control.decide(0.0) == Deferred(KV)
    answer(control, held[1])
    assert sent(control) == [(100, "a"), (20, "a")]


def test_a_record_that_could_not_go_is_not_passed_over() -> None:
    """One that waits out a fault has no claim to a replica."""
    control = pool(passed_over_max=1)
    offer(control, 1, 10, not_before=100.0)
    for ticket in (2, 3, 4):
        answer(control, send(control, ticket, 10))
    assert control.window.passed_over(1) == 0


def test_only_earlier_records_are_passed_over() -> None:
    """Those behind the one that goes have lost nothing."""
    control = pool(kv_tokens=10_000)
    for ticket, tokens in ((1, 100), (2, 300), (3, 200)):
        offer(control, ticket, tokens)
    assert admitted(control).ticket == 2
    assert [control.window.passed_over(ticket) for ticket in (1, 3)] == [1, 0]


def test_the_replica_kept_free_stays_the_same() -> None:
    """Although another one would drain first by now: hopping about, none would become free enough."""
    control = pool("a", "b", kv_tokens=10_000, passed_over_max=1)
    held = [send(control, ticket, 4000) for ticket in range(4)]  # a, b, a, b: 8,200 of 10,000 tokens each
    offer(control, 50, 9000)
    offer(control, 51, 900)
    assert sent(control) == [(51, "a")]  # by which 50 is passed over: b drains first and is kept for it
    for permit in (held[0], held[2]):
        answer(control, permit)
    offer(control, 52, 500)
    assert sent(control) == [(52, "a")]
    for permit in (held[1], held[3]):
        answer(control, permit)
    assert sent(control) == [(50, "b")]


def test_who_has_a_replica_kept_free_keeps_it() -> None:
    """An earlier record that falls due later waits for its turn."""
    control = pool("a", "b", kv_tokens=10_000, passed_over_max=1)
    held = [send(control, ticket, 5000) for ticket in range(2)]
    offer(control, 10, 9000)
    offer(control, 11, 20_000)  # fits nowhere beside others: a is kept for it at once
    offer(control, 12, 500)
    assert sent(control) == [(12, "b")]
    answer(control, held[0])
    assert sent(control) == [(11, "a")]


def test_who_has_a_replica_kept_free_may_go_elsewhere_first() -> None:
    """Before a longer one that would take the place."""
    control = pool("a", "b", kv_tokens=10_000, passed_over_max=1)
    held = [send(control, ticket, 8000) for ticket in range(2)]
    offer(control, 10, 3000)
    send(control, 11, 1000)  # on a, so b drains first and is kept
    assert control.decide(0.0) == Deferred(KV)
    answer(control, held[0])
    offer(control, 12, 5000)
    assert sent(control) == [(10, "a"), (12, "a")]


def test_a_record_waits_out_its_pause() -> None:
    """`wake_at` is when time alone lets it go; it is no lack of input."""
    control = pool()
    offer(control, 1, 10, not_before=8.0)
    offer(control, 2, 10, not_before=6.0)
    assert control.decide(5.0) == Deferred(BREAKER, 6.0)
    assert sent(control, 6.0) == [(2, "a")]
    assert control.decide(6.0) == Deferred(BREAKER, 8.0)


# Where it goes.


def test_the_replica_that_drains_first_gets_it() -> None:
    """Names break ties; after that, tokens decide and not counts."""
    control = pool("b", "a", "c")
    assert [send(control, ticket, tokens).replica for ticket, tokens in enumerate((9000, 500, 500))] == list(
        "abc"
    )
    assert [send(control, ticket, 500).replica for ticket in range(10, 14)] == list("bcbc")


def test_a_replica_that_failed_it_is_used_only_without_another() -> None:
    """Full elsewhere is worth waiting for, shut elsewhere is not."""
    control = pool("a", "b", kv_tokens=10_000)
    control.shut_out("a", 0.0, 0.0)
    offer(control, 1, 9000)
    assert sent(control) == [(1, "b")]
    control.probed("a", 1.0, 0.0, ok=True)
    offer(control, 2, 5000, avoid="a")
    assert control.decide(1.0) == Deferred(KV)
    control.shut_out("b", 1.0, 0.0)
    assert sent(control, 1.0) == [(2, "a")]


def test_a_suspect_goes_where_nothing_else_is() -> None:
    """And nothing joins it."""
    control = pool("a", "b")
    busy = send(control, 1, 10)
    assert busy.replica == "a"
    offer(control, 2, 10, alone=True)
    assert sent(control) == [(2, "b")]
    offer(control, 3, 10, alone=True)
    assert control.decide(0.0) == Deferred(LimitingFactor.REQUESTS)
    offer(control, 4, 10)
    assert sent(control) == [(4, "a")]


def test_a_suspect_is_not_put_off_for_ever() -> None:
    """Passed over often enough, it gets a replica that empties."""
    control = pool(passed_over_max=2)
    held = send(control, 1, 10)
    offer(control, 2, 10, alone=True)
    for ticket in (3, 4):
        answer(control, send(control, ticket, 10))
    offer(control, 5, 10)
    assert control.decide(0.0) == Deferred(LimitingFactor.REQUESTS)
    answer(control, held)
    assert sent(control) == [(2, "a")]


# Faults.


def test_an_open_breaker_takes_nothing_until_a_probe_and_an_answer() -> None:
    """Half open lets one request through; the caller does the probe when it is due."""
    control = pool()
    held = send(control, 1, 10)
    control.settle(held, None, 0.0)
    control.failed("a", ABSENT, 0.0, 0.0)
    offer(control, 2, 10)
    offer(control, 3, 10)
    assert control.decide(9.0) == Deferred(BREAKER)
    assert control.probes_due(0.4) == []
    assert control.probes_due(0.5) == ["a"]
    control.probed("a", 0.5, 0.0, ok=True)
    probe = admitted(control, 0.5)
    assert control.decide(0.5) == Deferred(BREAKER)
    answer(control, probe, now=1.0)
    assert sent(control, 1.0) == [(3, "a")]


def test_faults_in_a_row_open_the_breaker_and_refusals_do_not() -> None:
    """A refused record says nothing about the replica."""
    control = pool()
    for kind in (FaultKind.RECORD, FaultKind.LENGTH, FaultKind.CONFIGURATION):
        for _ in range(5):
            control.failed("a", Fault(kind, ""), 0.0, 0.0)
    assert control.snapshot(0.0)[0].breaker is BreakerState.CLOSED
    for kind in (FaultKind.CRASH, FaultKind.TIMEOUT, FaultKind.PROTOCOL):
        control.failed("a", Fault(kind, ""), 0.0, 0.0)
    assert control.snapshot(0.0)[0].breaker is BreakerState.OPEN


def test_a_saturated_replica_is_left_alone_for_as_long_as_it_asks() -> None:
    """Or for a moment, if it does not say; zero seconds are zero."""
    control = pool("a", "b")
    control.failed("a", Fault(FaultKind.SATURATION, "", 7.0), 10.0, 0.0)
    offer(control, 1, 10)
    assert sent(control, 10.0) == [(1, "b")]
    control.failed("b", FULL, 10.0, 0.5)
    offer(control, 2, 10)
    assert control.decide(10.0) == Deferred(BREAKER, 10.75)
    assert sent(control, 10.75) == [(2, "b")]
    control.failed("b", Fault(FaultKind.SATURATION, "", 0.0), 11.0, 0.0)
    offer(control, 3, 10)
    assert sent(control, 11.0) == [(3, "b")]


def test_the_end_of_a_pause_wakes_even_if_another_replica_is_full() -> None:
    """Else the paused one would stand idle until something happens."""
    control = pool("a", "b", kv_tokens=5000)
    control.failed("a", Fault(FaultKind.SATURATION, "", 7.0), 10.0, 0.0)
    for ticket in (1, 2):
        offer(control, ticket, 4000)
    assert sent(control, 10.0) == [(1, "b")]
    assert control.decide(10.0) == Deferred(KV, 17.0)


def test_a_stopped_pool_sends_nothing() -> None:
    """Its records stay, and the first message tells why."""
    control = pool()
    offer(control, 1, 10)
    control.stop("401: check the key")
    control.stop("something else")
    assert control.decide(1e9) == Deferred(BREAKER)
    assert (control.stopped, len(control.window)) == ("401: check the key", 1)
    assert control.snapshot(0.0)[0].factor is BREAKER


def test_settings_are_right_for_a_minute_after_an_answer() -> None:
    """At that replica; a failure shows nothing."""
    control = pool("a", "b")
    assert not control.others_answered("a", 0.0)
    control.settle(send(control, 1, 10), None, 5.0)
    assert not control.others_answered("a", 5.0)
    permit = send(control, 2, 10)
    answer(control, permit, now=10.0)
    other = "ab".replace(permit.replica, "")
    assert control.others_answered(permit.replica, 70.0)
    assert not control.others_answered(permit.replica, 70.1)
    assert not control.others_answered(other, 10.0)


def test_a_record_is_blamed_only_by_a_replica_that_serves_others() -> None:
    """Alone there, and nobody else failed since the last answer."""
    control = pool()
    first = send(control, 1, 10)
    control.settle(first, None, 0.0)
    assert not control.blames(first)
    answer(control, send(control, 2, 10))
    again = send(control, 1, 10)
    control.settle(again, None, 0.0)
    assert control.blames(again)


def test_retries_wait_for_their_budget() -> None:
    """600 tokens are there: one retry of 410 goes, the next waits for 220 more; new records go on."""
    control = pool(retry_budget_tokens=600, retry_budget_ratio=0.5)
    for ticket in (1, 2):
        offer(control, ticket, 310, retry=True)
    assert sent(control, 10.0) == [(1, "a")]
    assert control.retry_budget_tokens(10.0) == 190.0
    assert control.decide(10.0) == Deferred(LimitingFactor.RETRY_BUDGET, 230.0)
    permit = send(control, 3, 900, now=10.0)
    answer(control, permit, now=10.0)  # (900 + 100) / 2 are earned
    assert sent(control, 10.0) == [(2, "a")]


def test_a_large_retry_is_not_overtaken_by_small_ones() -> None:
    """They would spend what it waits for; and it gets no replica kept while it waits."""
    control = pool(retry_budget_tokens=600, passed_over_max=1)
    offer(control, 1, 310, retry=True)
    assert sent(control) == [(1, "a")]
    offer(control, 2, 400, retry=True)
    offer(control, 3, 50, retry=True)  # 150 of the 190 that are left
    assert control.decide(0.0) == Deferred(LimitingFactor.RETRY_BUDGET, 310.0)
    for ticket in (4, 5, 6):
        send(control, ticket, 10)
    assert control.window.passed_over(2) == 0
    assert sent(control, 310.0) == [(2, "a")]
    assert control.decide(310.0) == Deferred(LimitingFactor.RETRY_BUDGET, 460.0)


# What others want to know.


def test_timeouts_follow_the_work() -> None:
    """120 s, three times 2 s for 40,000 tokens ahead of it and its own, 100 s for 300 tokens of reply."""
    control = pool(prefill_tokens_per_second=20_000.0, kv_tokens=1_000_000)
    send(control, 1, 30_000)
    permit = send(control, 2, 10_000)
    assert control.timeout_seconds(permit, 300) == 226.0


def test_a_snapshot_shows_each_replica() -> None:
    """What is held, the bounds, and what keeps the next record out."""
    control = pool("a", "b", kv_tokens=10_000)
    send(control, 1, 6000)
    control.shut_out("b", 0.0, 0.0)
    load = Load(1, 0, 0.25)
    control.observe("a", load, 0.0, 0.0)
    one, two = control.snapshot(0.0)
    assert (one.name, one.factor, one.load) == ("a", LimitingFactor.SOURCE_STARVED, load)
    assert (one.requests, one.requests_limit) == (1, 256)
    assert (one.reserved_tokens, one.reserved_tokens_limit) == (6100, 10_000)
    assert (one.unprefilled_tokens, one.unprefilled_tokens_limit) == (6000, 131_072)
    assert (two.name, two.factor, two.breaker) == ("b", BREAKER, BreakerState.OPEN)
    assert two.load is None


def test_a_snapshot_says_what_limits() -> None:
    """Per replica, for the record that is next."""
    control = pool(kv_tokens=10_000, retry_budget_tokens=100)
    offer(control, 1, 10)
    assert control.snapshot(0.0)[0].factor is None
    assert sent(control) == [(1, "a")]
    offer(control, 2, 9900)
    assert control.snapshot(0.0)[0].factor is KV
    control = pool(retry_budget_tokens=100)
    offer(control, 1, 10, retry=True)
    assert sent(control) == [(1, "a")]
    offer(control, 2, 10, retry=True)
    assert control.snapshot(0.0)[0].factor is LimitingFactor.RETRY_BUDGET
    control = pool()
    offer(control, 1, 10, not_before=5.0)
    assert control.snapshot(0.0)[0].factor is BREAKER


def test_a_snapshot_of_a_replica_kept_free_speaks_of_its_record() -> None:
    """Although another one, ahead in the order, would fit there."""
    control = pool(kv_tokens=10_000, passed_over_max=1)
    held = send(control, 1, 5000)
    offer(control, 2, 20)
    offer(control, 3, 20_000)
    assert control.decide(0.0) == Deferred(KV)
    assert control.snapshot(0.0)[0].factor is KV
    answer(control, held)
    assert control.snapshot(0.0)[0].factor is None


def test_a_snapshot_of_a_replica_speaks_of_records_that_may_go_there() -> None:
    """Not of one that it has failed."""
    control = pool("a", "b", kv_tokens=10_000)
    send(control, 1, 9000)
    send(control, 2, 5000)
    offer(control, 3, 1000, avoid="b")
    offer(control, 4, 8000)
    assert control.decide(0.0) == Deferred(KV)
    assert [one.factor for one in control.snapshot(0.0)] == [KV, KV]


def test_a_pool_names_each_replica_once() -> None:
    """None at all, or one twice, is a bug of whoever builds it."""
    for replicas in ([], ["a", "a"]):
        with pytest.raises(AssertionError):
            PoolControl(replicas, AdmissionSettings())


def test_a_pool_reads_well() -> None:
    """Its repr is for an operator."""
    assert repr(pool()).startswith("PoolControl(0 in the window, [Lane(a, ")
