"""What is remembered of local files beside their progress: how they began, and whether they may still change."""

import sqlite3

from mira_stream.core.sight import FileSight, Prefix

# Not among the tables: a ledger of this form may have been made without it. prefix: what was read of the file.
# hot: it may still be written to, so every listing shows it. closed: it was overwritten or vanished, and has its
# closing row. rotated: it took the place of another file, which is kept beside it.
TABLE = """
CREATE TABLE IF NOT EXISTS files (
  object INTEGER PRIMARY KEY,
  prefix_bytes INTEGER,
  prefix_digest TEXT,
  hot INTEGER NOT NULL DEFAULT 0,
  closed INTEGER NOT NULL DEFAULT 0,
  rotated INTEGER NOT NULL DEFAULT 0
)"""
HOT_INDEX = "CREATE INDEX IF NOT EXISTS files_hot ON files (object) WHERE hot"


class Files:
    """The rows of `files`; every method runs inside a transaction of the writer thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def saw(self, object_id: int, sight: FileSight, *, hot: bool) -> None:
        """A reading came to what is its end by now."""
        prefix = sight.prefix
        self._put(object_id)
        self._db.execute(
            "UPDATE files SET hot = :hot, closed = max(closed, :closed),"
            " prefix_bytes = coalesce(:bytes, prefix_bytes), prefix_digest = coalesce(:digest, prefix_digest)"
            " WHERE object = :id",
            {
                "id": object_id,
                "hot": hot,
                "closed": sight.closed,
                "bytes": prefix and prefix.bytes,
                "digest": prefix and prefix.digest,
            },
        )

    def postpone(self, object_id: int, sight: FileSight | None) -> None:
        """A reading came to no end; without a sight the file is gone, and a listing without it says nothing new."""
        if sight is None:
            self.cool(object_id)
        else:
            self.saw(object_id, sight, hot=True)

    def rotate(self, object_id: int) -> None:
        """It took the place of another file."""
        self._put(object_id)
        self._db.execute("UPDATE files SET rotated = 1 WHERE object = ?", (object_id,))

    def cool(self, object_id: int) -> None:
        """It is quiet: a listing need not show it again."""
        self._db.execute("UPDATE files SET hot = 0 WHERE object = ?", (object_id,))

    def forget(self, object_id: int) -> None:
        """Its version is forgotten."""
        self._db.execute("DELETE FROM files WHERE object = ?", (object_id,))

    def hot(self) -> set[int]:
        """All that may still be written to; as many as are written to at a time."""
        return {object_id for (object_id,) in self._db.execute("SELECT object FROM files WHERE hot")}

    def is_hot(self, object_id: int) -> bool:
        """Whether it may still be written to."""
        return self._flags(object_id)[0]

    def is_closed(self, object_id: int) -> bool:
        """Whether it has its closing row, and nothing may follow that."""
        return self._flags(object_id)[1]

    def is_rotated(self, object_id: int) -> bool:
        """Whether it took the place of another file."""
        return self._flags(object_id)[2]

    def prefix(self, object_id: int) -> Prefix | None:
        """How the file began when it was read."""
        found = self._db.execute(
            "SELECT prefix_bytes, prefix_digest FROM files WHERE object = ? AND prefix_bytes IS NOT NULL",
            (object_id,),
        ).fetchone()
        return Prefix(*found) if found else None

    def _put(self, object_id: int) -> None:
        self._db.execute("INSERT INTO files (object) VALUES (?) ON CONFLICT DO NOTHING", (object_id,))

    def _flags(self, object_id: int) -> tuple[bool, bool, bool]:
        found = self._db.execute("SELECT hot, closed, rotated FROM files WHERE object = ?", (object_id,))
        hot, closed, rotated = found.fetchone() or (0, 0, 0)
        return bool(hot), bool(closed), bool(rotated)
