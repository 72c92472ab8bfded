"""Interval sets, by example."""

import msgspec
import pytest

from mira_stream.control.intervals import IntervalSet


def test_spans_are_merged_and_ordered() -> None:
    """Overlapping and touching spans become one, empty ones vanish."""
    assert IntervalSet.from_spans([(7, 9), (0, 2), (2, 4), (3, 5), (6, 6)]).spans == ((0, 5), (7, 9))


def test_equal_sets_are_equal_values() -> None:
    """However a set was made, it compares, hashes and encodes the same."""
    one, other = IntervalSet.from_ordinals([3, 1, 2, 2]), IntervalSet().add(1, 3).add(3, 4)
    assert one == other
    assert hash(one) == hash(other)
    assert msgspec.json.decode(msgspec.json.encode(one), type=IntervalSet) == other


def test_an_ordinal_is_found_at_the_borders() -> None:
    """`from` is inside, `to` is outside."""
    spans = IntervalSet.from_spans([(2, 4), (6, 7)])
    assert [n for n in range(9) if n in spans] == [2, 3, 6]


def test_the_watermark_counts_from_zero() -> None:
    """A gap at the start leaves it at 0, whatever comes after."""
    assert IntervalSet().watermark == 0
    assert IntervalSet.from_spans([(1, 9)]).watermark == 0
    assert IntervalSet.from_spans([(0, 3), (4, 9)]).watermark == 3


def test_nothing_covers_nothing() -> None:
    """An object without lines is covered by the empty set."""
    assert IntervalSet().covers(0)
    assert not IntervalSet().covers(1)
    assert IntervalSet.from_spans([(0, 3)]).covers(3)
    assert not IntervalSet.from_spans([(0, 3)]).covers(4)


def test_minus_cuts_several_holes_in_several_spans() -> None:
    """One hole may reach over many spans, one span may have many holes."""
    spans = IntervalSet.from_spans([(0, 10), (12, 14), (20, 30)])
    holes = IntervalSet.from_spans([(2, 3), (5, 6), (9, 21), (29, 40)])
    assert spans.minus(holes).spans == ((0, 2), (3, 5), (6, 9), (21, 29))


def test_ten_million_ordinals_are_one_span() -> None:
    """Size depends on gaps, not on ordinals."""
    spans = IntervalSet()
    for start in range(0, 10_000_000, 10_000):
        spans = spans.add(start, start + 10_000)
    assert spans.spans == ((0, 10_000_000),)
    assert spans.count == 10_000_000


def test_it_reads_well() -> None:
    """Its repr is for an operator."""
    assert repr(IntervalSet.from_spans([(0, 2), (4, 5)])) == "IntervalSet([0, 2) [4, 5))"


@pytest.mark.parametrize("span", [(-1, 2), (3, 2)])
def test_a_span_that_is_none_is_a_bug(span: tuple[int, int]) -> None:
    """Negative and backward spans are refused."""
    with pytest.raises(AssertionError):
        IntervalSet.from_spans([span])
