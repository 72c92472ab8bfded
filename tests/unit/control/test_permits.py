"""Permits, by example: what is reserved, what is settled, and what counts as evidence of prefill."""

import pytest

from mira_stream.control.permits import Holdings, Permit


def permit(
    number: int, prompt_tokens: int = 1000, *, reply_tokens: int = 100, sent_at: float = 0.0
) -> Permit:
    return Permit(
        number=number,
        ticket=number,
        replica="a",
        prompt_tokens=prompt_tokens,
        tokens=prompt_tokens + reply_tokens,
        sent_at=sent_at,
    )


def holdings(*permits: Permit) -> Holdings:
    held = Holdings()
    for one in permits:
        held.reserve(one)
    return held


def test_sums_follow_reservations_and_settlements() -> None:
    """K counts prompt and reply, Q_seen prompts only; both end at exactly zero."""
    one, two = permit(1, 30_000), permit(2, 5000)
    held = holdings(one, two)
    assert (len(held), held.tokens, held.unprefilled_tokens) == (2, 35_200, 35_000)
    held.settle(one, answered=False)
    assert (len(held), held.tokens, held.unprefilled_tokens) == (1, 5100, 5000)
    held.settle(two, answered=True)
    assert (len(held), held.tokens, held.unprefilled_tokens) == (0, 0, 0)


def test_a_permit_is_settled_once() -> None:
    """Settling twice, or what was never reserved, is a bug."""
    one = permit(1)
    held = holdings(one)
    held.settle(one, answered=True)
    with pytest.raises(AssertionError, match="settled twice"):
        held.settle(one, answered=True)
    with pytest.raises(AssertionError, match="settled twice"):
        held.settle(permit(9), answered=False)


def test_a_permit_is_reserved_once_and_in_order() -> None:
    """The order of numbers is the order of sending; evidence rests on it."""
    held = holdings(permit(2))
    for number in (1, 2):
        with pytest.raises(AssertionError, match="out of order"):
            held.reserve(permit(number))


def test_an_answer_shows_that_earlier_ones_are_prefilled() -> None:
    """First come, first served: those sent later are not shown to be."""
    one, two, three = permit(1, 100), permit(2, 20), permit(3, 3)
    held = holdings(one, two, three)
    held.settle(two, answered=True)
    assert held.unprefilled_tokens == 3
    assert held.tokens == 303  # one and three still hold prompt and reply
    held.settle(one, answered=True)
    assert held.unprefilled_tokens == 3


def test_a_failure_is_no_evidence_about_others() -> None:
    """A request that failed takes only its own tokens with it."""
    one, two = permit(1, 100), permit(2, 20)
    held = holdings(one, two)
    held.settle(two, answered=False)
    assert held.unprefilled_tokens == 100


def test_the_third_look_shows_prefill() -> None:
    """Looks that were asked for before a request was sent say nothing about it."""
    held = holdings(permit(1, 100, sent_at=10.0), permit(2, 20, sent_at=11.5))
    for asked_at, unprefilled in ((10.0, 120), (11.0, 120), (12.0, 120), (13.0, 20), (14.0, 0)):
        held.looked(asked_at, waiting=0)
        assert held.unprefilled_tokens == unprefilled, asked_at


def test_the_newest_that_wait_are_not_prefilled() -> None:
    """`waiting` counts among those that were seen often enough, newest first."""
    held = holdings(permit(1, 1), permit(2, 20), permit(3, 300), permit(4, 4000, sent_at=2.5))
    for asked_at in (1.0, 2.0, 3.0):
        held.looked(asked_at, waiting=1)
    assert held.unprefilled_tokens == 4300
    held.looked(4.0, waiting=0)
    assert held.unprefilled_tokens == 4000


def test_more_waiting_than_ours_shows_nothing() -> None:
    """Somebody else's queue is no evidence that ours are prefilled."""
    held = holdings(*(permit(number, 10) for number in range(1, 11)))
    for look in range(1, 9):
        held.looked(float(look), waiting=12)
    assert held.unprefilled_tokens == 100


def test_what_is_prefilled_stays_so() -> None:
    """A later look with a queue (preemption) does not count tokens again."""
    held = holdings(permit(1, 100))
    for look in (1.0, 2.0, 3.0):
        held.looked(look, waiting=0)
    held.looked(4.0, waiting=1)
    assert held.unprefilled_tokens == 0


def test_only_a_request_that_was_alone_all_the_time_was_alone() -> None:
    """Company at its start, at its end or in between counts."""
    one, two, three, four = (permit(number) for number in range(1, 5))
    held = holdings(one)
    assert held.settle(one, answered=False)
    held.reserve(two)
    held.reserve(three)
    assert not held.settle(two, answered=True)
    assert not held.settle(three, answered=True)
    held.reserve(four)
    assert held.settle(four, answered=True)


def test_holdings_read_well() -> None:
    """Its repr is for an operator."""
    assert repr(holdings(permit(1))) == "Holdings(1 requests, 1100 tokens, 1000 unprefilled)"
