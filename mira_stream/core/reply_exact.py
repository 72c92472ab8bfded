"""A reply just as the student was trained to write it, read with one regular expression.

Nearly all replies are like that. Whatever is not, to the character, is left to the tolerant reader, and what is read
here is what that one would read: a test holds the two against each other.
"""

import re
from functools import lru_cache
from typing import NamedTuple

_NO_WORD = r"(?!(?i:rationale|justification|reason))"
_TEXT = rf"{_NO_WORD}([A-Za-z](?:[^\n\[\]]*[A-Za-z0-9.])?)"
_TAG = r"([A-Za-z0-9](?:[A-Za-z0-9 /_-]*[A-Za-z0-9])?)"
_TAIL = rf"overall: (100|[0-9]{{1,2}})\ntraining_recommendation: (keep|downsample|drop)\ndomain_tag: {_TAG}\nbrief: {_TEXT}\n*"
_ONCE = ("overall", "training_recommendation", "domain_tag")


class ExactReply(NamedTuple):
    """All that a reply says: scores and rationales in the order of the slots, then the four tail values."""

    scores: list[float]
    rationales: list[str]
    overall: float
    training_recommendation: str
    domain_tag: str
    brief: str


@lru_cache(maxsize=64)
def _form(slots: tuple[str, ...]) -> re.Pattern[str]:
    lines = (rf"\[{slot}\] [A-Za-z][^\n:=\[\]|]{{0,120}}+: (10|[0-9])/10 — {_TEXT}\n" for slot in slots)
    return re.compile("".join(lines) + _TAIL)


def read_exact(text: str, slots: tuple[str, ...]) -> ExactReply | None:
    """The reply, if it has every line in order and nothing in it that could be read in two ways."""
    if "<" in text or "**" in text or "\r" in text or not text.replace("—", "-").isascii():
        return None
    match = _form(slots).fullmatch(text)
    if match is None or any(text.count(field) != 1 for field in _ONCE):
        return None
    said = match.groups()
    end = 2 * len(slots)
    return ExactReply(
        [float(score) for score in said[0:end:2]],
        list(said[1:end:2]),
        float(said[end]),
        said[end + 1],
        said[end + 2],
        said[end + 3],
    )
