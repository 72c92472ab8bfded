"""The aggregate, held against scipy and numpy for any scores, and against what no order may change."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mira_stream.core.aggregate import AggregateSettings, Aggregator, trimmed_mean
from mira_stream.core.row import SLOTS

GRADES = st.integers(0, 40).map(lambda quarter: quarter / 4)
FRACTIONS = st.floats(0, 0.499)


@given(st.lists(GRADES, min_size=1, max_size=15), FRACTIONS)
def test_it_is_the_trimmed_mean_of_scipy(scores: list[float], fraction: float) -> None:
    """To the 6 decimals that are promised."""
    assert trimmed_mean(scores, fraction) == pytest.approx(stats.trim_mean(scores, fraction), abs=5.1e-7)


@given(st.lists(GRADES, min_size=1, max_size=15), FRACTIONS, st.randoms(use_true_random=False))
def test_the_order_of_slots_changes_nothing(
    scores: list[float], fraction: float, shuffler: random.Random
) -> None:
    """Not even in the last place."""
    shuffled = scores.copy()
    shuffler.shuffle(shuffled)
    assert trimmed_mean(shuffled, fraction) == trimmed_mean(scores, fraction)


@given(st.lists(st.tuples(GRADES, st.floats(0.1, 10)), min_size=1, max_size=15), FRACTIONS)
def test_weights_count_in_the_mean_of_what_is_left(pairs: list[tuple[float, float]], fraction: float) -> None:
    """A plain reference in numpy: a stable sort, cut at both ends, averaged."""
    scores, weights = np.array(pairs).T
    cut = int(fraction * len(scores))
    kept = np.argsort(scores, kind="stable")[cut : len(scores) - cut]
    expected = np.average(scores[kept], weights=weights[kept])
    assert trimmed_mean(scores, fraction, weights) == pytest.approx(expected, abs=5.1e-7)


@given(st.lists(st.none() | GRADES, min_size=15, max_size=15), FRACTIONS)
def test_a_slot_without_a_score_is_no_zero(scores: list[float | None], fraction: float) -> None:
    """What is absent is left out, and of nothing there is no number."""
    there = [score for score in scores if score is not None]
    value = Aggregator(AggregateSettings(trim_fraction=fraction)).of("any", scores).value
    assert (value is None) == (not there)
    assert len(SLOTS) == len(scores)
    if value is not None:
        assert value == pytest.approx(stats.trim_mean(there, fraction), abs=5.1e-7)
