"""Objects that cannot be read rest, longer each time, and are not remembered without bound."""

from itertools import pairwise

from mira_stream.control import setbacks
from mira_stream.control.setbacks import Setbacks


def test_waits_double_up_to_an_hour() -> None:
    """And begin anew once a reading went well."""
    found = Setbacks()
    waits = [found.put_off("a", 0.0) for _ in range(10)]
    assert waits[:3] == [30.0, 60.0, 120.0]
    assert all(before <= after for before, after in pairwise(waits))
    assert waits[-1] == 3600.0
    assert found.forget("a")
    assert not found.forget("a")
    assert found.put_off("a", 0.0) == 30.0


def test_it_rests_until_its_wait_is_over() -> None:
    """Each by its own."""
    found = Setbacks()
    found.put_off("a", 0.0)
    found.put_off("b", 20.0)
    assert found.resting(29.0) == {"a", "b"}
    assert found.resting(30.0) == {"b"}
    assert found.resting(50.0) == frozenset()
    assert "a" in found


def test_of_too_many_the_oldest_are_forgotten() -> None:
    """They are tried sooner than they need be, and memory is bounded."""
    found = Setbacks()
    for number in range(setbacks._KEPT_MAX + 3):
        found.put_off(str(number), 0.0)
    assert len(found) == setbacks._KEPT_MAX
    assert "2" not in found
    assert "3" in found
