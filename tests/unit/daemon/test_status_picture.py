"""The status in a terminal: all of it, within its width, and without what speaks to the terminal."""

import msgspec
import pytest
from rich.console import Console

from mira_stream.daemon.status import Status
from mira_stream.daemon.status_details import bars
from mira_stream.daemon.status_picture import picture
from tests.fakes.statuses import LETTER, POOL, REPLICA, pools, status


def drawn(seen: Status, width: int) -> str:
    """What a terminal of that width shows."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(picture(seen))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "seen",
    [
        status(),
        status(scores=[], letters=[], reasons=[]),
        status(pools=pools({"stopped": "http://one: " + "no such model " * 9}, {"replicas": [REPLICA] * 16})),
        status(pools=pools({"replicas": []}), reload_refused="x " * 99, read=99),
    ],
)
def test_it_fits(seen: Status, width: int) -> None:
    """No line is wider than the terminal, and each part is there."""
    text = drawn(seen, width)
    assert max(map(len, text.splitlines())) <= width
    assert seen.diagnosis.says in text
    assert all(pool.group in text for pool in seen.pools)


def test_it_says_what_limits_and_what_to_do() -> None:
    """The verdict is at the top, an arrow stands at the stage, the remedy behind what is wrong."""
    text = drawn(status(pools=pools({"stopped": "no such model"}, {})), 120)
    assert text.splitlines()[1].startswith("✕ Something is wrong.")
    assert "→ in flight" in text
    assert "agent/A is stopped: no such model" in text
    assert "mira-stream check" in text
    assert "10 read = 4 scored, 1 dead-lettered, 0 skipped, 5 under way ✓" in text
    assert "✕ does not add up" in drawn(status(read=99), 80)


def test_scores_are_small_bars() -> None:
    """One line for a slot with its median, the mix, the overall score; added up over the sources of a group."""
    text = drawn(status(), 120)
    assert "A1 ▕       █▂  ▏  7 Goal Achievement" in text
    assert "5 replies  overall ▕       █   ▏ median 70" in text
    assert "60% keep" in text
    twice = status()
    twice = msgspec.structs.replace(twice, scores=[*twice.scores, *twice.scores])
    assert "10 replies" in drawn(twice, 120)


def test_bars_show_every_count_that_is_not_zero() -> None:
    """However small it is beside the highest."""
    assert bars([0, 1, 500, 1000]) == " ▁▄█"
    assert bars([0, 0]) == "  "
    assert bars([]) == ""


def test_dead_letters_come_with_the_command_that_explains_them() -> None:
    """Reason, place and id of the latest ones, and what each reason means."""
    text = drawn(status(), 120)
    assert "the last reply lacked a required field → look at the reply" in text
    assert f"malformed_reply {LETTER.record_id} a.jsonl, line 7" in text
    assert f"mira-stream dead-letters explain {LETTER.record_id} --config" in text


def test_what_others_wrote_does_not_speak_to_the_terminal() -> None:
    """Control characters and direction marks of names, models and messages are replaced."""
    evil = "\x1b]0;owned\x07\x1b[31m\u202eevil"
    letter = msgspec.structs.replace(LETTER, object=f"s3://lake/{evil}")
    pool = msgspec.structs.replace(POOL, model=evil, slots={"A1": evil, "A2": evil}, stopped=evil)
    text = drawn(status(letters=[letter], pools=[pool], reload_refused=evil), 120)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
