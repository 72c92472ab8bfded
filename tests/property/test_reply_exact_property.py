"""The quick reader of exact replies says what the tolerant one says, or nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.reply import parse, parse_tolerantly
from mira_stream.core.reply_exact import read_exact

SLOTS = ("A1", "A2", "A3")
WORDS = (
    "Plan", "quality", "tool", "and", "overall", "brief", "brief:", "overall:", "7/10", "— 8/10", "[A3]", "Rationale:",
    "reason", "keep", "or", "drop", "—", "-", "...", "`x`", "*y*", "(z)", "é", "domain_tag", "A2", "A2:", "1:2", '"q"',
    "training_recommendation:", "10", "to", "9/10", "|", "=", "<tag>", "{x}", "1.5",
)  # fmt: skip
PIECES = (
    *WORDS,
    "\n",
    "\n\n",
    " ",
    "\t",
    ".",
    "**",
    "```",
    "[",
    "]",
    ":",
    "</think>",
    "\x0b",
    "\u200b",
    "_",
    "#",
    ">",
)

texts = st.lists(st.sampled_from((*WORDS[:4], "done.", "It", "fails")), min_size=1, max_size=5).map(" ".join)
odd = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
scores = st.sampled_from(["0", "7", "10", "11", "07", "7.5", "-1"])


@st.composite
def nearly_exact(draw: st.DrawFn) -> str:
    """A reply as it should be, with oddities at none, one or two places."""
    plain = draw(st.integers(0, 3)) > 0
    some, number = (texts, st.sampled_from(["0", "7", "10"])) if plain else (texts | odd, scores)
    lines = [f"[{slot}] {draw(some)}: {draw(number)}/10 — {draw(some)}" for slot in SLOTS]
    lines += [
        f"overall: {draw(st.sampled_from(['0', '65', '100', '101', '6.5', '8/10']) if not plain else st.just('65'))}",
        f"training_recommendation: {draw(st.sampled_from(['keep', 'drop', 'downsample', 'Keep', 'keep or drop']))}",
        f"domain_tag: {draw(st.sampled_from(['coding', 'web_dev', 'data/sql', '_x_', 'a b', 'x.', 'brief: y']))}",
        f"brief: {draw(some)}",
    ]
    text = "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n", " ", "\nmore", "\n\nbrief: again"]))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 2)) :]
    return text


@settings(max_examples=1000, deadline=None)
@given(nearly_exact())
def test_what_is_read_quickly_is_what_is_read_tolerantly(text: str) -> None:
    """To the last field."""
    if read_exact(text, SLOTS) is not None:
        assert parse(text, "stop", SLOTS) == parse_tolerantly(text, SLOTS, cut=False)


def test_a_reply_as_it_should_be_is_read_quickly() -> None:
    """Otherwise nothing would be gained."""
    lines = [f"[{slot}] Quality of it: 7/10 — The tests pass; two of (ten) fail, 20%." for slot in SLOTS]
    tail = ["overall: 65", "training_recommendation: keep", "domain_tag: web_dev", "brief: A fine trace."]
    exact = read_exact("\n".join([*lines, *tail]), SLOTS)
    assert exact is not None
    assert (exact.scores, exact.overall, exact.brief) == ([7.0, 7.0, 7.0], 65.0, "A fine trace.")
