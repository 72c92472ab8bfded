"""Local files that lose their names: what came to them after they were read last is looked for."""

import sqlite3
from collections.abc import Set as AbstractSet

from mira_stream.core.record import ObjectVersion
from mira_stream.core.sight import SeenObject
from mira_stream.ledger.files import Files
from mira_stream.ledger.schema import State


class Rotations:
    """Works on `objects` by what `files` remembers; every method runs inside a transaction of the writer thread."""

    def __init__(self, db: sqlite3.Connection, files: Files) -> None:
        self._db = db
        self._files = files
        self._not_shown: set[int] = set()  # what the listing that goes on should show, and has not yet

    def begin_listing(self) -> None:
        """Everything is listed from now on: what may still be written to is waited for."""
        self._not_shown = self._files.hot()

    def shown(self, object_id: int) -> None:
        """A listing shows it."""
        self._not_shown.discard(object_id)

    def end_listing(self, in_hand: AbstractSet[int]) -> None:
        """What was not shown has lost its name: pending once more, unless it is being read."""
        for object_id in self._not_shown - in_hand:
            self._db.execute(
                "UPDATE objects SET state = ? WHERE id = ? AND state IN (?, ?) AND key IS NOT NULL",
                (State.PENDING, object_id, State.POSTPONED, State.FINISHED),
            )
        self._not_shown = set()

    def is_rotated(self, seen: SeenObject) -> bool:
        """Whether what had this name is kept beside it, so that this is no other version of the same but the next."""
        found = self._had_the_name(seen.version.uri)
        if found is None:
            return False
        object_id, etag, is_unread = found
        is_kept = any(one.etag == etag for one in seen.beside)
        # An empty file may have had the name in between, and is gone without a trace.
        return is_kept or (bool(is_unread) and self._files.is_rotated(object_id))

    def between(self, seen: SeenObject) -> list[ObjectVersion]:
        """What had this name after the one that we know and before this, and is kept beside: nobody has seen it yet.

        It looks as what we know does where that is kept now: any other file beside may be something else.
        """
        found = self._had_the_name(seen.version.uri)
        kept = next((one for one in seen.beside if found is not None and one.etag == found[1]), None)
        if kept is None:
            return []
        return [
            ObjectVersion(seen.version.uri, one.etag)
            for one in seen.beside
            if one.is_newer and one.shape == kept.shape and one.etag not in (kept.etag, seen.version.etag)
        ]

    def _had_the_name(self, uri: str) -> tuple[int, str, int] | None:
        """Id and etag of the version that a listing has shown last under a uri, and whether nothing is known of it."""
        found: tuple[int, str, int] | None = self._db.execute(
            "SELECT id, etag, published + received + lines_published = 0 FROM objects WHERE uri = ?"
            " ORDER BY current DESC, id DESC LIMIT 1",
            (uri,),
        ).fetchone()
        return found

    def read_beside(self, seen: SeenObject) -> None:
        """What was appended to a file before its rotation, and after it was read, is read where it is now."""
        for one in seen.beside:
            self._db.execute(
                "UPDATE objects SET state = :pending, change = :change, key = :key, source = :source, size = :size,"
                " modified = :modified WHERE uri = :uri AND etag = :etag AND NOT superseded"
                " AND change IS NOT :change AND state <> :ended",
                {
                    "pending": State.PENDING,
                    "ended": State.ENDED,
                    "change": one.change,
                    "key": seen.key,
                    "source": seen.source,
                    "size": seen.size,
                    "modified": seen.modified,
                    "uri": seen.version.uri,
                    "etag": one.etag,
                },
            )
