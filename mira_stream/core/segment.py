"""Plans and trailers: what a segment holds, as values that the ledger, the sink and an auditor agree on."""

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion, RecordKey

Span = tuple[int, int]
"""A half-open range of ordinals, `[from, to)`."""


class Received(msgspec.Struct, frozen=True):
    """An outcome, encoded and ready to be made durable: one row of a coming segment.

    Args:
        partition: the chain that will publish it.
        key: the record and its generation.
        outcome: how the record ended; `reason` says why if it was not scored.
        encoded: the row as JSON without `segment` (`core.row.encode_row`).
    """

    partition: str
    key: RecordKey
    outcome: Outcome
    reason: Reason | None
    encoded: bytes


class ObjectRange(msgspec.Struct, frozen=True, array_like=True):
    """Which ordinals of one object version, in one generation, a segment holds."""

    uri: str
    etag: str
    generation: int
    spans: tuple[Span, ...]


class ObjectLines(msgspec.Struct, frozen=True, array_like=True):
    """An object whose end was read: `count` rows in all, a closing dead letter included."""

    uri: str
    etag: str
    count: int


class Trailer(msgspec.Struct, frozen=True):
    """What a segment says about itself; `chains` of these are enough to rebuild all progress."""

    partition: str
    seq: int
    plan_id: str
    ranges: tuple[ObjectRange, ...]
    lines: tuple[ObjectLines, ...] = ()


class Cumulated(msgspec.Struct, frozen=True, array_like=True):
    """What one chain holds of an object version in one generation, up to a checkpoint; `lines` as in a trailer."""

    uri: str
    etag: str
    generation: int
    spans: tuple[Span, ...]
    lines: int | None = None


class Plan(msgspec.Struct, frozen=True):
    """A sealed plan: the ordered rows of the segment (partition, seq), and its trailer.

    It is durable before anything is published, and never changes afterwards.
    """

    trailer: Trailer
    rows: tuple[Received, ...]

    @property
    def partition(self) -> str:
        return self.trailer.partition

    @property
    def seq(self) -> int:
        return self.trailer.seq

    @property
    def plan_id(self) -> str:
        return self.trailer.plan_id


class PublishedKey(msgspec.Struct, frozen=True):
    """One row of a published segment, as far as adoption and audit need it."""

    version: ObjectVersion
    ordinal: int
    generation: int
    record_id: str
    outcome: Outcome
    reason: Reason | None


def plan_id(rows: Iterable[tuple[str, int, str]]) -> str:
    """blake2b-128, hex, over the ordered (record_id, generation, outcome digest), never over file bytes."""
    state = blake2b(digest_size=16)
    for record_id, generation, digest in rows:
        state.update(f"{record_id} {generation} {digest}\n".encode())
    return state.hexdigest()
