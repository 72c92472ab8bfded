"""The reliability mask: which (source, slot) cells of a student's scores are trusted, and where that is known from."""

from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mira_stream.core.errors import Refusal
from mira_stream.core.row import SLOTS

FORMAT = "mira_stream.mask"
VERSION = 1
Interval = tuple[float, float]


class Trust(StrEnum):
    """What is held of a cell."""

    KEPT = "kept"
    MASKED = "masked"
    UNKNOWN = "unknown"


class Policy(StrEnum):
    """What an unknown cell counts as."""

    KEEP = "keep"
    MASK = "mask"


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cell must reach. The defaults are this project's own: MIRA's are not public.

    Args:
        mae_max: largest mean absolute error against the teacher, on the scale of 0 to 10.
        spearman_min: least rank correlation with the teacher.
        pairs_min: least number of records that both have scored; below it a cell is unknown.
    """

    mae_max: Annotated[float, Meta(ge=0)] = 1.5
    spearman_min: Annotated[float, Meta(ge=-1, le=1)] = 0.3
    pairs_min: Annotated[int, Meta(ge=2)] = 30


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One slot of one source: what is held of it, why, and the figures that say so.

    A figure is null where it is not defined: all of them without a pair, `spearman` where teacher or student gives one
    score throughout. `bias` is student minus teacher. Intervals are of the bootstrap, at the mask's confidence.
    """

    source: str
    slot: str
    trust: Trust
    why: tuple[str, ...] = ()
    pairs: int
    mae: float | None = None
    mae_interval: Interval | None = None
    spearman: float | None = None
    spearman_interval: Interval | None = None
    bias: float | None = None
    bias_interval: Interval | None = None


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the intervals were made."""

    resamples: Annotated[int, Meta(ge=1)] = 1000
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    seed: Annotated[int, Meta(ge=0)] = 7


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was read: `blake2b` is over the names below it and the bytes of its files."""

    role: str
    files: int
    bytes: int
    blake2b: str


class Pairing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How teacher and student met, in records."""

    paired: int
    teacher_only: int
    student_only: int


class Mask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mask file. Its cells are sorted by source and slot; a source that it does not name is unknown throughout."""

    format: Literal["mira_stream.mask"] = "mira_stream.mask"
    version: Literal[1] = 1
    group: str | None
    rubric_fingerprint: str
    unknown: Policy
    thresholds: Thresholds
    bootstrap: Bootstrap
    inputs: tuple[Input, ...]
    pairing: Pairing
    cells: tuple[Cell, ...]

    @property
    def fingerprint(self) -> str:
        """blake2b-128, hex, of all of it."""
        return blake2b(msgspec.json.encode(self), digest_size=16).hexdigest()

    def masked_slots(self) -> dict[str, frozenset[str]]:
        """By source, the slots that do not count."""
        bad = {Trust.MASKED, Trust.UNKNOWN} if self.unknown is Policy.MASK else {Trust.MASKED}
        found: dict[str, set[str]] = {cell.source: set() for cell in self.cells}
        if self.unknown is Policy.MASK:  # a slot that the file leaves out is unknown too
            named = {(cell.source, cell.slot) for cell in self.cells}
            for source, slots in found.items():
                slots.update(slot for slot in SLOTS if (source, slot) not in named)
        for cell in self.cells:
            if cell.trust in bad:
                found[cell.source].add(cell.slot)
        return {source: frozenset(slots) for source, slots in found.items()}


class _Head(msgspec.Struct, frozen=True):
    format: str | None = None
    version: int | None = None


def parse_mask(data: bytes, name: str) -> Mask:
    """A mask file. `name` is the file's, for messages; raises Refusal."""
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            raise Refusal(f"{name} is not a mask", "`mira-stream reliability` writes them")
        if head.version != VERSION:
            raise Refusal(
                f"{name} is a mask of version {head.version}, and {VERSION} is understood here",
                "make it anew with this version's `mira-stream reliability`",
            )
        mask = msgspec.json.decode(data, type=Mask)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(f"{name}: {error}", "make it anew with `mira-stream reliability`") from error
    places = [(cell.source, cell.slot) for cell in mask.cells]
    if len(set(places)) != len(places):
        raise Refusal(f"{name} names a cell twice", "make it anew with `mira-stream reliability`")
    if strange := sorted({slot for _, slot in places} - set(SLOTS)):
        raise Refusal(f"{name} has a slot {strange[0]}", f"slots are {SLOTS[0]} to {SLOTS[-1]}")
    return mask


def encode_mask(mask: Mask) -> bytes:
    """The file, indented, with a line end; the same mask gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(mask), indent=1) + b"\n"
