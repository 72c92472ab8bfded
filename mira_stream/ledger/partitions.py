"""The chains of output: one row per partition, with its next seq and the plan of its last segment."""

import sqlite3

# Not among the tables: a ledger of this form may have been made without it. plan_id: of the segment before next_seq.
TABLE = """
CREATE TABLE IF NOT EXISTS confirmed (
  partition INTEGER PRIMARY KEY,
  plan_id TEXT NOT NULL
)"""


class Partitions:
    """The rows of `partitions` and `confirmed`; every method runs inside a transaction of the writer thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def id_of(self, name: str) -> int:
        """The id of a partition, known or new."""
        found = self._db.execute("SELECT id FROM partitions WHERE name = ?", (name,)).fetchone()
        if found is None:
            found = (self._db.execute("INSERT INTO partitions (name) VALUES (?)", (name,)).lastrowid,)
        assert isinstance(found[0], int)
        return found[0]

    def name_of(self, partition_id: int) -> str:
        """Its name."""
        (name,) = self._db.execute("SELECT name FROM partitions WHERE id = ?", (partition_id,)).fetchone()
        assert isinstance(name, str)
        return name

    def next_seq(self, partition_id: int) -> int:
        """The seq of its next segment; all before are published."""
        (seq,) = self._db.execute("SELECT next_seq FROM partitions WHERE id = ?", (partition_id,)).fetchone()
        assert isinstance(seq, int)
        return seq

    def move_on(self, partition_id: int, next_seq: int, plan_id: str | None) -> None:
        """All before `next_seq` is published, last that plan; whatever plan was sealed is done with."""
        self._db.execute("DELETE FROM plans WHERE partition = ?", (partition_id,))
        self._db.execute("UPDATE partitions SET next_seq = ? WHERE id = ?", (next_seq, partition_id))
        self._db.execute("DELETE FROM confirmed WHERE partition = ?", (partition_id,))
        if plan_id is not None:
            self._db.execute("INSERT INTO confirmed VALUES (?, ?)", (partition_id, plan_id))

    def chains(self) -> dict[str, int]:
        """For each partition the next seq."""
        return dict(self._db.execute("SELECT name, next_seq FROM partitions ORDER BY name").fetchall())

    def last_plans(self) -> dict[str, tuple[int, str]]:
        """For each partition of which it is known: the seq of its last segment, and the plan that stood there."""
        found = self._db.execute(
            "SELECT name, next_seq - 1, plan_id FROM partitions JOIN confirmed ON partition = id ORDER BY name"
        )
        return {name: (seq, plan_id) for name, seq, plan_id in found}
