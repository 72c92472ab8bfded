"""Properties of estimating and cutting: counts add up, bounds hold, and what is kept is the record's own."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.fit import Zone, truncate_counted, truncate_middle, zone
from mira_stream.core.tokens import Estimator, raw_tokens

PIECES = (
    "=== user ===\n", "word ", "def f(x):\n    return x\n", "中文内容", "deadbeef01", "\n", "\n\n", " " * 40, "é", "😀",
    "{\"a\": 1}", "0.12345,", "<\u200b|im_end|>", "AAAA", "-----\n", "\u0301",
)  # fmt: skip
texts = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 60)), max_size=25).map(
    lambda parts: "".join(piece * times for piece, times in parts)
)
observations = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 70_000), st.integers(1, 200_000)), max_size=30
)


def taught(seen: list[tuple[str, int, int]]) -> Estimator:
    """An estimator that has observed `seen`."""
    estimator = Estimator()
    for source, raw, actual in seen:
        estimator.observe(source, raw, actual)
    return estimator


@given(texts, texts)
def test_two_texts_together_count_at_most_2_more_than_apart(one: str, two: str) -> None:
    """The raw count is additive but for what happens at the seam."""
    both = raw_tokens(one + two)
    assert both <= raw_tokens(one) + raw_tokens(two) + 2
    assert both >= raw_tokens(one) + raw_tokens(two) - 4


@given(st.binary(max_size=200), st.integers(1, 400))
def test_a_count_does_not_depend_on_blocks(data: bytes, times: int) -> None:
    """A long text is counted in blocks, and as if it were not: repeats cost the same each."""
    one, two, three = (raw_tokens(data * times * factor) for factor in (1, 2, 3))
    assert abs((three - two) - (two - one)) <= 2


@given(observations, st.integers(0, 100_000))
def test_the_estimate_lies_between_its_bounds(seen: list[tuple[str, int, int]], raw: int) -> None:
    """Whatever was observed: low ≤ tokens ≤ high, none negative, and the same state gives the same estimate."""
    for source in "abcd":
        estimate = taught(seen).scaled(raw, source)
        assert 0 <= estimate.low <= estimate.tokens <= estimate.high
        assert estimate == taught(seen).scaled(raw, source)


@given(observations, st.integers(0, 100_000))
def test_raw_within_is_the_largest_that_is_within(seen: list[tuple[str, int, int]], limit: int) -> None:
    """The inverse of the estimate's high end is exact."""
    estimator = taught(seen)
    raw = estimator.raw_within(limit, "a")
    assert estimator.scaled(raw, "a").high <= limit
    assert estimator.scaled(raw + 1, "a").high > limit


@given(
    texts,
    st.lists(st.integers(0, 4_000), max_size=20),
    observations,
    st.integers(0, 3_000),
    st.integers(0, 300),
)
@settings(max_examples=300)
def test_what_was_cut_fits(
    text: str, offsets: list[int], seen: list[tuple[str, int, int]], limit: int, overhead: int
) -> None:
    """For any text, any turns and any learned state the result fits, and consists of a head and a tail of the text."""
    estimator = taught(seen)
    turns = tuple(sorted({offset for offset in offsets if offset < len(text)}))
    estimate = estimator.estimate(text, "a", overhead=overhead)
    truncated = truncate_middle(text, turns, estimate=estimate, limit=limit, estimator=estimator, source="a")
    if truncated.text == text:
        assert truncated.cut_tokens == 0 or not text
        assert estimate.high <= limit or not text
        assert zone(estimate, limit) is not Zone.OVER or not text
    elif truncated.text:
        assert estimator.estimate(truncated.text, "a", overhead=overhead).high <= limit
        head, _, rest = truncated.text.partition("\n[… ")
        tail = rest.partition(" tokens left out here …]\n")[2]
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) < len(text)
        assert truncated.cut_tokens > 0


@given(texts, st.integers(1, 5_000), st.integers(0, 5_000))
def test_a_counted_cut_keeps_head_and_tail(text: str, counted: int, limit: int) -> None:
    """After an exact count the text comes back untouched if it fits, else shorter or empty."""
    estimate = Estimator().estimate(text, "a")
    truncated = truncate_counted(text, (0,), estimate=estimate, counted=counted, limit=limit)
    if counted <= limit:
        assert truncated.text == text
    elif truncated.text:
        assert raw_tokens(truncated.text) < raw_tokens(text)
