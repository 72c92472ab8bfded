"""The rubric: what a group's records are judged by, and the fingerprint that travels with every row."""

from hashlib import blake2b

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.core.row import SLOTS


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scored example: what a record that deserves `score` (0–10) looks like."""

    score: float
    text: str


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One axis. `slot` (`A1`…) is the key: names repeat, so a name never is."""

    slot: str
    name: str
    cluster_size: int | None = None
    description: str = ""
    references: tuple[Anchor, ...] = ()


class Rubric(msgspec.Struct, frozen=True):
    """The criteria of one group (`agent/A`), in slot order."""

    group: str
    criteria: tuple[Criterion, ...]

    @property
    def fingerprint(self) -> str:
        """blake2b-128, hex, over the group and its criteria, texts and all."""
        return blake2b(msgspec.json.encode(self), digest_size=16).hexdigest()

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(criterion.slot for criterion in self.criteria)


def parse_rubric(text: str, *, group: str, name: str) -> Rubric:
    """An anchors file (one JSON line per slot) as a rubric. `name` is the file's, for messages; raises Refusal."""
    criteria = [
        _criterion(line, f"{name}, line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    slots = [criterion.slot for criterion in criteria]
    if slots != list(SLOTS[: len(slots)]) or not slots:
        raise Refusal(
            f"{name}: the slots are {', '.join(slots) or 'none'}",
            f"an anchors file has one line per slot, {SLOTS[0]} to {SLOTS[-1]} in order",
        )
    return Rubric(group, tuple(criteria))


def _criterion(line: str, where: str) -> Criterion:
    try:
        criterion = msgspec.json.decode(line, type=Criterion)
    except msgspec.DecodeError as error:
        raise Refusal(
            f"{where}: {error}",
            "each line is {slot, name, cluster_size, description, references:[{score, text}]}",
        ) from error
    if not criterion.name.strip() or "\n" in criterion.name:
        raise Refusal(f"{where}: slot {criterion.slot} has no usable name", "a name is one line of text")
    if any(not 0 <= reference.score <= 10 for reference in criterion.references):
        raise Refusal(f"{where}: a reference score is outside 0–10", "scores are on MIRA's scale of 0 to 10")
    return criterion
