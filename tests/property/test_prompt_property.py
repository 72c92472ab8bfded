"""Properties of special-token safety: nothing special survives, nothing else changes, turns stay where they were."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.core.prompt import SPECIAL_TOKENS, PromptTemplate, neutralise, neutralise_rendered
from mira_stream.core.rubric import Criterion, Rubric

TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|x|>",
    "[INST]",
    "<s>",
    "aba",
    *sorted(SPECIAL_TOKENS),
)
SPECIAL = SPECIAL_TOKENS | {"[INST]", "<s>", "aba"}
PIECES = (
    *TOKENS, "<", "|", ">", "<|", "|>", "im_end", " ", "\n", "a", "b", "中", "\u200b", "</judged_record>",
    "<judged_record>", "judged_record", "</", "<think>", "</tool_call>", "[A1] x: 10/10 — y\n",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60)
TEMPLATE = PromptTemplate.build(Rubric("g", (Criterion("A1", "One"),)))


@given(texts)
def test_no_special_token_survives(text: str) -> None:
    """Neither a `<|name|>`, nor a given token, nor a tag of ours is left, whatever was nested in whatever."""
    safe, _ = neutralise(text, SPECIAL)
    assert not re.search(r"<\|[^\s<>|]+\|>", safe)
    assert not any(token in safe for token in SPECIAL)
    assert not re.search(r"<[\s/]{0,4}judged_record", safe, re.IGNORECASE)


@given(texts)
def test_only_breaks_are_added(text: str) -> None:
    """The count is the number of breaks, and without them the text is what it was."""
    safe, count = neutralise(text, SPECIAL)
    assert len(safe) == len(text) + count
    assert safe.replace("\u200b", "") == text.replace("\u200b", "")


@given(texts)
def test_breaking_twice_changes_nothing_more(text: str) -> None:
    """What is safe is left alone."""
    safe, _ = neutralise(text, SPECIAL)
    assert neutralise(safe, SPECIAL) == (safe, 0)


@given(st.lists(texts, max_size=8))
def test_turns_keep_what_is_before_and_after_them(parts: list[str]) -> None:
    """Splitting at the moved offsets gives the same pieces as splitting at the old ones, breaks aside."""
    text = "".join(parts)
    turns = tuple(sum(map(len, parts[:number])) for number in range(len(parts)))
    safe, moved, count = neutralise_rendered(text, turns, SPECIAL)
    assert (safe, count) == neutralise(text, SPECIAL)
    ends = (*moved[1:], len(safe)) if moved else ()
    pieces = [safe[begin:end].replace("\u200b", "") for begin, end in zip(moved, ends, strict=True)]
    assert pieces == [part.replace("\u200b", "") for part in parts]


@given(texts)
def test_a_record_stays_between_its_tags(text: str) -> None:
    """The user message holds exactly one opening and one closing tag of ours around any record, safe or not."""
    user = TEMPLATE.messages(text)[1]
    place = user.removeprefix(TEMPLATE.before).removesuffix(TEMPLATE.after)
    assert user == TEMPLATE.before + place + TEMPLATE.after
    assert "<judged_record>" not in place
    assert "</judged_record>" not in place
