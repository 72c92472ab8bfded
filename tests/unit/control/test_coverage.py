"""When checkpoints are due: by segments, by age, never twice, and never of a broken chain."""

from math import inf

from mira_stream.control.coverage import Coverage
from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Chain

A, B = "source=a/shard=00", "source=b/shard=00"


def coverage() -> Coverage:
    return Coverage(segments_max=3, seconds_max=60.0)


def test_nothing_is_due_where_nothing_is() -> None:
    """And no clock is waited for."""
    assert coverage().due(0.0) is None
    assert coverage().seconds_to_next(0.0) == inf


def test_so_many_segments_make_one_due() -> None:
    """It covers all that is published by then."""
    one = coverage()
    for seq in range(2):
        one.published(A, seq, 10.0)
    assert one.due(10.0) is None
    one.published(A, 2, 10.0)
    assert one.due(10.0) == (A, 2)
    one.covered(A, 2, 11.0)
    assert one.due(1e9) is None


def test_age_makes_one_due() -> None:
    """That of the oldest segment that is not covered."""
    one = coverage()
    one.published(A, 0, 10.0)
    one.published(A, 1, 60.0)
    assert one.seconds_to_next(20.0) == 50.0
    assert one.due(69.0) is None
    assert one.due(70.0) == (A, 1)
    assert one.seconds_to_next(100.0) == 0.0
    one.covered(A, 0, 71.0)
    assert one.seconds_to_next(71.0) == 60.0


def test_what_the_sink_has_at_the_start_counts_by_its_age() -> None:
    """Also across restarts, however short each life is."""
    one = coverage()
    held = IntervalSet.from_spans([(0, 3)])
    one.begin({A: Chain(held, checkpoint=1, since=5.0), B: Chain(held, checkpoint=2, since=5.0)})
    assert one.due(64.0) is None
    assert one.due(65.0) == (A, 2)


def test_a_broken_chain_is_left_alone() -> None:
    """Others are not."""
    one = coverage()
    for partition in (A, B):
        one.published(partition, 2, 0.0)
    assert one.due(0.0) == (A, 2)
    one.forget(A)
    assert one.due(0.0) == (B, 2)
