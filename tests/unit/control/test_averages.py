"""What answers have been like: means that follow, and when slow means stuck."""

from mira_stream.control.averages import Averages
from mira_stream.core.usage import Usage


def test_replies_pull_the_mean_slowly() -> None:
    """From the prior of 700 a fiftieth of the way for each answer."""
    averages = Averages(700)
    averages.answered(Usage(1000, 1700), 1.0)
    assert averages.output_tokens == 720
    for _ in range(500):
        averages.answered(Usage(1000, 1700), 1.0)
    assert averages.output_tokens == 1700


def test_a_share_of_the_prompts_needs_an_answer_first() -> None:
    """Nothing is known before, and no share is above one."""
    averages = Averages(700)
    assert averages.share(500) == 0.0
    averages.answered(Usage(2000, 100), 1.0)
    assert averages.share(500) == 0.25
    assert averages.share(9000) == 1.0


def test_stuck_is_well_beyond_what_is_usual() -> None:
    """Sixteen answers at least, then one and a half times the 95th of 100, never below ten seconds."""
    averages = Averages(700)
    for number in range(15):
        averages.answered(Usage(1000, 700), float(number))
    assert averages.slow_seconds is None
    averages.answered(Usage(1000, 700), 1.0)
    assert averages.slow_seconds == 21.0
    for _ in range(256):
        averages.answered(Usage(1000, 700), 0.5)
    assert averages.slow_seconds == 10.0
