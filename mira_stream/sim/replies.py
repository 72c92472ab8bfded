"""What the simulated scorer says: well-formed output that depends on the record's text alone, and reads sensibly.

The scores follow simple features of the text (signs of success and of failure, length, tool calls) plus a part that
its hash decides, so that equal records get equal scores on every replica and in every run. They mean nothing.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

import msgspec

from mira_stream.core.row import SLOTS

_TEMPLATE_CHARACTERS_MAX = 16_384
_TEMPLATE_LINE = re.compile(r"^\[(A\d{1,2})\][ \t]+([^\n]*?)[ \t]*:", re.MULTILINE)
_HEAD, _TAIL = 1_000, 1_500  # characters that features are looked for in: every search costs
# A record that closes its own turn can speak to the scorer as if it were not data; a real one may well obey.
_TURN_END = "<|im_end|>"


class Prompt(msgspec.Struct, frozen=True):
    """A user message taken apart: the record, the template behind it, and the slots that this names, in order."""

    record: str
    template: str
    slots: tuple[tuple[str, str], ...]


class Judgement(msgspec.Struct, frozen=True):
    """What the scorer thinks: a score (0…10) and a choice of words per slot, and the four tail values."""

    slots: tuple[tuple[str, str], ...]
    scores: tuple[int, ...]
    wording: bytes
    overall: int
    recommendation: str
    domain_tag: str
    brief: str

    @property
    def lines(self) -> list[tuple[str, str, int, str]]:
        """For each slot its key, name, score and rationale."""
        return [
            (slot, name, score, rationale(name, score, self.wording[number % 32]))
            for number, ((slot, name), score) in enumerate(zip(self.slots, self.scores, strict=True))
        ]


_FALLBACK = tuple((slot, f"Criterion {slot[1:]}") for slot in SLOTS)


def split_prompt(text: str) -> Prompt:
    """Part the record from the template: from the last line that starts with `[A1] `, near the end of `text`.

    Without such a line everything is the record, and the slots are A1…A15 with plain names.
    """
    start = text.rfind("[A1] ", max(0, len(text) - _TEMPLATE_CHARACTERS_MAX))
    if start < 0 or (start and text[start - 1] != "\n"):
        return Prompt(text, "", _FALLBACK)
    template = text[start:]
    slots = _slots(template)
    return Prompt(text[:start], template, slots) if slots else Prompt(text, "", _FALLBACK)


@lru_cache(maxsize=64)  # the template is the same for every record of a group
def _slots(template: str) -> tuple[tuple[str, str], ...]:
    return tuple(dict(_TEMPLATE_LINE.findall(template)).items())


def text_hash(text: str) -> bytes:
    """64 bytes that depend on all of `text`. Made for spread, not for secrecy: a CRC, stretched."""
    data = text.encode(errors="surrogatepass")
    seed = b"%d %d %b %b" % (len(data), crc32(data), data[:64], data[-64:])
    return blake2b(seed).digest()


def judge(prompt: Prompt, digest: bytes) -> Judgement:
    """Score the record; `digest` is its `text_hash`."""
    record, slots = prompt.record, prompt.slots
    if _TURN_END in record:
        scores = (10,) * len(slots)
    else:
        scores = _scores(_leaning(record[-_TAIL:].lower(), len(record), digest[63]), digest, len(slots))
    overall = round(10 * sum(scores) / len(scores))
    recommendation = "keep" if overall >= 65 else "downsample" if overall >= 45 else "drop"
    tag = _domain_tag(record[:_HEAD].lower())
    brief = _brief(overall, tag, len(record))
    return Judgement(slots, scores, digest[31:63], overall, recommendation, tag, brief)


def compose(judgement: Judgement) -> str:
    """The reply in the form of the model card: a line per slot, then the four tail lines."""
    wording = judgement.wording
    lines = [
        _line(slot, score, wording[number % 32] % _WORDINGS)
        for number, (slot, score) in enumerate(zip(judgement.slots, judgement.scores, strict=True))
    ]
    lines += tail_lines(judgement)
    return "\n".join(lines)


def tail_lines(judgement: Judgement) -> Sequence[str]:
    """`overall`, `training_recommendation`, `domain_tag` and `brief`."""
    return (
        f"overall: {judgement.overall}",
        f"training_recommendation: {judgement.recommendation}",
        f"domain_tag: {judgement.domain_tag}",
        f"brief: {judgement.brief}",
    )


_SUCCESS = ("passed", "fixed", "works", "done", "success", "all tests")
_FAILURE = ("error", "traceback", "failed", "cannot", "not found", "gave up")


def _leaning(tail: str, size: int, spread: int) -> float:
    """About what a record deserves, 0…10, from how it ends and how long it is."""
    success = sum(min(2, tail.count(word)) for word in _SUCCESS)
    failure = sum(min(2, tail.count(word)) for word in _FAILURE)
    length = 0.0 if 1_000 < size < 200_000 else -0.8
    return 6.4 + 0.45 * min(success, 5) - 0.55 * min(failure, 6) + length + (spread - 127.5) / 128


def _scores(leaning: float, digest: bytes, count: int) -> tuple[int, ...]:
    """Scores around `leaning`, each up to 2.5 off by its byte of the hash."""
    spreads = (digest * (1 + count // len(digest)))[:count]
    low = leaning - 2.5
    return tuple(max(0, min(10, round(low + spread / 51))) for spread in spreads)


_VERDICTS = (
    ("fails on this throughout", "shows nothing of it where it was needed", "works against the task here"),
    ("falls short in most steps", "is weak here, with repeated slips", "rarely gets this right"),
    (
        "is uneven, good in places and careless in others",
        "does the obvious part only",
        "holds up until the middle",
    ),
    (
        "is sound, with a few small lapses",
        "does this well in nearly every step",
        "needs little correction here",
    ),
    ("is consistently strong", "gets this right from start to end", "could serve as an example"),
)


_EVIDENCE = (
    "the closing summary shows it",
    "most of all in the first half",
    "judged by how tool results were used",
    "the middle of the trace is the clearest case",
    "with one exception near the end",
    "each step can be checked against the output before it",
    "little else in the trace speaks to it",
    "compare the plan at the start with what was run",
)


_WORDINGS = len(_EVIDENCE) * 3


def rationale(name: str, score: int, pick: int) -> str:
    """Why that score, in words that `pick` chooses."""
    verdicts = _VERDICTS[min(4, score * 5 // 10)]
    evidence = _EVIDENCE[pick % _WORDINGS // 3]
    return f"On {name.lower()} the assistant {verdicts[pick % 3]}; {evidence}."


@lru_cache(maxsize=8_192)  # a rubric's lines are few: slots × scores × wordings
def _line(slot: tuple[str, str], score: int, pick: int) -> str:
    key, name = slot
    return f"[{key}] {name}: {score}/10 — {rationale(name, score, pick)}"


_DOMAINS = (
    ("web_frontend", ("<html", "css", "react", "frontend")),
    ("data_engineering", ("csv", "parquet", "sql", "pandas")),
    ("devops", ("docker", "kubernetes", "systemd", "terraform")),
    ("testing", ("pytest", "unit test", "test suite", "assert")),
    ("shell", ("bash", "grep", "chmod", "terminal")),
)


def _domain_tag(head: str) -> str:
    for tag, words in _DOMAINS:
        if any(word in head for word in words):
            return tag
    return "general_coding"


def _brief(overall: int, tag: str, size: int) -> str:
    extent = "short" if size < 4_000 else "long" if size > 60_000 else "medium-length"
    worth = "clean and useful" if overall >= 65 else "mixed" if overall >= 45 else "mostly unsuccessful"
    return f"A {extent} {tag.replace('_', ' ')} session, {worth} as training material."
