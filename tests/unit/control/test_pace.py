"""Rates from totals: over the last minute, and as a history of ten."""

import pytest

from mira_stream.control.pace import SAMPLE_SECONDS, Pace, Totals


def totals(published: float) -> Totals:
    """So many published, nothing else."""
    return Totals(**(dict.fromkeys(Totals.__struct_fields__, 0.0) | {"published": published}))


def test_before_anything_is_known_all_rates_are_zero() -> None:
    """Not a division by nothing."""
    assert Pace().rates(5.0, totals(100)) == totals(0)
    assert Pace().history() == []


def test_the_rate_is_that_of_the_last_minute() -> None:
    """What was before does not count; a daemon younger than that counts from its first sample."""
    pace = Pace()
    for second in range(1000):
        pace.note(float(second), totals(10.0 * second if second < 500 else 5000.0 + 2 * (second - 500)))
    assert pace.rates(1000.0, totals(6000.0)).published == pytest.approx(2.0)
    young = Pace()
    young.note(1.0, totals(0))
    assert young.rates(3.0, totals(50)).published == pytest.approx(25.0)


def test_the_history_is_ten_minutes_of_samples() -> None:
    """However often it is told, and however long it lives."""
    pace = Pace()
    for tenth in range(20_000):
        pace.note(tenth / 10, totals(tenth))
    history = pace.history()
    assert len(history) * SAMPLE_SECONDS == 600
    assert {round(one.published, 6) for one in history} == {10.0}
