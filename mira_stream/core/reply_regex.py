"""The grammar of a reply as a regular expression, for servers that can hold a model to one (structured output).

It lets through less than the parser reads, and nothing that the parser would find incomplete: a test holds the two
against each other. Only what every engine of structured output knows is used: classes, groups, bounded repetition.
"""

import re

from mira_stream.core.rubric import Rubric

# No label can stand in a text without a bracket, a colon or an equals sign, no tag without an angle bracket.
_TEXT_CHARACTER = r"""[A-Za-z0-9 .,;!?'"()/%+&#@$_~{}–—’“”…-]"""
_OVERALL = "(100|[1-9]?[0-9])"
_RECOMMENDATION = "(keep|downsample|drop)"
_TAG = "[a-z][a-z0-9_/-]{1,39}"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9 ,&'()/-]+")
_NAME_CHARS_MAX = 100
_ANY_NAME = "score"
_META = re.compile(r"[.^$*+?()\[\]{}|\\]")


def reply_regex(rubric: Rubric, *, text_chars_max: int) -> str:
    """What a whole reply to `rubric` matches: its lines in order, each text at most so many characters long.

    Anchors are implied: the server matches all that the model says.
    """
    text = f"[A-Za-z]{_TEXT_CHARACTER}{{1,{text_chars_max - 1}}}"
    lines = [
        rf"\[{criterion.slot}\] {_literal(_plain(criterion.name))}: (10|[0-9])/10 — {text}"
        for criterion in rubric.criteria
    ]
    lines += (f"overall: {_OVERALL}", f"training_recommendation: {_RECOMMENDATION}")
    lines += (f"domain_tag: {_TAG}", f"brief: {text}")
    return r"\n".join(lines)


def _plain(name: str) -> str:
    """A criterion's name without what could be read as the score behind it."""
    plain = " ".join(_NOT_IN_A_NAME.sub(" ", name).split())[:_NAME_CHARS_MAX].rstrip()
    return plain if plain[:1].isalpha() else _ANY_NAME


def _literal(text: str) -> str:
    """`text` with its metacharacters escaped, and no others: some engines refuse the escape of a plain character."""
    return _META.sub(r"\\\g<0>", text)
