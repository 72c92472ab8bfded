"""Counts of scores: one for each reply, in the bin of its points."""

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.control.score_counts import POINTS, ScoreCounts
from mira_stream.core.reply import ParsedReply
from mira_stream.core.row import Rationales, Scores

SLOTS = ("A1", "A2")


def reply(first: float, second: float, overall: float = 70.0, recommendation: str = "keep") -> ParsedReply:
    """A complete reply."""
    return ParsedReply(
        scores=Scores(A1=first, A2=second),
        rationales=Rationales(),
        overall=overall,
        training_recommendation=recommendation,
        domain_tag=None,
        brief=None,
        missing=(),
        complete=True,
        reason=None,
    )


points = st.floats(0, 10)


@given(st.lists(st.tuples(points, points, st.floats(0, 100))))
def test_every_reply_is_counted_once_in_every_histogram(
    given_scores: list[tuple[float, float, float]],
) -> None:
    """Whatever its scores are, whole or not; the bin is the smallest number of points that is not below the score."""
    counts = ScoreCounts()
    for first, second, overall in given_scores:
        counts.of("agent/A", "x", SLOTS).add(reply(first, second, overall))
    for _, _, found in counts:
        assert found.replies == len(given_scores)
        assert all(
            sum(one) == found.replies and len(one) == POINTS for one in (*found.slots.values(), found.overall)
        )
        for points, count in enumerate(found.slots["A1"]):
            assert count == sum(points - 1 < first <= points for first, _, _ in given_scores)
        assert sum(found.recommendations.values()) == found.replies


def test_sources_and_groups_are_kept_apart() -> None:
    """And come sorted."""
    counts = ScoreCounts()
    counts.of("agent/B", "x", SLOTS).add(reply(0, 10))
    counts.of("agent/A", "y", SLOTS).add(reply(0, 10, recommendation="drop"))
    counts.of("agent/A", "x", SLOTS).add(reply(0, 10))
    counts.of("agent/A", "x", SLOTS).add(reply(0, 10))
    assert [(group, source, found.replies) for group, source, found in counts] == [
        ("agent/A", "x", 2), ("agent/A", "y", 1), ("agent/B", "x", 1),
    ]  # fmt: skip
