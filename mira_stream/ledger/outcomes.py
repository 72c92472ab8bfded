"""The stored outcomes: received, and not published yet."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Backlog
from mira_stream.control.sealing import Stored
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import Received
from mira_stream.ledger.objects import Objects
from mira_stream.ledger.partitions import Partitions
from mira_stream.ledger.spans import PublishedSpans

_LAST = 2**63 - 1


class Outcomes:
    """The rows of `outcomes`; every method runs inside a transaction of the writer thread."""

    def __init__(
        self, db: sqlite3.Connection, objects: Objects, spans: PublishedSpans, partitions: Partitions
    ) -> None:
        self._db = db
        self._objects = objects
        self._spans = spans
        self._partitions = partitions

    def receive(self, received: Sequence[Received], now: float) -> list[bool]:
        """Store what is neither received nor published; for each whether it is stored now."""
        object_ids = {
            version: self._objects.id_of(version) for version in {one.key.version for one in received}
        }
        partition_ids = {name: self._partitions.id_of(name) for name in {one.partition for one in received}}
        stored = [
            self._store(one, object_ids[one.key.version], partition_ids[one.partition], now)
            for one in received
        ]
        counts = Counter(
            object_ids[one.key.version]
            for one, is_new in zip(received, stored, strict=True)
            if is_new and one.key.generation == 0
        )
        for object_id, count in counts.items():
            self._objects.count_received(object_id, count)
            self._objects.settle(object_id)
        return stored

    def _store(self, one: Received, object_id: int, partition_id: int, now: float) -> bool:
        key = one.key
        if self._spans.holds(object_id, key.generation, key.ordinal):
            return False
        row = (
            object_id,
            key.generation,
            key.ordinal,
            partition_id,
            now,
            len(one.encoded),
            one.outcome.value,
            one.reason.value if one.reason else None,
            one.encoded,
        )
        done = self._db.execute(
            "INSERT INTO outcomes (object, generation, ordinal, partition, received_at, size, outcome, reason, encoded)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (object, generation, ordinal) DO NOTHING",
            row,
        )
        return done.rowcount == 1

    def of_partition(self, partition_id: int, through: int = _LAST) -> Iterator[Stored]:
        """The outcomes of a partition in order of receipt up to number `through`, read as they are taken."""
        name = self._partitions.name_of(partition_id)
        found = self._db.execute(
            "SELECT id, object, ordinal, generation, outcome, reason, encoded"
            " FROM outcomes INDEXED BY outcomes_by_partition WHERE partition = ? AND id <= ? ORDER BY id",
            (partition_id, through),
        )
        versions: dict[int, ObjectVersion] = {}
        for number, object_id, ordinal, generation, outcome, reason, encoded in found:
            version = versions.get(object_id)
            if version is None:
                version = versions[object_id] = self._objects.version_of(object_id)
            key = RecordKey(version, ordinal, generation)
            why = Reason(reason) if reason else None
            yield Stored(number, Received(name, key, Outcome(outcome), why, encoded))

    def drop_sealed(self, partition_id: int, *, through: int, held: str) -> None:
        """Delete the rows of a sealed plan; `held` is a JSON list of those that are not in it."""
        dropped = self._db.execute(
            "DELETE FROM outcomes WHERE partition = ? AND id <= ? AND id NOT IN (SELECT value FROM json_each(?))"
            " RETURNING object, generation",
            (partition_id, through, held),
        )
        counts = Counter(object_id for object_id, generation in dropped if generation == 0)
        for object_id, count in counts.items():
            self._objects.count_received(object_id, -count)

    def drop_unsealed(self, object_id: int, generation: int, spans: IntervalSet) -> list[int]:
        """Delete stored outcomes with these ordinals, but none of a sealed plan: such a plan never changes.

        Returns the ordinals deleted.
        """
        return [one.key.ordinal for one in self.take_published(object_id, generation, spans)]

    def take_published(self, object_id: int, generation: int, spans: IntervalSet) -> list[Received]:
        """As `drop_unsealed`; returns what was deleted, without the encoded rows."""
        dropped = [
            row for start, stop in spans.spans for row in self._unsealed(object_id, generation, start, stop)
        ]
        if not dropped:
            return []
        self._db.executemany("DELETE FROM outcomes WHERE id = ?", [(number,) for number, *_ in dropped])
        if generation == 0:
            self._objects.count_received(object_id, -len(dropped))
        version = self._objects.version_of(object_id)
        return [
            Received(
                self._partitions.name_of(partition),
                RecordKey(version, ordinal, generation),
                Outcome(outcome),
                Reason(reason) if reason else None,
                b"",
            )
            for _, ordinal, partition, outcome, reason in dropped
        ]

    def _unsealed(
        self, object_id: int, generation: int, start: int, stop: int
    ) -> Iterable[tuple[int, int, int, str, str | None]]:
        return self._db.execute(
            "SELECT o.id, o.ordinal, o.partition, o.outcome, o.reason FROM outcomes AS o LEFT JOIN plans AS p USING (partition)"
            " WHERE o.object = ? AND o.generation = ? AND o.ordinal >= ? AND o.ordinal < ?"
            " AND (p.seq IS NULL OR o.id > p.through OR o.id IN (SELECT value FROM json_each(p.held)))",
            (object_id, generation, start, stop),
        ).fetchall()

    # What waits.

    def received(self, object_id: int, generation: int) -> IntervalSet:
        """The ordinals of an object that are stored in that generation."""
        found = self._db.execute(
            "SELECT ordinal FROM outcomes WHERE object = ? AND generation = ?", (object_id, generation)
        )
        return IntervalSet.from_ordinals(n for (n,) in found)

    def keys(self) -> list[RecordKey]:
        """The keys of all stored outcomes, in order of receipt."""
        found = self._db.execute(
            "SELECT b.uri, b.etag, o.ordinal, o.generation FROM outcomes AS o"
            " JOIN objects AS b ON b.id = o.object ORDER BY o.id"
        )
        return [
            RecordKey(ObjectVersion(uri, etag), ordinal, generation)
            for uri, etag, ordinal, generation in found
        ]

    def backlogs(self, opened_at: float, opened_with: int) -> list[Backlog]:
        """What waits per partition; outcomes up to number `opened_with` wait since `opened_at`."""
        found = self._db.execute(
            "SELECT p.name, w.rows, w.bytes, w.first, (SELECT received_at FROM outcomes WHERE id = w.first),"
            " EXISTS (SELECT 1 FROM plans WHERE partition = p.id)"
            " FROM (SELECT partition, count(*) AS rows, sum(size) AS bytes, min(id) AS first"
            "       FROM outcomes GROUP BY partition) AS w JOIN partitions AS p ON p.id = w.partition ORDER BY w.first"
        )
        return [
            Backlog(name, rows, size, opened_at if first <= opened_with else received_at, bool(sealed))
            for name, rows, size, first, received_at, sealed in found
        ]

    def last_number(self) -> int:
        """The number of the outcome received last, 0 if none waits."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM outcomes").fetchone()
        assert isinstance(last, int)
        return last
