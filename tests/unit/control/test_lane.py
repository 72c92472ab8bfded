"""One replica, by example: what it admits, and whom its failures point at."""

import pytest

from mira_stream.control.lane import Lane
from mira_stream.control.permits import Permit
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor

SETTINGS = AdmissionSettings(kv_tokens=10_000, batched_tokens_max=4000, requests_max=3)


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
        self.lane.settle(permit, answered=answered, now=1.0)

    def try_alone(self, ticket: int, *, answered: bool) -> bool:
        self.end(self.send(ticket), answered=answered)
        return self.lane.blames(ticket)


def test_an_idle_replica_takes_any_record() -> None:
    """However large: at least one goes out."""
    lane = Seat().lane
    assert lane.refusal(1_000_000, 2_000_000, alone=False) is None
    assert lane.refusal(10, 20, alone=True) is None


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
    assert seat.lane.refusal(prompt, need, alone=alone) is factor


def test_requests_are_bounded() -> None:
    """The fourth waits."""
    seat = Seat()
    for ticket in range(3):
        assert seat.lane.refusal(100, 200, alone=False) is None
        seat.send(ticket)
    assert seat.lane.refusal(100, 200, alone=False) is LimitingFactor.REQUESTS


def test_nothing_joins_a_suspect() -> None:
    """Until it has ended."""
    seat = Seat()
    permit = seat.send(1, alone=True)
    assert seat.lane.refusal(1, 2, alone=False) is LimitingFactor.REQUESTS
    seat.end(permit, answered=False)
    assert seat.lane.refusal(1, 2, alone=False) is None


def test_a_record_over_the_limit_leaves_no_room() -> None:
    """Room is negative, not wrong."""
    seat = Seat()
    seat.send(1, 20_000, tokens=21_000)
    assert seat.lane.room_tokens == -11_000
    assert seat.lane.refusal(1, 2, alone=False) is LimitingFactor.KV


def test_drain_time_counts_what_is_held() -> None:
    """2,000 tokens sent and 2,000 more at 20,000 a second, and a cache a fifth full: 0.2 s + 0.25 s."""
    seat = Seat()
    seat.send(1, 2000, tokens=2000)
    assert seat.lane.drain_seconds(2000) == pytest.approx(0.45)


def test_failures_point_at_a_record_that_alone_fails() -> None:
    """The replica has answered others, and nobody else failed since."""
    seat = Seat()
    assert not seat.try_alone(1, answered=True)
    assert seat.try_alone(2, answered=False)
    assert seat.try_alone(2, answered=False)
    assert not seat.lane.blames(1)
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
    assert not seat.lane.blames(1)
    seat.end(two, answered=False)
    assert not seat.lane.blames(2)


def test_a_lane_reads_well() -> None:
    """Its repr is for an operator."""
    assert repr(Seat().lane).startswith("Lane(a, Holdings(0 requests")
