"""Does a prompt fit its context? Three zones by estimate, and cutting the middle of a record that does not.

The order of things: `zone` of the estimate; UNDER is sent; OVER goes through `truncate_middle`; NEAR is counted
exactly by the caller, and if there is an `excess`, goes through `truncate_counted` and is counted again.
"""

from bisect import bisect_left, bisect_right
from enum import StrEnum

import msgspec

from mira_stream.core.tokens import Estimate, Estimator, raw_tokens

_STEP_CHARS = 1 << 14
_SNAP_SHARE = 4  # up to 1/4 of a side is given up to end it at a turn, or else at a line
_NOTE = "\n[… {:,} tokens left out here …]\n"
_JOIN_TOKENS = 2  # what two texts may count more together than apart
_NOTE_TOKENS = raw_tokens(_NOTE.format(999_999_999)) + 4 * _JOIN_TOKENS
_DENSITY_SLACK = 0.75  # what is cut out may hold this much fewer tokens than its raw count says


class Zone(StrEnum):
    """Where an estimate lies against a limit: surely under it, surely over it, or too near to tell."""

    UNDER = "under"
    NEAR = "near"
    OVER = "over"


class Truncated(msgspec.Struct, frozen=True):
    """A record's text without its middle, and about how many tokens that middle had (0: nothing was cut)."""

    text: str
    cut_tokens: int


def zone(estimate: Estimate, limit: int) -> Zone:
    """The zone of a prompt of which at most `limit` tokens fit."""
    if max(estimate.high, estimate.most) <= limit:
        return Zone.UNDER
    return Zone.OVER if estimate.low > limit else Zone.NEAR


def excess(counted: int, limit: int) -> int:
    """By how many tokens an exactly counted prompt is over `limit`; 0 if it fits."""
    return max(0, counted - limit)


def truncate_middle(
    text: str, turns: tuple[int, ...], *, estimate: Estimate, limit: int, estimator: Estimator, source: str
) -> Truncated:
    """Cut the middle out of a record so that the high end of the prompt's new estimate is at most `limit` tokens.

    `estimate` is that of the whole prompt, with the tokens shared by every record as its `overhead`. If not even a
    note fits beside those, the text is empty. Reads no more of `text` than it keeps, whatever its length.
    """
    keep = estimator.raw_within(limit, source) - estimate.overhead
    return _cut(text, turns, estimate=estimate, keep=keep)


def truncate_counted(
    text: str, turns: tuple[int, ...], *, estimate: Estimate, counted: int, limit: int
) -> Truncated:
    """Cut the middle out of a record whose prompt was counted exactly, by at least the tokens it has too many.

    It cuts a third more than the count asks for, because the middle may be thinner than the rest.
    """
    over = excess(counted, limit)
    if not over:
        return Truncated(text, 0)
    # What all records share is of ordinary density, whatever this one's is.
    per_raw = max(1, counted - estimate.overhead) / max(1, estimate.raw - estimate.overhead)
    cut = int(over / (per_raw * _DENSITY_SLACK)) + 1 + _NOTE_TOKENS
    measured = msgspec.structs.replace(estimate, tokens=counted)
    return _cut(text, turns, estimate=measured, keep=estimate.raw - estimate.overhead - cut)


def truncate_to(text: str, turns: tuple[int, ...], *, raw: int, tokens: int, keep: int) -> Truncated:
    """Cut the middle out of a record of `raw` raw and `tokens` exact tokens so that about `keep` raw ones stay.

    For those who count exactly what they get and cut again. The text is empty if not even a note fits.
    """
    return _cut(text, turns, estimate=Estimate(tokens, tokens, tokens, raw), keep=keep)


def _cut(text: str, turns: tuple[int, ...], *, estimate: Estimate, keep: int) -> Truncated:
    """Keep head and tail of `text`, about half of `keep` raw tokens each, the note between them included."""
    whole = estimate.raw - estimate.overhead
    if whole <= keep:
        return Truncated(text, 0)
    per_raw = estimate.tokens / max(1, estimate.raw)
    budget = keep - _NOTE_TOKENS
    if budget < 0:
        return Truncated("", round(whole * per_raw))
    head = _snap_back(text, turns, _head_end(text, budget // 2))
    used = raw_tokens(text[:head])
    tail = _snap_forward(text, turns, max(head, _tail_start(text, max(0, budget - used))))
    cut = max(1, round((whole - used - raw_tokens(text[tail:])) * per_raw))
    return Truncated(f"{text[:head]}{_NOTE.format(cut)}{text[tail:]}", cut)


def _head_end(text: str, budget: int) -> int:
    """The end, in characters, of a head of at most `budget` raw tokens."""
    end = 0
    while end < len(text):
        step = text[end : end + _STEP_CHARS]
        tokens = raw_tokens(step) + _JOIN_TOKENS
        if tokens > budget:
            return end + _most(step, budget)
        budget -= tokens
        end += len(step)
    return end


def _tail_start(text: str, budget: int) -> int:
    """The start, in characters, of a tail of at most `budget` raw tokens."""
    start = len(text)
    while start:
        step = text[max(0, start - _STEP_CHARS) : start]
        tokens = raw_tokens(step) + _JOIN_TOKENS
        if tokens > budget:
            return start - _most(step, budget, tail=True)
        budget -= tokens
        start -= len(step)
    return start


def _most(step: str, budget: int, *, tail: bool = False) -> int:
    """How many characters of the head (or tail) of `step` are within `budget` raw tokens."""

    def tokens(chars: int) -> int:
        return raw_tokens(step[len(step) - chars :] if tail else step[:chars])

    return max(0, bisect_right(range(len(step)), budget - _JOIN_TOKENS, key=tokens) - 1)


def _snap_back(text: str, turns: tuple[int, ...], end: int) -> int:
    """`end`, or the last turn or else line that begins shortly before it."""
    floor = end - end // _SNAP_SHARE
    before = bisect_right(turns, end)
    if before and turns[before - 1] >= max(1, floor):
        return turns[before - 1]
    return text.rfind("\n", floor, end) + 1 or end


def _snap_forward(text: str, turns: tuple[int, ...], start: int) -> int:
    """`start`, or the first turn or else line that begins shortly after it."""
    ceiling = start + (len(text) - start) // _SNAP_SHARE
    after = bisect_left(turns, start)
    if after < len(turns) and turns[after] <= ceiling:
        return turns[after]
    return text.find("\n", start, ceiling) + 1 or start
