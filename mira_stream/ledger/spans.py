"""The published ordinals of every object, as merged spans in a table: never all of them in memory."""

import sqlite3

from mira_stream.control.intervals import IntervalSet


class PublishedSpans:
    """Disjoint spans that do not touch, per (object, generation); every step is logarithmic in their number."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def holds(self, object_id: int, generation: int, ordinal: int) -> bool:
        """Whether that ordinal is published."""
        found = self._db.execute(
            "SELECT stop FROM published WHERE object = ? AND generation = ? AND start <= ?"
            " ORDER BY start DESC LIMIT 1",
            (object_id, generation, ordinal),
        ).fetchone()
        return found is not None and found[0] > ordinal

    def load(self, object_id: int, generation: int = 0) -> IntervalSet:
        """All of them, for one object."""
        found = self._db.execute(
            "SELECT start, stop FROM published WHERE object = ? AND generation = ? ORDER BY start",
            (object_id, generation),
        )
        return IntervalSet(tuple(found))

    def covers(self, object_id: int, count: int) -> bool:
        """Whether `[0, count)` of generation 0 is published."""
        found = self._db.execute(
            "SELECT stop FROM published WHERE object = ? AND generation = 0 AND start = 0", (object_id,)
        ).fetchone()
        return count == 0 or (found is not None and found[0] >= count)

    def any(self, object_id: int) -> bool:
        """Whether anything of that object is published, in any generation."""
        found = self._db.execute("SELECT 1 FROM published WHERE object = ? LIMIT 1", (object_id,))
        return found.fetchone() is not None

    def add(self, object_id: int, generation: int, start: int, stop: int) -> int:
        """Put `[start, stop)` in; returns how many of them were not in yet."""
        assert 0 <= start < stop, (start, stop)
        before = 0
        low, high = start, stop
        for from_, to in self._touching(object_id, generation, start, stop):
            before += to - from_
            low, high = min(low, from_), max(high, to)
            self._db.execute(
                "DELETE FROM published WHERE object = ? AND generation = ? AND start = ?",
                (object_id, generation, from_),
            )
        self._db.execute("INSERT INTO published VALUES (?, ?, ?, ?)", (object_id, generation, low, high))
        return high - low - before

    def _touching(self, object_id: int, generation: int, start: int, stop: int) -> list[tuple[int, int]]:
        """The spans that share an ordinal with `[start, stop)` or a border with it."""
        found = self._db.execute(
            "SELECT start, stop FROM published WHERE object = :object AND generation = :generation"
            " AND start <= :stop AND stop >= :start AND start >= coalesce(("
            "  SELECT max(start) FROM published"
            "  WHERE object = :object AND generation = :generation AND start <= :start), :start)",
            {"object": object_id, "generation": generation, "start": start, "stop": stop},
        )
        return found.fetchall()
