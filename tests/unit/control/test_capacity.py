"""Capacity, by example: where it comes from, what a sample teaches, and when a tenth is given back."""

from mira_stream.control.capacity import Capacity
from mira_stream.control.settings import AdmissionSettings


def full(capacity: Capacity) -> Capacity:
    """Half of the cache has been seen in use: the ramp is over."""
    capacity.saw(resident_tokens=1, usage=0.6)
    return capacity


def test_nothing_known_means_one_request() -> None:
    """65,536 tokens, and it says so."""
    capacity = Capacity(AdmissionSettings())
    assert (capacity.limit_tokens, capacity.origin, capacity.learned_tokens) == (65_536, "prior", None)


def test_the_configuration_wins() -> None:
    """Over what the engine says and what is learned; what is learned is still shown."""
    capacity = Capacity(AdmissionSettings(kv_tokens=5000))
    capacity.says(9000)
    capacity.sample(held_tokens=800.0, usage=0.1)
    assert (capacity.limit_tokens, capacity.origin, capacity.learned_tokens) == (5000, "config", 8000)


def test_the_engine_is_believed_until_something_is_learned() -> None:
    """And then no longer: shared prefixes and fixed state are not in its figure."""
    capacity = full(Capacity(AdmissionSettings()))
    capacity.says(1_000_000)
    assert (capacity.limit_tokens, capacity.origin) == (1_000_000, "engine")
    capacity.sample(held_tokens=90_000.0, usage=0.1)
    assert (capacity.limit_tokens, capacity.origin) == (900_000, "learned")


def test_fuller_looks_outweigh_emptier_ones() -> None:
    """The median of those with at least half the usage of the fullest."""
    capacity = full(Capacity(AdmissionSettings()))
    for ratio, usage in ((500_000, 0.05), (600_000, 0.3), (1_000_000, 0.8), (1_002_000, 0.7), (998_000, 0.9)):
        capacity.sample(held_tokens=ratio * usage, usage=usage)
    assert capacity.tokens == 1_000_000


def test_a_nearly_empty_cache_teaches_nothing() -> None:
    """Half a percent is blocks and rounding."""
    capacity = Capacity(AdmissionSettings())
    capacity.sample(held_tokens=100.0, usage=0.005)
    assert capacity.learned_tokens is None


def test_the_ramp_follows_what_was_seen() -> None:
    """Below half usage: 131,072 at first, then four times the tokens seen resident."""
    capacity = Capacity(AdmissionSettings())
    capacity.sample(held_tokens=30_000.0, usage=0.01)
    assert capacity.limit_tokens == 131_072
    capacity.saw(resident_tokens=100_000, usage=0.04)
    assert capacity.limit_tokens == 400_000
    assert full(capacity).limit_tokens == 3_000_000


def test_a_queue_before_a_full_cache_takes_a_tenth() -> None:
    """After three such looks running, once in 15 seconds, never below half; it comes back while nothing waits."""
    capacity = full(Capacity(AdmissionSettings(kv_tokens=1_000_000)))

    def judge(now: float, *, waiting: int, usage: float = 0.9, limiting: bool = True) -> int:
        capacity.judge(now, waiting=waiting, usage=usage, limiting=limiting)
        return capacity.limit_tokens

    assert [judge(now, waiting=4) for now in (0.0, 1.0)] == [1_000_000] * 2
    assert judge(2.0, waiting=4) == 900_000
    assert {judge(2.0 + second, waiting=9) for second in range(1, 15)} == {900_000}
    assert judge(17.0, waiting=9) == 810_000
    for second in range(18, 500):
        judge(float(second), waiting=9)
    assert capacity.limit_tokens == 500_000
    assert judge(600.0, waiting=0, limiting=False) == 500_000
    assert judge(601.0, waiting=0) == 501_000


def test_a_queue_before_an_empty_cache_is_no_capacity() -> None:
    """A prompt that arrives during a prefill step waits for its end; and a single crowded look is chance."""
    capacity = full(Capacity(AdmissionSettings(kv_tokens=1_000_000)))
    for second in range(30):
        capacity.judge(float(second), waiting=9, usage=0.5, limiting=True)
        capacity.judge(float(second), waiting=4 if second % 3 else 0, usage=0.9, limiting=True)
    assert capacity.limit_tokens == 1_000_000


def test_a_reset_forgets_all_but_the_configuration() -> None:
    """Another engine stands there."""
    capacity = full(Capacity(AdmissionSettings()))
    capacity.says(1_000_000)
    capacity.sample(held_tokens=90_000.0, usage=0.1)
    capacity.reset()
    assert (capacity.limit_tokens, capacity.origin) == (65_536, "prior")
