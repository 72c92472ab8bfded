"""The reply parser over a corpus of damaged replies, hand-made, each with its full expected result."""

import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mira_stream.core.outcome import Reason
from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.row import Rationales, Scores

CORPUS = Path(__file__).parents[2] / "data" / "replies"
CASES = [
    pytest.param(case, id=f"{path.stem}: {case['name']}")
    for path in sorted(CORPUS.glob("*.toml"))
    for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]
]


def expected_of(case: dict[str, Any]) -> ParsedReply:
    """The whole result that a case writes down; what it leaves out is None."""
    return ParsedReply(
        scores=Scores(**case["scores"]),
        rationales=Rationales(**case["rationales"]),
        overall=case.get("overall"),
        training_recommendation=case.get("training_recommendation"),
        domain_tag=case.get("domain_tag"),
        brief=case.get("brief"),
        missing=tuple(case["missing"]),
        complete=case["complete"],
        reason=Reason(case["reason"]) if "reason" in case else None,
    )


@pytest.mark.parametrize("case", CASES)
def test_damaged_reply_parses_to_what_its_case_says(case: dict[str, Any]) -> None:
    """Each reply of the corpus gives exactly the expected scores, texts and list of what is missing."""
    parsed = parse(case["text"], case.get("finish_reason"), tuple(case["slots"]))
    assert msgspec.to_builtins(parsed) == msgspec.to_builtins(expected_of(case))


def test_corpus_is_large_enough() -> None:
    """The corpus holds at least ninety cases, each under its own name."""
    names = [param.id for param in CASES]
    assert len(names) >= 90
    assert len(set(names)) == len(names)


# What comes later may contradict what a cut text said (a repetition) or make it a thought: only there is a value of a
# cut text not a value of the whole.
CUTTABLE = [param for param in CASES if not param.id.startswith(("repeats", "thinking"))]


@pytest.mark.parametrize("case", CUTTABLE)
def test_cut_reply_says_nothing_that_the_whole_one_does_not_say(case: dict[str, Any]) -> None:
    """At `finish_reason=length`, cut at any character, each value is the whole reply's value or missing."""
    slots = tuple(case["slots"])
    whole = said(parse(case["text"], "stop", slots))
    for end in range(len(case["text"])):
        cut = said(parse(case["text"][:end], "length", slots))
        assert cut.items() <= whole.items(), case["text"][:end]


def said(parsed: ParsedReply) -> dict[str, object]:
    """Every value that is there, by field."""
    tail = {"overall", "training_recommendation", "domain_tag", "brief"}
    fields = msgspec.to_builtins(parsed)
    values = {name: fields[name] for name in tail}
    values |= fields["scores"] | {f"{slot}.rationale": text for slot, text in fields["rationales"].items()}
    return {name: value for name, value in values.items() if value is not None}


MEBI = 1 << 20
HOSTILE = {
    "labels": "[A1]" * (MEBI // 2),
    "labels with blanks": "[A1] " * (MEBI * 2 // 5),
    "label lines": "\n[A1]" * (MEBI // 5),
    "one line of statements": "[A1] x: 7/10 " * (MEBI // 7),
    "thoughts opened": "<think>" * (MEBI * 2 // 7),
    "thoughts closed": "</think>" * (MEBI // 4),
    "thoughts in a labelled line": "[A1] <think>" + "a</think> b" * (MEBI // 6),
    "digits": "[A1] x: " + "7" * (2 * MEBI),
    "fractions": "[A1] x: " + "7/10 " * (MEBI * 2 // 5),
    "nested brackets": "[" * MEBI + "]" * MEBI,
    "half labels": "[A" * MEBI,
    "newlines": "\n" * (2 * MEBI),
    "blanks": " " * (2 * MEBI),
    "dashes": "[A1] x: 7/10" + "-" * (2 * MEBI),
    "colons": "[A1]" + ":" * (2 * MEBI),
    "stars": "**" * MEBI,
    "overalls": "overall: 6 " * (MEBI // 6),
    "recommendations": "training_recommendation: " * (MEBI // 13),
    "full-width": "［Ａ１］：７／１０" * (MEBI // 6),
    "lone surrogates": "\ud800" * (2 * MEBI),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_hostile_text_parses_in_linear_time(text: str, finish_reason: str) -> None:
    """Two million characters of anything parse in seconds; a pattern that looks back would take hours."""
    started = time.process_time()
    parse(text, finish_reason)
    assert time.process_time() - started < 20


def test_lone_surrogates_become_replacement_characters() -> None:
    """Every text value can be encoded, whatever the reply held."""
    parsed = parse("[A1] x: 7/10 — half \ud83d of a sign\nbrief: \udc00 too", "stop", ("A1",))
    assert msgspec.json.encode(parsed)
    assert parsed.scores.A1 == 7.0
    assert parsed.brief == "\ufffd too"
