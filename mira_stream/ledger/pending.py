"""What is to be read, source by source."""

import sqlite3

from mira_stream.ledger.schema import State


def pending_sources(db: sqlite3.Connection) -> list[str]:
    """The sources that have a pending object."""
    found = db.execute(
        "WITH RECURSIVE names (name) AS ("
        " SELECT min(source) FROM objects WHERE state = :pending UNION ALL"
        " SELECT (SELECT min(source) FROM objects WHERE state = :pending AND source > name) FROM names"
        " WHERE name IS NOT NULL)"
        " SELECT name FROM names WHERE name IS NOT NULL",
        {"pending": State.PENDING},
    )
    return [name for (name,) in found]


def pending_of(db: sqlite3.Connection, source: str) -> sqlite3.Cursor:
    """The pending objects of a source, in order of discovery."""
    return db.execute(
        "SELECT id, uri, etag, key, source, size, modified, change, superseded, lines FROM objects"
        " WHERE state = ? AND source = ? ORDER BY id",
        (State.PENDING, source),
    )
