"""The row: what the sink holds for one (record, generation), and its bytes and digest.

The row is encoded once, when the outcome is received, without the `segment` column; that column is spliced in when
the segment is written, so the digest does not depend on where a row is published.
"""

from hashlib import blake2b

import msgspec

from mira_stream.core.outcome import Outcome, Reason

SLOTS: tuple[str, ...] = tuple(f"A{n}" for n in range(1, 16))

Scores = msgspec.defstruct("Scores", [(slot, float | None, None) for slot in SLOTS], frozen=True)
Rationales = msgspec.defstruct("Rationales", [(slot, str | None, None) for slot in SLOTS], frozen=True)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """All columns but `segment`, in order. Times are RFC 3339 UTC; durations are seconds; tokens are counts."""

    record_id: str
    generation: int
    source: str
    group: str | None
    object: str
    etag: str
    ordinal: int
    shape: str | None = None
    outcome: Outcome
    reason: Reason | None = None
    scores: Scores = Scores()  # type: ignore[valid-type]  # a struct made by defstruct
    rationales: Rationales = Rationales()  # type: ignore[valid-type]
    overall: float | None = None
    training_recommendation: str | None = None
    domain_tag: str | None = None
    brief: str | None = None
    missing: tuple[str, ...] = ()
    aggregate: float | None = None
    masked: tuple[str, ...] = ()
    aggregate_fingerprint: str | None = None
    rubric_fingerprint: str | None = None
    prompt_fingerprint: str | None = None
    model: str | None = None
    replica: str | None = None
    attempts: int = 0
    finish_reason: str | None = None
    truncated_tokens: int = 0
    neutralised_tokens: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    latency_seconds: float | None = None
    scored_at: str
    meta: str | None = None
    reply: str | None = None


class PublishedRow(Row, frozen=True, kw_only=True):
    """A row as it is read back from a segment."""

    segment: str


_encode = msgspec.json.Encoder().encode


def encode_row(row: Row) -> bytes:
    """`row` as compact JSON, without `segment`. Lone surrogates must have been replaced before."""
    return _encode(row)


def row_digest(encoded: bytes) -> str:
    """The outcome digest: blake2b-128, hex, of the encoded row without `segment`."""
    return blake2b(encoded, digest_size=16).hexdigest()


def with_segment(encoded: bytes, segment: str) -> bytes:
    """The published line (no 0x0A): the encoded row with its `segment` column as the last."""
    return b"%b,%b}" % (encoded[:-1], b'"segment":' + _encode(segment))
