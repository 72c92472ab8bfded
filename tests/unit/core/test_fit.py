"""Zones, and cutting the middle: what is kept, where it is cut, and that the result fits."""

import time

import pytest

from mira_stream.core.fit import Zone, excess, truncate_counted, truncate_middle, zone
from mira_stream.core.tokens import Estimate, Estimator, raw_tokens

TURN = "=== assistant ===\n" + "I look at the next file and change what is wrong there.\n" * 20


def trace(turns: int) -> tuple[str, tuple[int, ...]]:
    """A rendered trace of that many turns, numbered."""
    texts = [f"=== turn {number} ===\n{TURN}" for number in range(turns)]
    offsets = [sum(len(text) + 2 for text in texts[:number]) for number in range(turns)]
    return "\n\n".join(texts), tuple(offsets)


def cut(text: str, turns: tuple[int, ...], limit: int, *, overhead: int = 500) -> tuple[str, int]:
    """`truncate_middle` with a fresh estimator."""
    estimator = Estimator()
    estimate = estimator.estimate(text, "s", overhead=overhead)
    truncated = truncate_middle(text, turns, estimate=estimate, limit=limit, estimator=estimator, source="s")
    after = estimator.estimate(truncated.text, "s", overhead=overhead)
    assert after.high <= limit
    return truncated.text, truncated.cut_tokens


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(80, 100, Zone.UNDER), (80, 101, Zone.NEAR), (100, 120, Zone.NEAR), (101, 120, Zone.OVER)],
)
def test_the_zone_follows_the_bounds_of_the_estimate(low: int, high: int, expected: Zone) -> None:
    """Under: even the high end fits. Over: not even the low end does. A prompt of exactly the limit fits."""
    assert zone(Estimate((low + high) // 2, low, high, 100), 100) is expected


def test_rare_scripts_are_never_surely_under() -> None:
    """What could take a token a byte is near the limit as long as its bytes would not fit; plain text is not."""
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 2_000)))
    estimate = Estimator().estimate(rare, "s")
    assert estimate.most >= len(rare.encode()) > 2 * estimate.high
    assert zone(estimate, len(rare.encode()) - 1) is Zone.NEAR
    assert zone(estimate, estimate.most) is Zone.UNDER
    plain = Estimator().estimate("plain words " * 500, "s")
    assert plain.most == plain.high


def test_a_counted_cut_of_a_dense_record_leaves_something() -> None:
    """The tokens too many are those of the record, not of what all prompts share: beside a large shared part a record
    three times as dense as expected is still cut, not given up."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 16_000)))
    estimate = Estimator().estimate(text, "s", overhead=4_000)
    counted = 4_000 + 3 * (estimate.raw - 4_000)
    cut = truncate_counted(text, (0,), estimate=estimate, counted=counted, limit=14_000)
    assert 0 < len(cut.text) < len(text)


def test_an_exact_count_decides() -> None:
    """A count up to the limit has no excess."""
    assert [excess(counted, 100) for counted in (99, 100, 101, 250)] == [0, 0, 1, 150]


def test_head_and_tail_turns_are_kept_whole() -> None:
    """The middle goes at turn boundaries, and a line in the text says how much."""
    text, turns = trace(100)
    kept, gone = cut(text, turns, 8_000)
    head, tail = kept.split(f"\n[… {gone:,} tokens left out here …]\n")
    assert text.startswith(head)
    assert head.endswith("\n\n")
    assert text.endswith(tail)
    assert tail.startswith("=== turn ")
    assert "turn 0 " in head
    assert "turn 99 " in tail


def test_most_of_what_fits_is_used() -> None:
    """Cutting leaves at least three quarters of the room filled, half of it each from head and tail."""
    text, turns = trace(100)
    kept, gone = cut(text, turns, 8_000)
    head, tail = kept.split("\n[… ")
    assert raw_tokens(kept) + 500 > 0.75 * 8_000 / 1.125
    assert 0.5 < len(head) / len(tail) < 2
    assert abs(gone + raw_tokens(kept) - raw_tokens(text)) < 50


def test_a_giant_turn_is_cut_at_a_line() -> None:
    """Without a turn boundary near, the cut is at the start of a line."""
    text = "".join(f"line {number} of a very long log file\n" for number in range(20_000))
    kept, _ = cut(text, (0,), 6_000)
    head, tail = kept.split("\n[… ")
    assert head.endswith("log file\n")
    assert tail.partition("\n")[2].startswith("line ")


@pytest.mark.parametrize("unit", ["x", "ab ", "中", "😀", "e\u0301", "0123456789abcdef"])
def test_a_giant_line_is_cut_somewhere(unit: str) -> None:
    """A text without any line break is cut between characters, and still starts and ends as it did."""
    text = unit * (400_000 // len(unit))
    kept, gone = cut(text, (0,), 3_000)
    assert gone > 0
    assert kept.startswith(unit)
    assert kept.endswith(unit)


def test_what_fits_is_left_alone() -> None:
    """A text within the limit comes back as it is."""
    text, turns = trace(3)
    assert cut(text, turns, 8_000) == (text, 0)


@pytest.mark.parametrize("limit", [0, 100, 500, 570])
def test_no_room_leaves_no_text(limit: int) -> None:
    """Where the shared part alone fills the limit the text is empty, and that is for the caller to refuse."""
    text, turns = trace(50)
    estimator = Estimator()
    estimate = estimator.estimate(text, "s", overhead=600)
    truncated = truncate_middle(text, turns, estimate=estimate, limit=limit, estimator=estimator, source="s")
    assert truncated.text == ""
    assert truncated.cut_tokens > 5_000


def test_a_counted_prompt_loses_what_it_has_too_many() -> None:
    """After an exact count a little more than the excess is cut, not the whole margin of an estimate."""
    text, turns = trace(100)
    estimate = Estimator().estimate(text, "s", overhead=500)
    counted = round(estimate.raw * 1.1)
    truncated = truncate_counted(text, turns, estimate=estimate, counted=counted, limit=counted - 1_000)
    left = round((raw_tokens(truncated.text) + 500) * 1.1)
    assert left <= counted - 1_000
    assert truncated.cut_tokens > 1_000
    assert left > 0.6 * counted


def test_a_counted_prompt_that_fits_is_left_alone() -> None:
    """No excess, no cut."""
    text, turns = trace(5)
    estimate = Estimator().estimate(text, "s")
    assert truncate_counted(text, turns, estimate=estimate, counted=100, limit=100).text == text


@pytest.mark.parametrize("unit", ["a", " ", "one line of text\n", "中文"])
def test_cutting_takes_linear_time(unit: str) -> None:
    """Sixteen megabytes are cut in less than two seconds of CPU, whatever they are made of."""
    text = unit * ((16 << 20) // len(unit.encode()))
    estimator = Estimator()
    estimate = estimator.estimate(text, "s")
    began = time.thread_time()
    truncate_middle(text, (0,), estimate=estimate, limit=60_000, estimator=estimator, source="s")
    assert time.thread_time() - began < 2
