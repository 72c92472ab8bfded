"""Properties of the reply parser: it never raises, never makes up a number, and reads back what is well formed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.row import SLOTS, Rationales, Scores

WORDS = (
    "Plan",
    "quality",
    "of",
    "tool",
    "arguments",
    "scope",
    "行动",
    "效率",
    "Überblick",
    "naïve",
    "`grep`",
    "and",
)
NAME_WORDS = (*WORDS, "Pass@1", "2-step", "24/7", "&", "1:2", "(strict)", "v2.0", "3")
# A label quoted with its score is not told from a statement; a label alone is.
TEXT_WORDS = (
    *WORDS, "7/10", "[A3],", "3", "of", "4,", "12:30", "<think>", "overall", "—", "9.5/10.", "80%", "。", "“so”",
)  # fmt: skip

names = st.builds(
    lambda first, rest, joint: first + "".join(joint + word for word in rest),
    st.sampled_from([word for word in WORDS if word != "`grep`"]),
    st.lists(st.sampled_from(NAME_WORDS), max_size=4),
    st.sampled_from([" ", " / "]),
)
texts = st.builds(
    lambda first, rest, last: " ".join((first, *rest, last)),
    st.sampled_from(WORDS),
    st.lists(st.sampled_from(TEXT_WORDS), max_size=10),
    st.sampled_from(["done.", "checked", "fin。"]),
)
scores = st.integers(0, 10).map(float) | st.integers(0, 100).map(lambda tenths: tenths / 10)
tags = st.from_regex(r"[a-z]{3,8}(_[a-z0-9]{1,8}){0,2}", fullmatch=True)
actions = st.sampled_from(["keep", "downsample", "drop"])


@st.composite
def well_formed(draw: st.DrawFn, slots: tuple[str, ...] = SLOTS) -> tuple[str, ParsedReply]:
    """A reply as the student was trained to write it, and what it says."""
    said = {slot: (draw(names), draw(scores), draw(texts)) for slot in slots}
    overall, action, tag, brief = draw(st.integers(0, 100)), draw(actions), draw(tags), draw(texts)
    lines = [f"[{slot}] {name}: {score:g}/10 — {text}" for slot, (name, score, text) in said.items()]
    lines += [
        f"overall: {overall}",
        f"training_recommendation: {action}",
        f"domain_tag: {tag}",
        f"brief: {brief}",
    ]
    parsed = ParsedReply(
        scores=Scores(**{slot: score for slot, (_, score, _) in said.items()}),
        rationales=Rationales(**{slot: text for slot, (_, _, text) in said.items()}),
        overall=float(overall),
        training_recommendation=action,
        domain_tag=tag,
        brief=brief,
        missing=(),
        complete=True,
        reason=None,
    )
    return "\n".join(lines), parsed


PIECES = (
    "[A1]", "[A2] x:", "A3:", "7/10", "11/10", "7", ",5", "/10", "/", "overall:", "overall: 65", "training_recommendation:",
    "keep", "drop", "domain_tag:", "brief:", "<think>", "</think>", "\n", "\n\n", " ", " — ", "**", "|", "{", "}", '"',
    "［Ａ１］", "：", "７／１０", "out of 10", "%", "- ", "1. ", "```", "N/A", "\ud800", "\x00", "text", ".", "\r\n",
)  # fmt: skip
anything = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join)


def numbers(parsed: ParsedReply) -> dict[str, float]:
    """The numbers that are there, by field."""
    found = {slot: getattr(parsed.scores, slot) for slot in SLOTS} | {"overall": parsed.overall}
    return {field: number for field, number in found.items() if number is not None}


@settings(max_examples=400, deadline=None)
@given(text=anything, finish_reason=st.sampled_from(["stop", "length", None, "tool_calls"]))
def test_any_text_parses_and_every_number_is_on_its_scale(text: str, finish_reason: str | None) -> None:
    """No text raises; scores lie in 0…10, the overall in 0…100, and what is not there is listed as missing."""
    parsed = parse(text, finish_reason)
    found = numbers(parsed)
    assert all(0 <= number <= (100 if field == "overall" else 10) for field, number in found.items())
    assert {*SLOTS, "overall"} == {*found} | ({*parsed.missing} & {*SLOTS, "overall"})
    assert parsed.complete == (parsed.reason is None)


@settings(max_examples=300, deadline=None)
@given(well_formed(slots=SLOTS[:2]))
def test_well_formed_reply_reads_back_exactly(reply: tuple[str, ParsedReply]) -> None:
    """What the student was trained to write is read without loss, whatever the names and rationales hold."""
    text, said = reply
    assert parse(text, "stop", SLOTS[:2]) == said


@settings(max_examples=40, deadline=None)
@given(well_formed(slots=SLOTS[:3]))
def test_cut_anywhere_a_reply_never_says_another_value(reply: tuple[str, ParsedReply]) -> None:
    """At `finish_reason=length` each value of a reply cut at any character is that of the whole reply, or missing."""
    text, said = reply
    whole = values(said)
    for end in range(len(text)):
        assert values(parse(text[:end], "length", SLOTS[:3])) <= whole, text[:end]


def values(parsed: ParsedReply) -> set[tuple[str, object]]:
    """All values that are there, rationales and texts too."""
    rationales = {(f"{slot}.rationale", getattr(parsed.rationales, slot)) for slot in SLOTS}
    tail = {(f, getattr(parsed, f)) for f in ("training_recommendation", "domain_tag", "brief")}
    return {*numbers(parsed).items()} | {pair for pair in rationales | tail if pair[1] is not None}


@settings(max_examples=150, deadline=None)
@given(reply=well_formed(slots=SLOTS[:4]), noise=st.lists(st.tuples(st.integers(0, 8), anything), max_size=5))
def test_noise_between_the_lines_never_turns_a_number_into_another(
    reply: tuple[str, ParsedReply], noise: list[tuple[int, str]]
) -> None:
    """Lines put between the lines may hide a number, by a conflict or a thought; they never replace it."""
    text, said = reply
    lines = text.split("\n")
    # A closed thought removes what stood before it, so one that brings its own labels would rightly replace it.
    for at, line in noise:
        lines.insert(at, line.replace("</think>", "").replace("\n", " "))
    found = numbers(parse("\n".join(lines), "stop", SLOTS[:4]))
    whole = numbers(said)
    assert {field: number for field, number in found.items() if field in whole}.items() <= whole.items()
