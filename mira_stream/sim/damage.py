"""Ways in which a reply can be damaged, each as a model does it: some only untidy, some not readable as fifteen scores."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from hashlib import blake2b

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.sim.replies import Judgement, compose, tail_lines
from mira_stream.sim.tokens import BYTES_PER_TOKEN


class Damage(StrEnum):
    """The kinds of damage. Those in `FATAL` lose a required value; a tolerant reader recovers all from the others."""

    MISSING_SLOT = "missing_slot"
    MISSING_TAIL = "missing_tail"
    RUNAWAY = "runaway"  # repeats itself until max_tokens cuts it: finish_reason is `length`
    JSON = "json"
    REFUSAL = "refusal"
    UNCLOSED_THINK = "unclosed_think"
    EMPTY = "empty"
    DASHES = "dashes"
    BOLD = "bold"
    PREAMBLE = "preamble"
    THINK = "think"
    NAMELESS = "nameless"
    REORDERED = "reordered"
    FULL_WIDTH = "full_width"
    DECIMALS = "decimals"
    BLANK_LINES = "blank_lines"


FATAL = frozenset(
    {
        Damage.MISSING_SLOT,
        Damage.MISSING_TAIL,
        Damage.RUNAWAY,
        Damage.JSON,
        Damage.REFUSAL,
        Damage.UNCLOSED_THINK,
        Damage.EMPTY,
    }
)


def damage_kinds(names: Iterable[str]) -> tuple[Damage, ...]:
    """The kinds named, all of them if none is. Raises Refusal for a name that is no kind."""
    known = {kind.value: kind for kind in Damage}
    kinds = []
    for name in names:
        if name not in known:
            raise Refusal(f"there is no damage {name!r}", f"the kinds are {', '.join(known)}")
        kinds.append(known[name])
    return tuple(kinds) or tuple(Damage)


class DamagePlan(msgspec.Struct, frozen=True):
    """Which replies get damaged: a `share` of them, by the record's hash, the seed and how often it was asked."""

    share: float
    kinds: tuple[Damage, ...]
    seed: int

    def choose(self, digest: bytes, attempt: int) -> Damage | None:
        """The damage to the `attempt`-th reply (from 0) about the record whose hash is `digest`, or None."""
        if not self.share:
            return None
        key = self.seed.to_bytes(8, "big")
        draw = blake2b(digest + attempt.to_bytes(8, "big"), digest_size=8, key=key).digest()
        if int.from_bytes(draw[:6], "big") >= self.share * (1 << 48):
            return None
        return self.kinds[int.from_bytes(draw[6:], "big") % len(self.kinds)]


def damaged(judgement: Judgement, kind: Damage, *, max_tokens: int, pick: int) -> str:
    """The reply with that damage; `pick` varies where it strikes. A runaway is longer than `max_tokens`."""
    if kind is Damage.RUNAWAY:
        return _runaway(judgement, max_tokens, pick)
    return _DAMAGES[kind](judgement, pick)


def _missing_slot(judgement: Judgement, pick: int) -> str:
    lines = compose(judgement).split("\n")
    del lines[pick % len(judgement.lines)]
    return "\n".join(lines)


def _missing_tail(judgement: Judgement, pick: int) -> str:
    """Stops before `overall`, or leaves out the recommendation."""
    lines = compose(judgement).split("\n")
    return "\n".join(lines[:-4] if pick % 2 else lines[:-3] + lines[-2:])


def _runaway(judgement: Judgement, max_tokens: int, pick: int) -> str:
    lines = compose(judgement).split("\n")
    lines = lines[: 1 + pick % len(judgement.lines)]
    loop = " and the assistant checks the file again"
    lacking = (max_tokens + 1) * BYTES_PER_TOKEN - sum(len(line.encode()) + 1 for line in lines)
    return "\n".join(lines) + loop * max(1, -(-lacking // len(loop)))


def _json(judgement: Judgement, _: int) -> str:
    document = {slot: {"score": score, "rationale": why} for slot, _name, score, why in judgement.lines}
    return "```json\n" + msgspec.json.encode(document | {"overall": judgement.overall}).decode() + "\n```"


def _refusal(_: Judgement, __: int) -> str:
    return "I'm sorry, but I can't rate this conversation because it contains sensitive content."


def _unclosed_think(judgement: Judgement, _: int) -> str:
    return f"<think>\nLet me go through the trace.\n{compose(judgement)}"


def _empty(_: Judgement, __: int) -> str:
    return "\n\n"


def _dashes(judgement: Judgement, pick: int) -> str:
    return compose(judgement).replace(" — ", (" - ", " – ", ": ", " -- ", "—")[pick % 5])


def _bold(judgement: Judgement, _: int) -> str:
    lines = [f"**[{slot}] {name}:** {score}/10 — {why}" for slot, name, score, why in judgement.lines]
    tail = [f"**{line.replace(': ', ':** ', 1)}" for line in tail_lines(judgement)]
    return "\n".join((*lines, *tail))


def _preamble(judgement: Judgement, _: int) -> str:
    return (
        f"Here is my evaluation of the trace:\n\n{compose(judgement)}\n\nLet me know if you need more detail."
    )


def _think(judgement: Judgement, _: int) -> str:
    return f"<think>\nThe trace first, then the slots. [A1] maybe 3/10?\n</think>\n\n{compose(judgement)}"


def _nameless(judgement: Judgement, _: int) -> str:
    lines = [f"[{slot}] {score}/10 — {why}" for slot, _name, score, why in judgement.lines]
    return "\n".join((*lines, *tail_lines(judgement)))


def _reordered(judgement: Judgement, pick: int) -> str:
    lines = compose(judgement).split("\n")
    turn = 1 + pick % (len(lines) - 1)
    return "\n".join(lines[turn:] + lines[:turn])


def _full_width(judgement: Judgement, _: int) -> str:
    lines = [f"【{slot}】 {name}：{score}／10 — {why}" for slot, name, score, why in judgement.lines]
    return "\n".join((*lines, *tail_lines(judgement)))


def _decimals(judgement: Judgement, _: int) -> str:
    lines = [
        f"[{slot}] {name}: {score - 0.5 if score else 0.5}/10 — {why}"
        for slot, name, score, why in judgement.lines
    ]
    return "\n".join((*lines, *tail_lines(judgement)))


def _blank_lines(judgement: Judgement, _: int) -> str:
    return compose(judgement).replace("\n", "\r\n\r\n")


_DAMAGES: dict[Damage, Callable[[Judgement, int], str]] = {
    Damage.MISSING_SLOT: _missing_slot,
    Damage.MISSING_TAIL: _missing_tail,
    Damage.JSON: _json,
    Damage.REFUSAL: _refusal,
    Damage.UNCLOSED_THINK: _unclosed_think,
    Damage.EMPTY: _empty,
    Damage.DASHES: _dashes,
    Damage.BOLD: _bold,
    Damage.PREAMBLE: _preamble,
    Damage.THINK: _think,
    Damage.NAMELESS: _nameless,
    Damage.REORDERED: _reordered,
    Damage.FULL_WIDTH: _full_width,
    Damage.DECIMALS: _decimals,
    Damage.BLANK_LINES: _blank_lines,
}
