"""Early stop: loops are noticed soon, healthy replies never are, and nothing asked for is cut off."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.early_stop import COMPLETE, LOOP, EarlyStop, loops
from mira_stream.core.reply import parse
from mira_stream.core.row import SLOTS

FOLDER = Path(__file__).parents[2] / "data" / "replies"
CASES = [
    case for file in sorted(FOLDER.glob("*.toml")) for case in tomllib.loads(file.read_text("utf-8"))["case"]
]
GOOD = "\n".join(
    [f"[{slot}] criterion {slot}: {number % 11}/10 — as it should be" for number, slot in enumerate(SLOTS)]
    + ["overall: 70", "training_recommendation: keep", "domain_tag: coding", "brief: A fine trace."]
)


def fed(text: str, size: int = 4) -> tuple[str | None, int]:
    """The reason and the characters after which it stopped, the text coming in pieces of that size."""
    watch = EarlyStop(SLOTS)
    for at in range(0, len(text), size):
        if (reason := watch.feed(text[at : at + size])) is not None:
            return reason, at + size
    return None, len(text)


@pytest.mark.parametrize("size", [1, 3, 64, 10_000])
def test_a_healthy_reply_is_read_to_its_end(size: int) -> None:
    """Whatever the pieces; the end comes from the server."""
    assert fed(GOOD, size) == (None, len(GOOD))


def test_what_follows_the_last_line_is_not_waited_for() -> None:
    """Everything asked for is there, and the last line is whole."""
    reason, at = fed(f"{GOOD}\n\nLet me also add that this trace" + " and more" * 500)
    assert reason == COMPLETE
    assert at < len(GOOD) + 10


def test_a_last_line_that_goes_on_is_waited_for() -> None:
    """A brief without its line end may not be whole."""
    assert fed(GOOD + " and it goes on" * 10)[0] is None


def test_an_incomplete_reply_is_waited_for() -> None:
    """A score is missing: it may come after the last line."""
    without = GOOD.replace("[A7]", "[A77]") + "\n\n"
    assert fed(without + "one more line\n" * 3)[0] is None


def test_the_corpus_is_there() -> None:
    """Hundreds of damaged replies."""
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_no_reply_of_the_corpus_is_taken_for_a_loop(case: dict[str, Any]) -> None:
    """Stopping early changes no outcome of damaged replies."""
    text, slots = case["text"], tuple(case.get("slots", SLOTS))
    watch = EarlyStop(slots)
    reasons = [watch.feed(text[at : at + 5]) for at in range(0, len(text), 5)]
    stopped = next((number for number, reason in enumerate(reasons) if reason is not None), None)
    if stopped is None:
        return
    assert reasons[stopped] == COMPLETE
    before, whole = parse(text[: 5 * stopped + 5], "stop", slots), parse(text, "stop", slots)
    assert before.complete
    assert before.scores == whole.scores or not whole.complete


@settings(deadline=None)
@given(
    head=st.text(max_size=400),
    piece=st.text(alphabet="ab cdefgh.[]0123/—\n", min_size=1, max_size=400),
    size=st.integers(1, 200),
)
def test_every_loop_is_noticed(head: str, piece: str, size: int) -> None:
    """Whatever is repeated, within ten times or 600 characters and the two looks after that."""
    text = head + piece * (10_000 // len(piece) + 12)
    reason, at = fed(text, size)
    assert reason in (LOOP, COMPLETE)
    assert at <= len(head) + max(600, 10 * len(piece)) + 2 * max(64, size) + 64


@given(st.text(max_size=3000))
def test_text_without_repetition_is_no_loop(text: str) -> None:
    """A loop needs 600 characters of one piece; this text has its position in every line."""
    numbered = "".join(f"{at:05d}{text[at : at + 20]}" for at in range(0, len(text), 20))
    assert not loops(numbered)
