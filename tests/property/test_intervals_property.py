"""Interval sets behave like sets of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.control.intervals import IntervalSet

ORDINALS = st.integers(0, 30)
SETS = st.frozensets(ORDINALS)
SPANS = st.lists(st.tuples(ORDINALS, ORDINALS).map(lambda pair: (min(pair), max(pair))))


def _is_canonical(found: IntervalSet) -> bool:
    ends = [n for span in found.spans for n in span]
    return all(low < high for low, high in itertools.pairwise(ends))


@given(SPANS)
def test_spans_in_any_order_give_their_union(spans: list[tuple[int, int]]) -> None:
    """`from_spans` holds what any of the spans holds, and adding one by one gives the same."""
    model = {n for start, stop in spans for n in range(start, stop)}
    found = IntervalSet.from_spans(spans)
    one_by_one = IntervalSet()
    for start, stop in spans:
        one_by_one = one_by_one.add(start, stop)
    assert set(found.ordinals()) == model
    assert one_by_one == found
    assert _is_canonical(found)


@given(SETS, SETS)
def test_operations_are_those_of_sets(left: frozenset[int], right: frozenset[int]) -> None:
    """Union, difference and intersection of ordinals; results are canonical."""
    a, b = IntervalSet.from_ordinals(left), IntervalSet.from_ordinals(right)
    for found, model in (
        (a.union(b), left | right),
        (a.minus(b), left - right),
        (a.intersection(b), left & right),
        (a, left),
    ):
        assert set(found.ordinals()) == model
        assert _is_canonical(found)
        assert found == IntervalSet.from_ordinals(model)


@given(SETS, ORDINALS)
def test_questions_are_those_of_sets(model: frozenset[int], n: int) -> None:
    """Membership, count, end, cover and watermark."""
    found = IntervalSet.from_ordinals(model)
    assert (n in found) == (n in model)
    assert found.count == len(model)
    assert found.end == max(model, default=-1) + 1
    assert found.covers(n) == (set(range(n)) <= model)
    assert found.watermark == next(m for m in range(32) if m not in model)
    assert set(found.below(n).ordinals()) == {m for m in model if m < n}
    assert bool(found) == bool(model)
