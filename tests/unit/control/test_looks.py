"""Looks at an engine, by example: what moved, who else is there, what its prefix cache found."""

import pytest

from mira_stream.control.looks import Look, Looks
from mira_stream.core.usage import Load


def load(generated: float = 0.0, *, running: int = 1, waiting: int = 0, **changes: object) -> Load:
    return Load(running, waiting, 0.1, generation_tokens=generated, **changes)  # type: ignore[arg-type]


def take(looks: Looks, load: Load, now: float, *, ours: int = 1) -> Look:
    return looks.take(load, now - 0.1, now, ours=ours)


def test_a_look_shows_what_was_generated_since_the_last_one() -> None:
    """The first has nothing to compare with, a restarted engine neither."""
    looks = Looks()
    assert take(looks, load(5.0), 1.0).generated_tokens is None
    assert take(looks, load(9.0), 2.0).generated_tokens == 4.0
    after = take(looks, load(50.0, process_start_seconds=2.0), 3.0)
    assert (after.restarted, after.generated_tokens) == (True, None)
    assert take(looks, load(51.0, process_start_seconds=2.0), 4.0).generated_tokens == 1.0


@pytest.mark.parametrize("changes", [{"process_start_seconds": 2.0}, {"blocks": 7}, {"engines": 2}])
def test_another_engine_is_recognised(changes: dict[str, object]) -> None:
    """Another process, another cache, another number of engines."""
    looks = Looks()
    take(looks, load(process_start_seconds=1.0, blocks=8), 1.0)
    after = take(looks, load(**{"process_start_seconds": 1.0, "blocks": 8, **changes}), 2.0)
    assert after.restarted


def test_age_counts_from_when_a_changed_look_was_asked_for() -> None:
    """An unchanged look does not make the telemetry younger."""
    looks = Looks()
    assert looks.age_seconds(0.0) is None
    take(looks, load(1.0), 1.0)
    assert not take(looks, load(1.0), 5.0).moved
    assert looks.age_seconds(6.0) == pytest.approx(5.1)


def test_foreign_requests_need_three_looks_that_agree() -> None:
    """The least of them counts: ours cross each other with looks."""
    looks = Looks()
    for number, running in enumerate((9, 5, 7, 1)):
        take(looks, load(float(number), running=running, waiting=1), float(number + 1), ours=2)
        assert looks.foreign_requests == (0, 0, 4, 0)[number]


def test_the_way_there_is_half_of_the_quickest_look() -> None:
    """25 ms before anything was measured."""
    looks = Looks()
    assert looks.network_seconds == 0.025
    looks.take(load(1.0), 1.0, 1.5, ours=0)
    looks.take(load(2.0), 2.0, 2.2, ours=0)
    assert looks.network_seconds == pytest.approx(0.1)


def test_prefix_hits_are_those_of_late() -> None:
    """From the rise of the counters; nothing where the server does not say, or counts anew."""
    looks = Looks()
    take(looks, load(1.0), 1.0)
    assert looks.prefix_hit_ratio is None
    for number in range(1, 4):
        counters = {"prefix_cache_queries": 1000.0 * number, "prefix_cache_hits": 100.0 * number}
        take(looks, load(1.0 + number, **counters), 1.0 + number)
    assert looks.prefix_hit_ratio == pytest.approx(0.1)
    looks.forget_prefix()
    assert looks.prefix_hit_ratio is None


def test_hits_that_fall_are_no_negative_share() -> None:
    """Counters of another process behind the same address: nothing is taken to be larger than it is."""
    looks = Looks()
    take(looks, load(1.0, prefix_cache_queries=100.0, prefix_cache_hits=90.0), 1.0)
    take(looks, load(2.0, prefix_cache_queries=101.0, prefix_cache_hits=0.0), 2.0)
    assert looks.prefix_hit_ratio == 0.0
