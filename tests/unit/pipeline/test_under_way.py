"""What is between reading and receiving, and what rivals published of it."""

import pytest

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import RecordKey
from mira_stream.core.segment import PublishedKey
from mira_stream.pipeline.under_way import UnderWay
from tests.fakes.ledgers import version

A, B = version("a"), version("b")


def _row(ordinal: int, reason: Reason | None = None) -> PublishedKey:
    outcome = Outcome.SKIPPED if reason else Outcome.SCORED
    return PublishedKey(A, ordinal, 0, "id", outcome, reason)


def test_a_rivals_rows_are_remembered_while_their_object_is_in_use() -> None:
    """Used by a reading or by a record that is under way; forgotten afterwards, so that memory is bounded."""
    under_way = UnderWay()
    under_way.adopt([_row(0)])
    assert under_way.adopted(RecordKey(A, 0)) is None
    under_way.use(A)
    under_way.enter(RecordKey(A, 1))
    under_way.adopt([_row(0), _row(1, Reason.BLANK)])
    under_way.release(A)
    assert under_way.adopted(RecordKey(A, 0)) == (Outcome.SCORED, None)
    assert under_way.adopted(RecordKey(A, 1)) == (Outcome.SKIPPED, Reason.BLANK)
    assert under_way.adopted(RecordKey(A, 1, generation=1)) is None
    assert under_way.adopted(RecordKey(B, 0)) is None
    under_way.leave(RecordKey(A, 1))
    assert not under_way
    under_way.use(A)
    assert under_way.adopted(RecordKey(A, 1)) is None


def test_it_knows_which_records_of_an_object_are_under_way() -> None:
    """So that a second reading of a growing object does not hand them on again."""
    under_way = UnderWay()
    for ordinal in (0, 1, 2, 5):
        under_way.enter(RecordKey(A, ordinal))
    under_way.enter(RecordKey(A, 9, generation=1))
    under_way.leave(RecordKey(A, 1))
    assert under_way.ordinals(A) == IntervalSet.from_ordinals([0, 2, 5])
    assert under_way.ordinals(B) == IntervalSet()
    assert repr(under_way) == "UnderWay(4 records of 1 object versions)"


def test_a_record_cannot_be_under_way_twice() -> None:
    """A record read twice in one process is a bug that stops at once."""
    under_way = UnderWay()
    under_way.enter(RecordKey(A, 0))
    with pytest.raises(AssertionError, match="read twice"):
        under_way.enter(RecordKey(A, 0))
