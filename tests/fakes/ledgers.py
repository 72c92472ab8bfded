"""Ledgers, sights of objects and outcomes for tests."""

import itertools
from pathlib import Path

from mira_stream.control.sealing import RollLimits
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.core.outcome import Reason, outcome_of
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import ObjectLines, ObjectRange, PublishedKey, Received, Trailer
from mira_stream.core.sight import SeenObject
from mira_stream.ledger.objects import OnOverwrite
from mira_stream.ledger.settings import LedgerSettings
from mira_stream.ledger.sqlite import SqliteLedger

SINK = "s3://lake/scores"
ONE = "source=one/shard=00"
TWO = "source=two/shard=00"
ROLL = RollLimits(records=1_000, bytes=1 << 20)


def open_ledger(
    path: Path,
    *,
    sink_uri: str = SINK,
    roll: RollLimits = ROLL,
    on_overwrite: OnOverwrite = "first",
    failpoint: Failpoint = inert,
) -> SqliteLedger:
    """A ledger whose clock ticks by one second each time it is read, from 100 on."""
    ticks = itertools.count(100)
    return SqliteLedger.open(
        path,
        sink_uri=sink_uri,
        settings=LedgerSettings(),
        roll=roll,
        on_overwrite=on_overwrite,
        clock=lambda: float(next(ticks)),
        failpoint=failpoint,
    )


def version(name: str, etag: str = "e1", *, scheme: str = "s3://lake") -> ObjectVersion:
    """A version of the object of that name."""
    return ObjectVersion(f"{scheme}/raw/{name}", etag)


def seen(one: ObjectVersion, change: str | None = None) -> SeenObject:
    """A sight of it; its change mark is the etag unless given."""
    return SeenObject(one, one.uri.rpartition("/")[2], "one", 10, 1.5, change or one.etag)


def outcome(
    one: ObjectVersion,
    ordinal: int,
    *,
    partition: str = ONE,
    generation: int = 0,
    reason: Reason | None = None,
    size: int = 0,
) -> Received:
    """An outcome as the pipeline hands it over; `size` pads the encoded row."""
    text = f'{{"object":"{one.uri}","etag":"{one.etag}","ordinal":{ordinal},"generation":{generation}}}'
    key = RecordKey(one, ordinal, generation)
    return Received(partition, key, outcome_of(reason), reason, text.ljust(size).encode())


def outcomes(one: ObjectVersion, start: int, stop: int, *, partition: str = ONE) -> list[Received]:
    """Outcomes of the ordinals `[start, stop)`."""
    return [outcome(one, ordinal, partition=partition) for ordinal in range(start, stop)]


def rival_trailer(
    one: ObjectVersion, *spans: tuple[int, int], seq: int = 0, partition: str = ONE, lines: int | None = None
) -> Trailer:
    """The trailer of a segment that somebody else published."""
    ends = () if lines is None else (ObjectLines(one.uri, one.etag, lines),)
    return Trailer(partition, seq, "f" * 32, (ObjectRange(one.uri, one.etag, 0, spans),), ends)


def rival_rows(one: ObjectVersion, *ordinals: int) -> list[PublishedKey]:
    """The rows of such a segment."""
    return [PublishedKey(one, n, 0, RecordKey(one, n).record_id, outcome_of(None), None) for n in ordinals]
