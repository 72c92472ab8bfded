"""Plans and chains: seal and advance, and the adoption of what somebody else published."""

import sqlite3
from collections.abc import Sequence

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.sealing import Progress, RollLimits, Sealed, plan_id_of, seal_plan
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import ObjectLines, Plan, PublishedKey, Received, Trailer
from mira_stream.ledger.objects import Objects
from mira_stream.ledger.outcomes import Outcomes
from mira_stream.ledger.partitions import Partitions
from mira_stream.ledger.spans import PublishedSpans
from mira_stream.ports import Checkpoint

_LATE_MAX = 1_000  # ends that one trailer takes along beside its own
_encode = msgspec.json.Encoder().encode
_decode_trailer = msgspec.json.Decoder(Trailer).decode
_decode_numbers = msgspec.json.Decoder(frozenset[int]).decode

_Holding = dict[tuple[ObjectVersion, int], IntervalSet]
"""Per object version and generation, which ordinals a segment holds."""


class _Kept(msgspec.Struct, frozen=True):
    """A sealed plan as it is kept: its rows are the outcomes up to `through`, without `held` (a JSON list)."""

    trailer: Trailer
    through: int
    held: str


class Plans:
    """The rows of `plans`; every method runs inside a transaction of the writer thread."""

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        objects: Objects,
        outcomes: Outcomes,
        partitions: Partitions,
        spans: PublishedSpans,
        roll: RollLimits,
    ) -> None:
        self._db = db
        self._objects = objects
        self._outcomes = outcomes
        self._partitions = partitions
        self._spans = spans
        self._roll = roll

    # Seal.

    def seal(self, partition: str) -> Plan | None:
        """The unconfirmed plan of the partition, or a new one, or None."""
        partition_id = self._partitions.id_of(partition)
        kept = self._kept(partition_id)
        if kept is not None:
            return self._plan(kept, partition_id)
        sealed_elsewhere = self._sealed_trailers()
        sealed = seal_plan(
            partition,
            self._partitions.next_seq(partition_id),
            stored=self._outcomes.of_partition(partition_id),
            roll=self._roll,
            progress=_ProgressOf(self._objects, self._spans, sealed_elsewhere),
            late=self._late(sealed_elsewhere),
        )
        if sealed is None:
            return None
        self._keep(sealed, partition_id)
        return sealed.plan

    def _keep(self, sealed: Sealed, partition_id: int) -> None:
        trailer = sealed.plan.trailer
        self._db.execute(
            "INSERT INTO plans (partition, seq, through, held, trailer) VALUES (?, ?, ?, ?, ?)",
            (partition_id, trailer.seq, sealed.through, _text(sealed.held), _text(trailer)),
        )

    def _kept(self, partition_id: int) -> _Kept | None:
        found = self._db.execute(
            "SELECT trailer, through, held FROM plans WHERE partition = ?", (partition_id,)
        ).fetchone()
        if found is None:
            return None
        trailer, through, held = found
        return _Kept(_decode_trailer(trailer), through, held)

    def _plan(self, kept: _Kept, partition_id: int) -> Plan:
        """The plan with its rows, byte for byte as it was sealed."""
        held = _decode_numbers(kept.held)
        stored = self._outcomes.of_partition(partition_id, kept.through)
        rows = tuple(one.received for one in stored if one.number not in held)
        if plan_id_of(rows) != kept.trailer.plan_id:
            raise sqlite3.DatabaseError(f"the stored rows of {kept.trailer.partition} are not those sealed")
        return Plan(kept.trailer, rows)

    def _late(self, sealed_elsewhere: Sequence[Trailer]) -> list[ObjectLines]:
        """Ends to publish that no sealed plan carries yet."""
        late = self._objects.late(_LATE_MAX)
        carried = {end for trailer in sealed_elsewhere for end in trailer.lines} if late else set()
        return [end for end in late if end not in carried]

    def _sealed_trailers(self) -> list[Trailer]:
        return [_decode_trailer(text) for (text,) in self._db.execute("SELECT trailer FROM plans")]

    # Advance.

    def advance(self, plan: Plan) -> None:
        """The plan is published."""
        partition_id = self._partitions.id_of(plan.partition)
        if plan.seq < self._partitions.next_seq(partition_id):
            return  # said before
        kept = self._kept(partition_id)
        assert kept is not None, f"{plan.partition} {plan.seq} was never sealed"
        assert kept.trailer == plan.trailer, f"{plan.partition} {plan.seq} is not the plan that was sealed"
        self._outcomes.drop_sealed(partition_id, through=kept.through, held=kept.held)
        self._partitions.move_on(partition_id, plan.seq + 1, plan.plan_id)
        self._publish(_holding(kept.trailer, ()), kept.trailer.lines)

    def _publish(self, holding: _Holding, lines: Sequence[ObjectLines], *, adopted: bool = False) -> None:
        """Mark it published, by us or by somebody else."""
        ends = [(ObjectVersion(end.uri, end.etag), end.count) for end in lines]
        versions = {version for version, _ in holding} | {version for version, _ in ends}
        # Sorted: at a rebuild that is the order of the index, and of the listing to come.
        ids = {version: self._objects.id_of(version) for version in sorted(versions, key=_place)}
        for (version, generation), ordinals in holding.items():
            self._objects.publish(ids[version], generation, ordinals)
        for version, count in ends:
            self._objects.publish_lines(ids[version], count)
        for version, object_id in ids.items():
            self._objects.settle(object_id, version if adopted else None)

    # Adopt.

    def adopt(self, trailer: Trailer, rows: Sequence[PublishedKey]) -> list[RecordKey]:
        """Somebody else's segment stands at (partition, seq); returns the keys of our rows that it replaces."""
        partition_id = self._partitions.id_of(trailer.partition)
        next_seq = self._partitions.next_seq(partition_id)
        if trailer.seq < next_seq:
            return []
        assert trailer.seq == next_seq, f"{trailer.partition}: {trailer.seq} adopted before {next_seq}"
        # The sealed plan goes first: its rows that the rival does not have are planned anew.
        self._partitions.move_on(partition_id, trailer.seq + 1, trailer.plan_id)
        holding = _holding(trailer, rows)
        has_rows = self._outcomes.last_number() > 0  # at a rebuild there are none to look for
        dropped = [
            RecordKey(version, ordinal, generation)
            for (version, generation), ordinals in (holding.items() if has_rows else ())
            for ordinal in self._outcomes.drop_unsealed(self._objects.id_of(version), generation, ordinals)
        ]
        self._publish(holding, trailer.lines, adopted=True)
        return dropped

    def adopt_checkpoint(self, checkpoint: Checkpoint) -> list[Received]:
        """The chain up to its seq is published; returns our rows that are in there."""
        partition_id = self._partitions.id_of(checkpoint.partition)
        if checkpoint.seq < self._partitions.next_seq(partition_id):
            return []
        self._partitions.move_on(partition_id, checkpoint.seq + 1, checkpoint.plan_id(checkpoint.seq))
        has_rows = self._outcomes.last_number() > 0
        dropped: list[Received] = []
        for entry in checkpoint.entries():
            version = ObjectVersion(entry.uri, entry.etag)
            ordinals = IntervalSet.from_spans(entry.spans)
            if has_rows and ordinals:
                object_id = self._objects.id_of(version)
                dropped += self._outcomes.take_published(object_id, entry.generation, ordinals)
            held = {(version, entry.generation): ordinals} if ordinals else {}
            ends = () if entry.lines is None else (ObjectLines(entry.uri, entry.etag, entry.lines),)
            self._publish(held, ends, adopted=True)
        return dropped


class _ProgressOf:
    """How far objects are that a plan could complete; read once for each."""

    def __init__(self, objects: Objects, spans: PublishedSpans, sealed_elsewhere: Sequence[Trailer]) -> None:
        self._objects = objects
        self._spans = spans
        self._sealed_elsewhere = sealed_elsewhere
        self._read: dict[ObjectVersion, Progress | None] = {}

    def __call__(self, version: ObjectVersion) -> Progress | None:
        if version not in self._read:
            found = self._objects.completable(version)
            self._read[version] = found and self._progress(version, *found)
        return self._read[version]

    def _progress(self, version: ObjectVersion, object_id: int, lines: int) -> Progress:
        elsewhere = IntervalSet.from_spans(
            span
            for trailer in self._sealed_elsewhere
            for held in trailer.ranges
            if (held.uri, held.etag, held.generation) == (version.uri, version.etag, 0)
            for span in held.spans
        )
        return Progress(lines, self._spans.load(object_id), elsewhere)


def _holding(trailer: Trailer, rows: Sequence[PublishedKey]) -> _Holding:
    """What a segment holds: what is in the file is published, whatever its trailer says."""
    ordinals: dict[tuple[ObjectVersion, int], list[int]] = {}
    for row in rows:
        ordinals.setdefault((row.version, row.generation), []).append(row.ordinal)
    holding = {held: IntervalSet.from_ordinals(found) for held, found in ordinals.items()}
    for told in trailer.ranges:
        held = (ObjectVersion(told.uri, told.etag), told.generation)
        holding[held] = holding.get(held, IntervalSet()).union(IntervalSet.from_spans(told.spans))
    return holding


def _place(version: ObjectVersion) -> tuple[str, str]:
    return version.uri, version.etag


def _text(value: object) -> str:
    return _encode(value).decode()
