"""Early stop: loops are noticed soon, healthy replies never are, and nothing asked for is cut off."""

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.early_stop import COMPLETE, LOOP, EarlyStop, _Lines, loops
from mira_stream.core.reply import parse
from mira_stream.core.row import SLOTS
from mira_stream.sim.damage import Damage, damaged
from mira_stream.sim.replies import compose, judge, split_prompt, text_hash

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


def answer(text: str, cuts: list[int]) -> str | None:
    """The answer that is found in `text`, cut there into pieces, if the rest is not waited for."""
    watch = EarlyStop(SLOTS)
    for start, end in pairwise([0, *sorted(cuts), len(text)]):
        if watch.feed(text[start:end]) is not None:
            return watch.answer
    return None


@pytest.mark.parametrize("size", [1, 3, 64, 10_000])
def test_a_healthy_reply_is_read_to_its_end(size: int) -> None:
    """Whatever the pieces; the end comes from the server."""
    assert fed(GOOD, size) == (None, len(GOOD))


def test_what_follows_the_last_line_is_not_waited_for() -> None:
    """Everything asked for is there, and the last line is whole."""
    reason, at = fed(f"{GOOD}\n\nLet me also add that this trace" + " and more" * 500)
    assert reason == COMPLETE
    assert at < len(GOOD) + 10


def test_what_contradicts_the_answer_is_no_part_of_it() -> None:
    """However much of what follows came with the answer's last piece."""
    text = f"{GOOD}\n\noverall: 20\n"
    for size in (1, 7, 50, 200):
        assert answer(text, list(range(0, len(text), size))) == f"{GOOD}\n"


REORDERED = "\n".join([*GOOD.split("\n")[:-4], *reversed(GOOD.split("\n")[-4:])])
CLAIMS = (REORDERED, f"{GOOD}\nand so on", f"{REORDERED}\nand so on", f"{GOOD}\n</think>\n{GOOD}\nand so on")


@given(st.sampled_from(CLAIMS), st.lists(st.integers(0, 2 * len(GOOD)), max_size=12))
def test_the_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    """Nothing is taken for an answer that more of its line would change."""
    assert answer(text, [min(cut, len(text)) for cut in cuts]) == answer(text, list(range(len(text))))


@pytest.mark.parametrize("end", ["\n", "\n\n \n", "\n```", "\n```\n", "\n**\n---\n"])
def test_what_is_no_text_is_waited_for(end: str) -> None:
    """A healthy reply ends by itself after it, and its connection is used again."""
    assert fed(GOOD + end, 1)[0] is None


def test_thinking_without_its_opening_tag_is_no_answer() -> None:
    """The tag that ends it says that all before was none."""
    draft = GOOD.replace("overall: 70", "overall: 10")
    found = answer(f"{draft}\n\n</think>\n{GOOD}\nand so on", list(range(0, 4000, 3)))
    assert found is not None
    assert parse(found, COMPLETE).overall == 70


def test_empty_lines_without_end_after_the_answer_are_not_waited_for() -> None:
    """They are a loop, and the reply is whole all the same."""
    assert fed(GOOD + "\n" * 2000)[0] == COMPLETE


def test_thinking_apart_is_watched_for_loops_only() -> None:
    """It holds no answer."""
    watch = EarlyStop(SLOTS)
    assert [watch.think(line) for line in f"{GOOD}\n{GOOD}\n".splitlines(keepends=True)] == [None] * 38
    assert LOOP in [watch.think("wait, ") for _ in range(200)]


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


@pytest.mark.parametrize("kind", Damage)
def test_replies_of_the_simulator_are_read_as_ever(kind: Damage) -> None:
    """Healthy or damaged, in any pieces: what is kept of one that is left says what the whole says. Only a runaway
    runs in a loop."""
    for number in range(12):
        prompt = split_prompt(f"record {number}")
        judgement = judge(prompt, text_hash(prompt.record))
        whole = damaged(judgement, kind, max_tokens=2048, pick=number)
        for text, size in ((compose(judgement), 5), (whole, 5), (whole, 170)):
            reason, _ = fed(text, size)
            if reason == COMPLETE:
                kept = answer(text, list(range(0, len(text), size)))
                assert kept is not None
                assert parse(kept, COMPLETE) == parse(text, COMPLETE)
            else:
                assert reason == (LOOP if text is whole and kind is Damage.RUNAWAY else None)


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
    assert at <= len(head) + max(600, 8 * len(piece)) + max(64, size) + size


@given(st.text(max_size=3000))
def test_text_without_repetition_is_no_loop(text: str) -> None:
    """A loop needs 600 characters of one piece; this text has its position in every line."""
    numbered = "".join(f"{at:05d}{text[at : at + 20]}" for at in range(0, len(text), 20))
    assert not loops(numbered)


def test_a_loop_of_lines_that_end_alike_is_noticed() -> None:
    """Cut at line ends, where each line looks like the one before it."""
    lines = [f"{name}: the same words at the end of each line\n" for name in ("first", "second", "third")]
    watch = EarlyStop(SLOTS)
    reasons = [watch.feed(line) for line in lines * 20]
    assert reasons.index(LOOP) < 30


def test_the_work_is_linear() -> None:
    """A reply that says everything but one score is parsed a bounded number of times, however long it goes on."""
    text = GOOD.replace("[A7]", "[A77]") + "".join(f"\nline {number} of many" for number in range(20_000))
    watch = _Lines(SLOTS)
    watch.feed(text)
    assert watch.answer is None
    assert watch._judgements < 60
