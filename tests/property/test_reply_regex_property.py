"""The reply's grammar, held against the parser: what it lets through is complete, and what a scorer says is let through."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.reply import parse
from mira_stream.core.reply_regex import reply_regex
from mira_stream.core.request import PromptIds, RequestEncoder, RequestSettings
from mira_stream.core.rubric import Criterion, Rubric
from mira_stream.daemon.anchors import load_groups, load_rubric

PACKAGED = load_rubric(load_groups(None)["agent/A"], None)
HELD = reply_regex(PACKAGED, text_chars_max=16)
MARK = "the regex"


def named(*names: str) -> Rubric:
    """A rubric whose dimensions are called that."""
    criteria = tuple(
        Criterion(slot=f"A{number}", name=name, cluster_size=1, description="", references=())
        for number, name in enumerate(names, 1)
    )
    return Rubric("agent/T", criteria)


def reply(rubric: Rubric, *, text: str = "It holds up.", score: str = "7", tail: str = "65") -> str:
    """A reply as the scorers are trained to write it."""
    lines = [f"[{one.slot}] {one.name}: {score}/10 — {text}" for one in rubric.criteria]
    lines += [
        f"overall: {tail}",
        "training_recommendation: downsample",
        "domain_tag: web_dev",
        f"brief: {text}",
    ]
    return "\n".join(lines)


@settings(max_examples=150, deadline=None)
@given(st.from_regex(HELD, fullmatch=True))
def test_whatever_it_lets_through_is_complete(text: str) -> None:
    """No reply held to the grammar is ever asked about again, or lacks a rationale."""
    parsed = parse(text, "stop", PACKAGED.slots)
    assert parsed.complete
    assert parsed.missing == ()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.lists(st.text(max_size=130), min_size=1, max_size=4))
def test_so_it_is_whatever_dimensions_are_called(data: st.DataObject, names: list[str]) -> None:
    """Names that hold scores, brackets, colons or no letter at all do not spoil the reply."""
    rubric = named(*names)
    text = data.draw(st.from_regex(reply_regex(rubric, text_chars_max=16), fullmatch=True))
    parsed = parse(text, "stop", rubric.slots)
    assert parsed.missing == ()
    said = [float(score) for score in re.findall(r"(\d+)/10 — ", text)][: len(names)]
    assert [getattr(parsed.scores, slot) for slot in rubric.slots] == said


@pytest.mark.parametrize("score", [str(score) for score in range(11)])
@pytest.mark.parametrize("overall", ["0", "9", "65", "100"])
def test_what_a_scorer_should_say_is_let_through(score: str, overall: str) -> None:
    """Every score and overall, and a rationale in plain English with the usual punctuation."""
    text = "Reads the file, then edits it (twice) - 3/4 of the tests pass; it’s “done”, 90% sure."
    assert re.fullmatch(
        reply_regex(PACKAGED, text_chars_max=400), reply(PACKAGED, text=text, score=score, tail=overall)
    )


@pytest.mark.parametrize(
    "spoiled",
    [
        ("7/10 — It", "11/10 — It"),
        ("overall: 65", "overall: 101"),
        ("downsample", "maybe"),
        ("holds up.", "holds up [A3] x: 9/10"),
        ("holds up.", "holds\nup."),
        ("[A2]", "[A3]"),
        ("domain_tag: web_dev\n", ""),
    ],
    ids=lambda pair: pair[1].strip()[:12] or "nothing",
)
def test_what_would_be_incomplete_is_not_let_through(spoiled: tuple[str, str]) -> None:
    """Scores off the scale, other words, labels inside a text, lines out of order or absent."""
    text = reply(PACKAGED)
    assert re.fullmatch(HELD, text)
    assert not re.fullmatch(HELD, text.replace(*spoiled, 1))


@pytest.mark.parametrize(
    ("wanted", "first", "again"),
    [("off", False, False), ("regex", True, True), ("retry_only", False, True)],
)
def test_it_is_sent_when_it_is_wanted(wanted: str, first: bool, again: bool) -> None:
    """Always, or only when a record is asked about again; in both modes of request."""
    settings_ = RequestSettings(structured_output=wanted)  # type: ignore[arg-type]
    encoder = RequestEncoder(settings_, "m", reply_regex=MARK)
    for body in (encoder.encode_chat("s", "u"), encoder.encode_ids(PromptIds(2, b"1,2"))):
        for held, sent in ((first, body), (again, encoder.encode_reask(body))):
            assert json.loads(sent).get("structured_outputs") == ({"regex": MARK} if held else None)
    assert "structured_outputs" not in json.loads(encoder.encode_tokenize("s", "u"))
