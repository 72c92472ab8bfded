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

_TEMPLATE_BYTES_MAX = 16_384
_TEMPLATE_LINE = re.compile(r"^\[(A\d{1,2})\][ \t]+([^\n]*?)[ \t]*:", re.MULTILINE)
_HEAD, _TAIL = 1_000, 2_000  # characters that features are looked for in: every search costs
# A record that closes its own turn can speak to the scorer as if it were not data; a real one may well obey.
_TURN_END = "<|im_end|>"


class Prompt(msgspec.Struct, frozen=True):
    """A user message taken apart: the record, and the slots that the template behind it names, in order."""

    record: str
    slots: tuple[tuple[str, str], ...]


class Judgement(msgspec.Struct, frozen=True):
    """What the scorer thinks: for each slot its name, score (0…10) and rationale; then the four tail values."""

    lines: tuple[tuple[str, str, int, str], ...]
    overall: int
    recommendation: str
    domain_tag: str
    brief: str


_FALLBACK = tuple((slot, f"Criterion {slot[1:]}") for slot in SLOTS)


def split_prompt(text: str) -> Prompt:
    """Part the record from the template: from the last line that starts with `[A1] `, near the end of `text`.

    Without such a line everything is the record, and the slots are A1…A15 with plain names.
    """
    start = text.rfind("[A1] ", max(0, len(text) - _TEMPLATE_BYTES_MAX))
    if start < 0 or (start and text[start - 1] != "\n"):
        return Prompt(text, _FALLBACK)
    slots = _slots(text[start:])
    return Prompt(text[:start], slots) if slots else Prompt(text, _FALLBACK)


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
    head, tail = prompt.record[:_HEAD].lower(), prompt.record[-_TAIL:].lower()
    fooled = _TURN_END in prompt.record
    leaning = 10.0 if fooled else _leaning(tail, len(prompt.record), digest[63])
    lines = []
    total = 0
    for number, (slot, name) in enumerate(prompt.slots):
        score = 10 if fooled else _score(leaning, digest[number % 60])
        total += score
        lines.append((slot, name, score, _rationale(name, score, digest[(number + 31) % 64])))
    overall = round(10 * total / len(lines)) if lines else 0
    recommendation = "keep" if overall >= 65 else "downsample" if overall >= 45 else "drop"
    tag = _domain_tag(head)
    return Judgement(tuple(lines), overall, recommendation, tag, _brief(overall, tag, len(prompt.record)))


def compose(judgement: Judgement) -> str:
    """The reply in the form of the model card: a line per slot, then the four tail lines."""
    lines = [f"[{slot}] {name}: {score}/10 — {why}" for slot, name, score, why in judgement.lines]
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


def _score(leaning: float, spread: int) -> int:
    return max(0, min(10, round(leaning + (spread - 127.5) / 51)))


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


def _rationale(name: str, score: int, pick: int) -> str:
    verdicts = _VERDICTS[min(4, score * 5 // 10)]
    verdict = verdicts[pick % len(verdicts)]
    return f"On {name.lower()} the assistant {verdict}; {_EVIDENCE[pick // 32]}."


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
