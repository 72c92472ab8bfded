"""The breaker, by example: what opens it, for how long, and what closes it."""

import pytest

from mira_stream.control.health import Breaker, BreakerState
from mira_stream.control.settings import AdmissionSettings

SETTINGS = AdmissionSettings(breaker_failures=3, breaker_seconds_min=2.0, breaker_seconds_max=10.0)


def breaker() -> Breaker:
    return Breaker(SETTINGS)


def opened() -> Breaker:
    one = breaker()
    one.failed(100.0, 0.0, at_once=True)
    return one


def half_open() -> Breaker:
    one = opened()
    one.probed(101.0, 0.0, ok=True)
    return one


def test_failures_in_a_row_open_it() -> None:
    """The third does; an answer in between starts the count anew."""
    one = breaker()
    one.failed(1.0, 0.0, at_once=False)
    one.failed(1.0, 0.0, at_once=False)
    one.succeeded()
    one.failed(1.0, 0.0, at_once=False)
    one.failed(1.0, 0.0, at_once=False)
    assert one.state is BreakerState.CLOSED
    one.failed(1.0, 0.0, at_once=False)
    assert one.state is BreakerState.OPEN
    assert not one.allows(1e9, in_flight=0)


def test_an_absent_replica_opens_it_at_once() -> None:
    """A refused connection needs no second one."""
    assert opened().state is BreakerState.OPEN


def test_a_replica_that_dies_with_many_requests_opens_it_once() -> None:
    """Sixty requests that fail together are one event: the pause does not grow with them."""
    one = breaker()
    for _ in range(60):
        one.failed(100.0, 0.0, at_once=False)
    assert one.open_until == 101.0  # half of 2 s at jitter 0


def test_pauses_double_up_to_the_longest() -> None:
    """2, 4, 8, 10, 10 seconds, of which jitter takes up to a half."""
    one, now, pauses = opened(), 100.0, []
    for _ in range(5):
        pauses.append(one.open_until - now)
        now = one.open_until
        one.probed(now, 0.0, ok=False)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    jittered = breaker()
    jittered.failed(100.0, 0.5, at_once=True)
    assert jittered.open_until == 101.5


def test_a_probe_is_due_after_the_pause() -> None:
    """Not sooner, and never while closed or half open."""
    one = opened()
    assert not one.probe_due(100.9)
    assert one.probe_due(101.0)
    assert not half_open().probe_due(1e9)
    assert not breaker().probe_due(1e9)


def test_half_open_lets_one_request_through() -> None:
    """The next one waits for its answer."""
    one = half_open()
    assert one.state is BreakerState.HALF_OPEN
    assert one.allows(101.0, in_flight=0)
    assert not one.allows(101.0, in_flight=1)
    one.succeeded()
    assert one.state is BreakerState.CLOSED
    assert one.allows(101.0, in_flight=1)


def test_a_failure_while_half_open_opens_it_for_longer() -> None:
    """One is enough, and the pause goes on doubling."""
    one = half_open()
    one.failed(101.0, 0.0, at_once=False)
    assert one.state is BreakerState.OPEN
    assert one.open_until == 103.0


def test_an_answer_resets_the_pause() -> None:
    """A replica that was well again starts with the first pause."""
    one = half_open()
    one.succeeded()
    one.failed(200.0, 0.0, at_once=True)
    assert one.open_until == 201.0


def test_an_old_answer_does_not_close_it() -> None:
    """A replica that shuts down may still answer what it has: nothing new may go there."""
    one = opened()
    one.succeeded()
    assert one.state is BreakerState.OPEN


def test_a_probe_counts_only_while_open() -> None:
    """A look at a replica that works changes nothing."""
    one = breaker()
    one.probed(1.0, 0.0, ok=False)
    assert one.state is BreakerState.CLOSED


def test_a_saturated_replica_is_paused_and_not_open() -> None:
    """The longest pause asked for holds; then it is as before, without a probe."""
    one = breaker()
    one.saturated(10.0)
    one.saturated(5.0)
    assert not one.allows(9.9, in_flight=0)
    assert one.wake_at(9.9) == 10.0
    assert one.allows(10.0, in_flight=7)
    assert one.wake_at(10.0) is None
    assert not one.probe_due(9.9)


def test_time_alone_never_wakes_an_open_one() -> None:
    """Only a probe does."""
    one = opened()
    one.saturated(1e9)
    assert one.wake_at(100.0) is None


@pytest.mark.parametrize("jitter", [-0.1, 1.0])
def test_jitter_outside_its_range_is_a_bug(jitter: float) -> None:
    """It is in [0, 1)."""
    with pytest.raises(AssertionError):
        breaker().open(1.0, jitter)


def test_a_breaker_reads_well() -> None:
    """Its repr is for an operator."""
    assert repr(opened()) == "Breaker(open, 1 failures in a row, open until 101.0)"
