"""The window, by example: order, places and the count of being passed over."""

import pytest

from mira_stream.control.window import Candidate, Window


def test_records_are_in_order_of_arrival() -> None:
    """One that comes back goes to the end."""
    window = Window(3)
    for ticket in (5, 3, 4):
        window.add(Candidate(ticket=ticket, prompt_tokens=1))
    window.add(window.take(5))
    assert [candidate.ticket for candidate in window] == [3, 4, 5]
    assert len(window) == 3


def test_a_ticket_is_in_the_window_once() -> None:
    """Twice is a bug."""
    window = Window(2)
    window.add(Candidate(ticket=1, prompt_tokens=1))
    with pytest.raises(AssertionError, match="ticket 1"):
        window.add(Candidate(ticket=1, prompt_tokens=2))


def test_being_passed_over_is_counted_until_the_record_goes() -> None:
    """A record that comes back starts anew."""
    window = Window(2)
    candidate = Candidate(ticket=1, prompt_tokens=1)
    window.add(candidate)
    window.pass_over(1)
    window.pass_over(1)
    assert window.passed_over(1) == 2
    window.add(window.take(1))
    assert window.passed_over(1) == 0


def test_a_record_that_comes_back_always_has_a_place() -> None:
    """`places` binds those who offer new records: what is in flight must be able to return."""
    window = Window(1)
    for ticket in range(3):
        window.add(Candidate(ticket=ticket, prompt_tokens=1, retry=True))
    assert (len(window), window.places) == (3, 1)
