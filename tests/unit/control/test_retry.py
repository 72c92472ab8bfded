"""Faults, by example: whose fault, what next, and how much may be sent again."""

import pytest

from mira_stream.control.retry import (
    Fault,
    FaultKind,
    GiveUp,
    History,
    Resend,
    RetryBudget,
    StopPool,
    classify,
    next_step,
)
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import MiraStreamError, Missing, Permanent, Saturated, Transient, TransientKind
from mira_stream.core.outcome import Reason

LENGTH, RECORD, CONFIGURATION = FaultKind.LENGTH, FaultKind.RECORD, FaultKind.CONFIGURATION


def kind_of(error: MiraStreamError, *, others: bool = False, over: bool = False) -> FaultKind:
    return classify(error, others_answered=others, over_length=over).kind


def step(
    kind: FaultKind,
    history: History | None = None,
    *,
    replica: str = "a",
    alone: bool = False,
    jitter: float = 0.0,
) -> Resend | GiveUp | StopPool:
    fault = Fault(kind, "said so")
    return next_step(history or History(), fault, replica=replica, was_alone=alone, jitter=jitter)


def resend(
    kind: FaultKind,
    history: History | None = None,
    *,
    replica: str = "a",
    alone: bool = False,
    jitter: float = 0.0,
) -> Resend:
    taken = step(kind, history, replica=replica, alone=alone, jitter=jitter)
    assert isinstance(taken, Resend)
    return taken


# Whose fault it was.


@pytest.mark.parametrize(
    ("status", "param", "others", "over", "kind"),
    [
        (400, "input_tokens", False, False, LENGTH),
        (400, "input_tokens", True, False, LENGTH),
        (400, "max_tokens", False, True, LENGTH),  # the prompt fills the context exactly
        (400, "max_tokens", False, False, CONFIGURATION),  # the setting is over the model's limit
        (400, "max_tokens", True, False, RECORD),
        (400, None, False, False, CONFIGURATION),
        (400, "temperature", False, False, CONFIGURATION),
        (400, None, True, False, RECORD),
        (413, None, True, False, RECORD),
        (422, None, True, False, RECORD),
        (413, None, False, True, CONFIGURATION),
        (401, None, True, False, CONFIGURATION),
        (403, None, True, False, CONFIGURATION),
        (404, "model", True, False, CONFIGURATION),
        (405, None, True, False, CONFIGURATION),
    ],
)
def test_a_refusal_is_judged_by_what_shows_the_settings_are_right(
    status: int, param: str | None, others: bool, over: bool, kind: FaultKind
) -> None:
    """A record is blamed for its length, or if others with the same settings are answered; else nobody is."""
    assert kind_of(Permanent(status, "no", param), others=others, over=over) is kind


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (TransientKind.REFUSED, FaultKind.ABSENT),
        (TransientKind.SHUTDOWN, FaultKind.ABSENT),
        (TransientKind.DROPPED, FaultKind.DROPPED),
        (TransientKind.RESET, FaultKind.CRASH),
        (TransientKind.SERVER, FaultKind.CRASH),
        (TransientKind.TIMEOUT, FaultKind.TIMEOUT),
        (TransientKind.PROTOCOL, FaultKind.PROTOCOL),
    ],
)
def test_passing_trouble_is_the_replicas(cause: TransientKind, kind: FaultKind) -> None:
    """Whatever else is known about the record."""
    assert kind_of(Transient(cause, "no"), others=True, over=True) is kind


def test_every_kind_of_passing_trouble_is_judged() -> None:
    """A new one must be given a meaning here."""
    for cause in TransientKind:
        assert isinstance(kind_of(Transient(cause, "no")), FaultKind)


def test_saturation_keeps_what_was_asked_for() -> None:
    """`Retry-After` goes to the replica's pause."""
    fault = classify(Saturated("full", 7.5, 503), others_answered=False, over_length=False)
    assert fault == Fault(FaultKind.SATURATION, "full", 7.5)


def test_an_error_that_no_replica_raises_is_a_bug() -> None:
    """Adapters raise three kinds."""
    with pytest.raises(AssertionError):
        kind_of(Missing("what"))


# What happens next.


def test_a_refused_record_ends() -> None:
    """The same payload is never sent again."""
    assert step(RECORD) == GiveUp(Reason.REFUSED)
    assert step(LENGTH) == GiveUp(Reason.OVER_LENGTH)


def test_a_wrong_configuration_stops_the_pool() -> None:
    """The record is kept."""
    assert step(CONFIGURATION) == StopPool("said so")


def test_a_crash_is_tried_again_elsewhere() -> None:
    """After a pause that doubles up to half a minute, of which jitter takes up to a half."""
    first = resend(FaultKind.CRASH)
    assert first == Resend(History(1, 1, 0, frozenset("a")), 0.25)
    assert resend(FaultKind.CRASH, first.history, replica="b").history.avoid == frozenset("ab")
    pauses = [resend(FaultKind.TIMEOUT, History(failures=n)).after_seconds for n in range(9)]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert resend(FaultKind.CRASH, jitter=0.5).after_seconds == 0.375


def test_an_absent_replica_costs_nothing() -> None:
    """No work was lost: elsewhere at once, without the retry budget; after that with a pause."""
    first = resend(FaultKind.ABSENT)
    assert first == Resend(History(1, 0, 0, frozenset("a")), 0.0, spends_budget=False)
    assert resend(FaultKind.ABSENT, first.history).after_seconds == 0.5


def test_a_connection_closed_as_the_record_was_sent_says_nothing_once() -> None:
    """Servers close idle connections, and all when they end. A record that takes servers down at once still ends."""
    first = resend(FaultKind.DROPPED, alone=True)
    assert first == Resend(History(1, 0, 0, frozenset("a"), drops=1), 0.0, spends_budget=False)
    second = resend(FaultKind.DROPPED, first.history, replica="b", alone=True)
    assert second == Resend(History(2, 1, 1, frozenset("ab"), drops=1), 0.5)
    assert step(FaultKind.DROPPED, second.history, alone=True) == GiveUp(Reason.POISON)


def test_a_full_replica_is_not_avoided() -> None:
    """It is paused for everybody, so the record need not remember it."""
    assert resend(FaultKind.SATURATION) == Resend(History(failures=1), 0.0, spends_budget=False)


@pytest.mark.parametrize(
    "kind", [FaultKind.ABSENT, FaultKind.SATURATION, FaultKind.TIMEOUT, FaultKind.PROTOCOL]
)
def test_what_is_no_crash_never_makes_poison(kind: FaultKind) -> None:
    """However often and however alone: nothing is dead-lettered for a replica's fault."""
    history = History(crashes=1, crashes_alone=1)
    for _ in range(100):
        again = resend(kind, history, alone=True)
        assert not again.alone
        history = again.history
    assert (history.failures, history.crashes, history.crashes_alone) == (100, 1, 1)


def test_crashes_beside_others_never_make_poison() -> None:
    """A suspect is sent alone; what crashed in company may have been anybody's fault."""
    history = History()
    for _ in range(100):
        again = resend(FaultKind.CRASH, history)
        history = again.history
        assert again.alone is (history.crashes >= 2)


def test_two_crashes_alone_make_poison() -> None:
    """The first makes no suspect yet."""
    first = resend(FaultKind.CRASH, alone=True)
    assert (first.history.crashes_alone, first.alone) == (1, False)
    assert step(FaultKind.CRASH, first.history, alone=True) == GiveUp(Reason.POISON)


def test_a_suspect_stays_alone_through_other_trouble() -> None:
    """A refused connection does not clear it."""
    assert resend(FaultKind.ABSENT, History(failures=2, crashes=2)).alone


# The budget.

BUDGET = AdmissionSettings(retry_budget_tokens=600, retry_budget_ratio=0.5)


def test_retries_spend_and_answers_earn() -> None:
    """Half of what is answered comes back, never more than the store holds."""
    budget = RetryBudget(BUDGET)
    budget.spend(500, 0.0)
    assert budget.tokens(0.0) == 100.0
    budget.earn(80, 0.0)
    assert budget.tokens(0.0) == 140.0
    budget.earn(10_000, 0.0)
    assert budget.tokens(0.0) == 600.0


def test_an_empty_budget_fills_by_time_as_well() -> None:
    """600 tokens in 600 s: a pool in which everything failed comes back by itself."""
    budget = RetryBudget(BUDGET)
    budget.spend(600, 10.0)
    assert budget.ready_at(60, 10.0) == 70.0
    assert budget.tokens(40.0) == 30.0
    assert budget.ready_at(60, 40.0) == 70.0
    assert budget.ready_at(60, 70.0) == 70.0


def test_what_is_said_to_be_ready_is_ready() -> None:
    """Rounding never makes a caller wake a moment too early, again and again."""
    for cents in range(1, 2000):
        budget = RetryBudget(AdmissionSettings(retry_budget_tokens=4_000_000))
        now = cents / 7
        budget.spend(4_000_000, now)
        ready_at = budget.ready_at(1000 + cents, now)
        assert ready_at > now
        assert budget.ready_at(1000 + cents, ready_at) == ready_at


def test_a_full_budget_covers_any_request() -> None:
    """Else one larger than the store would wait for ever."""
    budget = RetryBudget(BUDGET)
    assert budget.ready_at(10_000, 5.0) == 5.0
    budget.spend(10_000, 5.0)
    assert budget.tokens(5.0) == 0.0
    assert budget.ready_at(10_000, 5.0) == 605.0


def test_spending_what_is_not_there_is_a_bug() -> None:
    """Admission asks first."""
    budget = RetryBudget(BUDGET)
    budget.spend(600, 0.0)
    with pytest.raises(AssertionError):
        budget.spend(2, 0.0)


def test_a_clock_that_stands_gives_nothing() -> None:
    """Nor does one that an earlier look at the budget has passed."""
    budget = RetryBudget(BUDGET)
    budget.spend(600, 100.0)
    assert budget.tokens(50.0) == 0.0
    assert repr(budget) == "RetryBudget(0 of 600 tokens)"
