"""Rows, plans and whole sinks for tests, made the way the ledger makes them."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from mira_stream.core.outcome import Reason, outcome_of
from mira_stream.core.partition import partition_name
from mira_stream.core.record import ObjectVersion, RecordKey, record_id
from mira_stream.core.row import Row, Scores, encode_row, row_digest
from mira_stream.core.segment import ObjectLines, ObjectRange, Plan, Received, Trailer, plan_id

A = ObjectVersion("s3://lake/raw/claude_cli/a.jsonl.zst", "etag-a")
PARTITION = partition_name("claude_cli", A.uri, 1)
BRIEF = "简短 — «naïve» \U0001f600 \\n 'quotes\""


def row(version: ObjectVersion, ordinal: int, **columns: object) -> Row:
    """A scored row, or another one if `reason` is among the columns."""
    reason = columns.pop("reason", None)
    assert reason is None or isinstance(reason, Reason)
    defaults: dict[str, object] = {
        "scores": Scores(A1=7.5, A15=float(ordinal % 11)) if reason is None else Scores(),
        "overall": 72.0 if reason is None else None,
        "training_recommendation": "keep" if reason is None else None,
        "brief": BRIEF,
    }
    return Row(
        record_id=record_id(version.uri, version.etag, ordinal),
        generation=columns.pop("generation", 0),
        source="claude_cli",
        group="agent/A",
        object=version.uri,
        etag=version.etag,
        ordinal=ordinal,
        outcome=outcome_of(reason),
        reason=reason,
        scored_at="2026-01-01T00:00:00Z",
        **{**defaults, **columns},
    )


def received(a_row: Row, partition: str = PARTITION) -> Received:
    """What the ledger would store of a row."""
    version = ObjectVersion(a_row.object, a_row.etag)
    key = RecordKey(version, a_row.ordinal, a_row.generation)
    return Received(partition, key, a_row.outcome, a_row.reason, encode_row(a_row))


def plan(
    rows: Sequence[Row],
    *,
    seq: int = 0,
    partition: str = PARTITION,
    lines: Iterable[tuple[ObjectVersion, int]] = (),
) -> Plan:
    """A sealed plan of those rows, in that order."""
    stored = tuple(received(r, partition) for r in rows)
    digests = [(r.record_id, r.generation, row_digest(s.encoded)) for r, s in zip(rows, stored, strict=True)]
    ended = tuple(ObjectLines(version.uri, version.etag, count) for version, count in lines)
    return Plan(Trailer(partition, seq, plan_id(digests), ranges(rows), ended), stored)


def ranges(rows: Iterable[Row]) -> tuple[ObjectRange, ...]:
    """The ranges of rows, spans merged."""
    keys = sorted({(r.object, r.etag, r.generation, r.ordinal) for r in rows})
    return tuple(
        ObjectRange(*held, _spans([key[3] for key in group]))
        for held, group in groupby(keys, key=lambda key: key[:3])
    )


def _spans(ordinals: Sequence[int]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for ordinal in ordinals:
        if spans and spans[-1][1] == ordinal:
            spans[-1] = (spans[-1][0], ordinal + 1)
        else:
            spans.append((ordinal, ordinal + 1))
    return tuple(spans)
