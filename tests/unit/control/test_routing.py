"""Routing, by hand."""

import pytest

from mira_stream.control.routing import drain_seconds


def seconds(unprefilled: int, prompt: int, share: float) -> float:
    return drain_seconds(
        unprefilled_tokens=unprefilled,
        prompt_tokens=prompt,
        prefill_tokens_per_second=1000.0,
        filled_share=share,
    )


def test_an_empty_replica_takes_the_time_of_the_prompt() -> None:
    """3,000 tokens at 1,000 a second."""
    assert seconds(0, 3000, 0.0) == 3.0


def test_what_waits_comes_first_and_a_full_cache_costs() -> None:
    """(2,000 + 1,000) / 1,000 + 0.5 / 0.5."""
    assert seconds(2000, 1000, 0.5) == 4.0


def test_an_overfull_cache_is_bounded() -> None:
    """0.98 / 0.02 is the most, so that replicas over their limit still differ by what waits."""
    assert seconds(0, 0, 0.98) == pytest.approx(49.0)
    assert seconds(0, 0, 7.0) == pytest.approx(49.0)
    assert seconds(10, 0, 7.0) > seconds(0, 0, 7.0)
