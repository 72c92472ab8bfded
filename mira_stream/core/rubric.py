"""The rubric: what a group's records are judged by, and the fingerprint that travels with every row."""

from hashlib import blake2b

import msgspec


class Anchor(msgspec.Struct, frozen=True):
    """One scored example: what a record that deserves `score` (0–10) looks like."""

    score: float
    text: str


class Criterion(msgspec.Struct, frozen=True):
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
