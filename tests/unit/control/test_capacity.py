"""Capacity from the configuration, and what a look at the engine shows."""

from mira_stream.control.capacity import Capacity
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.usage import Load


def look(generated: float | None, started: float | None = 1.0) -> Load:
    return Load(1, 0, 0.5, generation_tokens=generated, process_start_seconds=started)


def test_the_card_gives_the_floor() -> None:
    """Nothing configured: 262,144 tokens."""
    assert Capacity(AdmissionSettings()).limit_tokens == 262_144


def test_the_configuration_gives_the_limit() -> None:
    """Whatever the engine says."""
    capacity = Capacity(AdmissionSettings(kv_tokens=5000))
    capacity.observe(look(1.0))
    assert capacity.limit_tokens == 5000


def test_a_look_shows_progress_only_beside_an_earlier_one() -> None:
    """The counter must have grown since, in the same process."""
    capacity = Capacity(AdmissionSettings())
    assert capacity.load is None
    looks = [
        (look(5.0), False),  # the first
        (look(5.0), False),  # nothing moved
        (look(6.0), True),
        (look(None), False),  # the server does not say
        (look(9.0), False),
        (look(10.0), True),
        (look(50.0, started=2.0), False),  # a restart: another counter
        (look(51.0, started=2.0), True),
    ]
    for load, moved in looks:
        assert capacity.observe(load) is moved, load
        assert capacity.load is load
