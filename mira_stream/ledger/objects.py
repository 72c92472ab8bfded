"""The objects of the ledger: which are known, which are to be read, and which are done."""

import sqlite3
from collections.abc import Callable
from heapq import merge
from typing import Any, Literal

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import PendingObject
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import ObjectLines
from mira_stream.core.sight import FileSight, SeenObject
from mira_stream.ledger.files import Files
from mira_stream.ledger.pending import pending_of, pending_sources
from mira_stream.ledger.rotations import Rotations
from mira_stream.ledger.schema import State
from mira_stream.ledger.spans import PublishedSpans

OnOverwrite = Literal["first", "each_version"]

_LOCAL = "file://"
_STATES = {
    state.value: state for state in State
}  # quicker than the enum's own look-up, for every object at a rebuild


_SELECT = (
    "SELECT id, state, superseded, change, lines, lines_published, published, received, late FROM objects"
)


class _Known(msgspec.Struct, frozen=True):
    """What is remembered of an object version."""

    id: int
    state: State
    superseded: bool
    change: str | None
    lines: int | None
    lines_published: int
    published: int
    received: int
    late: bool


class Objects:
    """The rows of `objects`; every method runs inside a transaction of the writer thread."""

    def __init__(self, db: sqlite3.Connection, spans: PublishedSpans, on_overwrite: OnOverwrite) -> None:
        self._db = db
        self._spans = spans
        self._on_overwrite = on_overwrite
        self._in_hand: set[int] = set()  # given out for reading, and neither ended nor postponed
        self._files = Files(db)
        self.rotations = Rotations(db, self._files)

    def reopen(self) -> None:
        """Another process read these to their end, and took rows on their way with it: they are read again."""
        self._db.execute(
            "UPDATE objects SET state = iif(key IS NULL, :unseen, :pending), change = iif(key IS NULL, NULL, change)"
            " WHERE state = :ended",
            {"unseen": State.UNSEEN, "pending": State.PENDING, "ended": State.ENDED},
        )

    # Discovery.

    def end_listing(self) -> None:
        """Whatever should have been shown was not: it has lost its name, and is looked for under that."""
        self.rotations.end_listing(self._in_hand)

    def discover(self, seen: SeenObject) -> bool:
        """Remember what a listing shows; whether it is new."""
        known = self._find(seen.version)
        if known is None:
            known = self._begin(seen)
        elif known.change == seen.change and known.state is not State.POSTPONED:
            self._make_current(known.id, seen.version.uri)
            self._saw_again(known, seen)
            return False
        elif known.state is State.ENDED:
            # Its rows are on their way: left as it was seen before, so that a later listing shows it again.
            return False
        self._make_current(known.id, seen.version.uri)
        self._see(known, seen)
        return known.change is None

    def _begin(self, seen: SeenObject) -> _Known:
        """A version that is new."""
        version = seen.version
        rotated = self.rotations.is_rotated(seen)
        if rotated:
            for between in self.rotations.between(seen):
                if self._find(between) is None:
                    self._files.rotate(self._insert(between, State.PENDING, superseded=False))
            self.rotations.read_beside(seen)
        else:
            self._forget_unread(version)
        superseded = not rotated and self._on_overwrite == "first" and self._has_other_version(version)
        self._insert(version, State.PENDING, superseded=superseded)
        known = self._get(version)
        if rotated:
            self._files.rotate(known.id)
        return known

    def _saw_again(self, known: _Known, seen: SeenObject) -> None:
        """Unchanged; if it is quiet now, it need not be shown again."""
        if seen.quiet and self._files.is_hot(known.id):
            self._files.cool(known.id)
            if known.state is State.FINISHED:
                self._finish(known.id)

    def _see(self, known: _Known, seen: SeenObject) -> None:
        superseded = known.superseded or self._was_superseded(known, seen.version)
        # Bytes behind one etag of an object store never change, and a refused version stays refused; a local file
        # may have grown since somebody read it to its end, so it is read again, without what is done.
        is_fixed = superseded or not seen.version.uri.startswith(_LOCAL) or self._files.is_closed(known.id)
        is_over = is_fixed and self._is_done(known)
        details: tuple[object, ...] = (seen.key, seen.source, seen.size, seen.modified)
        if is_over:
            self._in_hand.discard(known.id)
            if not self._files.is_hot(known.id):
                details = (None,) * 4
        self._db.execute(
            "UPDATE objects SET state = ?, superseded = ?, change = ?, key = ?, source = ?, size = ?, modified = ?"
            " WHERE id = ?",
            (State.FINISHED if is_over else State.PENDING, superseded, seen.change, *details, known.id),
        )

    def _was_superseded(self, known: _Known, version: ObjectVersion) -> bool:
        """Of an object known from trailers: one row in all, beside another version of the uri."""
        return (
            self._on_overwrite == "first"
            and known.state is State.UNSEEN
            and known.lines == 1
            and self._has_other_version(version)
        )

    def _forget_unread(self, version: ObjectVersion) -> None:
        """Drop versions that were overwritten before anything of them was read: the first one is the first read."""
        found = self._db.execute(
            "SELECT id FROM objects WHERE uri = ? AND etag <> ? AND published = 0 AND received = 0"
            " AND lines_published = 0 AND state <> ?",
            (version.uri, version.etag, State.ENDED),
        ).fetchall()
        for (object_id,) in found:
            if object_id not in self._in_hand and not self._has_rows(object_id):
                self._db.execute("DELETE FROM objects WHERE id = ?", (object_id,))
                self._files.forget(object_id)

    def _has_rows(self, object_id: int) -> bool:
        stored = self._db.execute("SELECT 1 FROM outcomes WHERE object = ? LIMIT 1", (object_id,))
        return stored.fetchone() is not None or self._spans.any(object_id)

    def _has_other_version(self, version: ObjectVersion) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM objects WHERE uri = ? AND etag <> ? LIMIT 1", (version.uri, version.etag)
        )
        return found.fetchone() is not None

    def _make_current(self, object_id: int, uri: str) -> None:
        self.rotations.shown(object_id)
        self._db.execute(
            "UPDATE objects SET current = (id = :id) WHERE uri = :uri AND current <> (id = :id)",
            {"id": object_id, "uri": uri},
        )

    # Reading.

    def pending(
        self, limit: int, exclude: frozenset[str], wanted: Callable[[str], bool]
    ) -> list[PendingObject]:
        """Pending objects in order of discovery, of the sources that are wanted."""
        # Source by source: any number of objects of the others may lie before them.
        found = merge(
            *(pending_of(self._db, source) for source in pending_sources(self._db) if wanted(source))
        )
        pending: list[PendingObject] = []
        for object_id, uri, etag, *details, superseded, lines in found:
            if len(pending) >= limit:
                break
            if uri in exclude:
                continue
            self._in_hand.add(object_id)
            seen = SeenObject(ObjectVersion(uri, etag), *details)
            pending.append(
                PendingObject(
                    seen,
                    self.done(object_id),
                    bool(superseded),
                    lines,
                    self._files.prefix(object_id),
                    self._files.is_closed(object_id),
                )
            )
        return pending

    def postpone(self, version: ObjectVersion, sight: FileSight | None = None) -> None:
        """Not settled: pending again when a listing shows it, or one of everything does not."""
        known = self._get(version)
        self._in_hand.discard(known.id)
        self._files.postpone(known.id, sight)
        self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (State.POSTPONED, known.id))

    def put_off(self, version: ObjectVersion) -> None:
        """Not readable: pending again as after `postpone`; whether a listing waits for it stays as it was."""
        known = self._get(version)
        self._in_hand.discard(known.id)
        self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (State.POSTPONED, known.id))

    def end(self, version: ObjectVersion, lines: int, sight: FileSight | None = None) -> None:
        """The end was read."""
        assert lines >= 0, lines
        known = self._get(version)
        self._in_hand.discard(known.id)
        if sight is not None:
            self._files.saw(known.id, sight, hot=not sight.quiet)
        self._db.execute(
            "UPDATE objects SET state = ?, lines = ? WHERE id = ?", (State.ENDED, lines, known.id)
        )
        self.settle(known.id)

    def done(self, object_id: int) -> IntervalSet:
        """The ordinals of generation 0 that are published or received."""
        found = self._db.execute(
            "SELECT ordinal FROM outcomes WHERE object = ? AND generation = 0", (object_id,)
        )
        return self._spans.load(object_id).union(IntervalSet.from_ordinals(n for (n,) in found))

    # Progress.

    def id_of(self, version: ObjectVersion) -> int:
        """The id; a version that nobody has listed is remembered as unseen."""
        known = self._find(version)
        return self._insert(version, State.UNSEEN, superseded=False) if known is None else known.id

    def find(self, version: ObjectVersion) -> int | None:
        """The id, or None for an unknown version."""
        known = self._find(version)
        return None if known is None else known.id

    def version_of(self, object_id: int) -> ObjectVersion:
        """The version of an id."""
        uri, etag = self._db.execute("SELECT uri, etag FROM objects WHERE id = ?", (object_id,)).fetchone()
        return ObjectVersion(uri, etag)

    def late(self, limit: int) -> list[ObjectLines]:
        """Ends that became known after all rows were published, and are not published."""
        found = self._db.execute("SELECT uri, etag, lines FROM objects WHERE late LIMIT ?", (limit,))
        return [ObjectLines(*row) for row in found]

    def completable(self, version: ObjectVersion) -> tuple[int, int] | None:
        """The id and the lines of an object whose rows are all published or stored, and its end not published."""
        known = self._get(version)
        if known.lines is None or known.lines <= known.lines_published:
            return None
        if known.published + known.received < known.lines:
            return None
        return known.id, known.lines

    def count_received(self, object_id: int, change: int) -> None:
        """So many more (or fewer) rows of generation 0 are stored."""
        self._db.execute("UPDATE objects SET received = received + ? WHERE id = ?", (change, object_id))

    def publish(self, object_id: int, generation: int, ordinals: IntervalSet) -> None:
        """These ordinals are in the sink."""
        added = sum(self._spans.add(object_id, generation, start, stop) for start, stop in ordinals.spans)
        if generation == 0:
            self._db.execute("UPDATE objects SET published = published + ? WHERE id = ?", (added, object_id))

    def publish_lines(self, object_id: int, count: int) -> None:
        """The sink says that the object has `count` rows; of several such words the largest counts."""
        self._db.execute(
            "UPDATE objects SET lines_published = max(lines_published, :count),"
            " lines = max(coalesce(lines, 0), :count) WHERE id = :id",
            {"id": object_id, "count": count},
        )

    def settle(self, object_id: int, adopted: ObjectVersion | None = None) -> None:
        """Work out anew whether the object is finished, and whether its lines are late.

        `adopted` is its version, if a rival has published of it: it need not even be read if nothing is missing.
        """
        known = self._by_id(object_id)
        if known.lines is None:
            return
        late = known.lines > known.lines_published and self._spans.covers(object_id, known.lines)
        if late != known.late:
            self._db.execute("UPDATE objects SET late = ? WHERE id = ?", (late, object_id))
        is_read = known.state is State.ENDED or (adopted is not None and self._can_be_left(known, adopted))
        if is_read and self._is_done(known):
            self._finish(object_id)

    def _can_be_left(self, known: _Known, version: ObjectVersion) -> bool:
        """Whether it waits to be read, and nothing can come to what it has."""
        is_open = known.state is State.PENDING and known.id not in self._in_hand
        return is_open and not version.uri.startswith(_LOCAL)

    def _is_done(self, known: _Known) -> bool:
        if known.lines is None or known.published + known.received < known.lines:
            return False  # the counts are cheap, the sets are exact
        if not known.received:
            return self._spans.covers(known.id, known.lines)
        return self.done(known.id).covers(known.lines)

    def _finish(self, object_id: int) -> None:
        """Nothing more to read; what only reading needs is dropped."""
        self._in_hand.discard(object_id)
        if self._files.is_hot(object_id):  # it may have to be read again without being shown again
            self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (State.FINISHED, object_id))
            return
        self._db.execute(
            "UPDATE objects SET state = ?, key = NULL, source = NULL, size = NULL, modified = NULL WHERE id = ?",
            (State.FINISHED, object_id),
        )

    # Rows.

    def _insert(self, version: ObjectVersion, state: State, *, superseded: bool) -> int:
        inserted = self._db.execute(
            "INSERT INTO objects (uri, etag, current, state, superseded) VALUES (?, ?, 0, ?, ?)",
            (version.uri, version.etag, state.value, superseded),
        )
        assert inserted.lastrowid is not None
        return inserted.lastrowid

    def _find(self, version: ObjectVersion) -> _Known | None:
        found = self._db.execute(f"{_SELECT} WHERE uri = ? AND etag = ?", (version.uri, version.etag))
        return _known(found.fetchone())

    def _get(self, version: ObjectVersion) -> _Known:
        known = self._find(version)
        assert known is not None, f"{version} was never discovered"
        return known

    def _by_id(self, object_id: int) -> _Known:
        known = _known(self._db.execute(f"{_SELECT} WHERE id = ?", (object_id,)).fetchone())
        assert known is not None, object_id
        return known


def _known(row: tuple[Any, ...] | None) -> _Known | None:
    if row is None:
        return None
    object_id, state, superseded, change, lines, lines_published, published, received, late = row
    return _Known(
        object_id,
        _STATES[state],
        bool(superseded),
        change,
        lines,
        lines_published,
        published,
        received,
        bool(late),
    )
