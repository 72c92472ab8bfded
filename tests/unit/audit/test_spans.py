"""Sets of ordinals against plain sets."""

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.audit.spans import Spans, merged, named, size

_spans = st.tuples(st.integers(0, 40), st.integers(1, 8)).map(lambda it: (it[0], it[0] + it[1]))


@given(st.lists(_spans, max_size=15), _spans)
def test_spans_behave_like_a_set(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    """Every operation gives what the same operation on a set of integers gives."""
    spans, model = Spans(), set[int]()
    for start, end in added:
        new = set(range(start, end))
        assert spans.add(start, end) == len(new & model)
        model |= new
    assert list(spans) == list(merged(sorted(model)))
    assert size(spans) == len(model)
    assert spans.end == max(model, default=-1) + 1
    absent = sorted(set(range(*asked)) - model)
    assert spans.missing(*asked) == list(merged(absent))


def test_spans_are_named_for_a_person() -> None:
    """Long lists are cut."""
    assert named([(3, 4), (7, 10)]) == "3, 7–9"
    assert named([(n, n + 1) for n in range(0, 20, 2)], most=2) == "0, 2, …"
