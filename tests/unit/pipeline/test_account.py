"""The identity: read = ended + in the pipeline, and every record where it was last seen."""

import pytest

from mira_stream.core.outcome import Outcome, Reason
from mira_stream.pipeline.account import Account, Stage
from mira_stream.telemetry.meters import Meters


def _balanced(account: Account) -> bool:
    return account.read == account.ended + account.in_pipeline


def test_the_identity_holds_after_every_move() -> None:
    """No order of events makes a record appear or vanish."""
    account = Account(Meters())
    account.enter(Stage.PREPARING, 3)
    assert _balanced(account)
    account.move(Stage.PREPARING, Stage.WINDOW)
    account.move(Stage.WINDOW, Stage.IN_FLIGHT)
    account.move(Stage.IN_FLIGHT, Stage.RECEIVING)
    account.move(Stage.RECEIVING, Stage.RECEIVED)
    assert _balanced(account)
    account.end(Stage.RECEIVED, Outcome.SCORED, None)
    account.end(Stage.PREPARING, Outcome.SKIPPED, Reason.BLANK)
    assert _balanced(account)
    assert account.outcomes() == {Outcome.SCORED: 1, Outcome.DEAD_LETTERED: 0, Outcome.SKIPPED: 1}
    assert account.before_received == 1


def test_recovered_outcomes_count_as_read() -> None:
    """What the ledger kept was read by an earlier process; the identity is per process."""
    account = Account(Meters())
    account.enter(Stage.RECEIVED, 5)
    assert account.read == 5
    assert account.before_received == 0
    assert _balanced(account)


def test_a_record_cannot_leave_a_stage_it_is_not_in() -> None:
    """A double end is a bug that stops at once, not a number that drifts."""
    account = Account(Meters())
    account.enter(Stage.PREPARING)
    with pytest.raises(AssertionError, match="in_flight"):
        account.end(Stage.IN_FLIGHT, Outcome.SCORED, None)
