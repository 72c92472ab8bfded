"""The tables of the ledger, and how its file is opened, recognised and found sound."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import IntEnum
from pathlib import Path

from mira_stream.core.errors import Refusal
from mira_stream.ledger import files, partitions
from mira_stream.ledger.settings import LedgerSettings

VERSION = 1
_APPLICATION_ID = 0x4D495241  # "MIRA"
_PAGE_BYTES = 16 << 10  # a row of some kilobytes wastes less of a page, and commits write fewer of them
_WAL_BYTES_KEPT = 64 << 20
_LOCK_WAIT_SECONDS = 10.0


class State(IntEnum):
    """Where an object stands. Kept in the file: never renumber."""

    UNSEEN = 0  # known from a trailer or an outcome only, until a listing shows it
    PENDING = 1  # to be read
    POSTPONED = 2  # read and not settled: to be read when a listing shows it again
    ENDED = 3  # read to its end by this process, some of its rows not received yet
    FINISHED = 4  # read to its end, all rows received


_TABLES = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- One object version; ids are in order of the first sight of it, in a listing or a trailer. What only reading needs
-- is NULL before and after it.
-- published and received count its rows of generation 0 in the sink, and stored here. late: all rows are
-- published, and its lines are not.
CREATE TABLE objects (
  id INTEGER PRIMARY KEY,
  uri TEXT NOT NULL,
  etag TEXT NOT NULL,
  current INTEGER NOT NULL,
  state INTEGER NOT NULL,
  superseded INTEGER NOT NULL,
  change TEXT,
  lines INTEGER,
  lines_published INTEGER NOT NULL DEFAULT 0,
  published INTEGER NOT NULL DEFAULT 0,
  received INTEGER NOT NULL DEFAULT 0,
  late INTEGER NOT NULL DEFAULT 0,
  key TEXT,
  source TEXT,
  size INTEGER,
  modified REAL,
  UNIQUE (uri, etag)
);
CREATE INDEX objects_ended ON objects (id) WHERE state = {State.ENDED.value};
CREATE INDEX objects_late ON objects (id) WHERE late;

-- What is in the sink, as disjoint spans [start, stop) that do not touch.
CREATE TABLE published (
  object INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  start INTEGER NOT NULL,
  stop INTEGER NOT NULL,
  PRIMARY KEY (object, generation, start)
) WITHOUT ROWID;

CREATE TABLE partitions (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  next_seq INTEGER NOT NULL DEFAULT 0
);

-- Outcomes that are not published; ids are in order of receipt, and never used again.
CREATE TABLE outcomes (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  object INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,
  partition INTEGER NOT NULL,
  received_at REAL NOT NULL,
  size INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  reason TEXT,
  encoded BLOB NOT NULL,
  UNIQUE (object, generation, ordinal)
);
CREATE INDEX outcomes_by_partition ON outcomes (partition, id, size);

-- The sealed plan of a partition: its outcomes up to id `through`, without those in `held`.
CREATE TABLE plans (
  partition INTEGER PRIMARY KEY,
  seq INTEGER NOT NULL,
  through INTEGER NOT NULL,
  held TEXT NOT NULL,
  trailer TEXT NOT NULL
);
"""
# Not among the tables: a file of this form may have been made without it.
_PENDING_INDEX = (
    "CREATE INDEX IF NOT EXISTS objects_pending_by_source ON objects (source, id)"
    f" WHERE state = {State.PENDING.value}"
)


@contextmanager
def open_writer(
    path: Path, settings: LedgerSettings, *, is_checked: Callable[[], bool]
) -> Iterator[sqlite3.Connection]:
    """The connection of the writer thread, on a sound file of this schema. Raises Refusal, or SQLite's own errors.

    `is_checked` tells whether every page is known to be as it was written, and raises if one is not.
    """
    with closing(_connect(path)) as db:
        is_new = _is_new(db, path)
        for pragma in (
            f"page_size = {_PAGE_BYTES}",  # takes effect in a new file only
            "journal_mode = WAL",
            "synchronous = FULL",  # a commit survives power loss, not only the end of the process
            f"journal_size_limit = {_WAL_BYTES_KEPT}",
            "wal_autocheckpoint = 0",  # the log is folded in where the sums of pages are kept
            "temp_store = MEMORY",
        ):
            db.execute(f"PRAGMA {pragma}")
        if is_new:
            # One transaction, so that a process killed here leaves a file that is still empty.
            identity = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {VERSION};"
            db.executescript(f"BEGIN; {_TABLES} {identity} COMMIT;")
        elif not is_checked():
            _check(db)
        _bound_cache(db, settings)
        db.execute(_PENDING_INDEX)
        db.execute(files.TABLE)
        db.execute(files.HOT_INDEX)
        db.execute(partitions.TABLE)
        yield db


@contextmanager
def open_reader(path: Path, settings: LedgerSettings) -> Iterator[sqlite3.Connection]:
    """A connection for quick look-ups beside the writer's."""
    with closing(_connect(path)) as db:
        _bound_cache(db, settings)
        db.execute("PRAGMA query_only = ON")
        yield db


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False)


def _bound_cache(db: sqlite3.Connection, settings: LedgerSettings) -> None:
    """Only once the file has its pages: SQLite counts the cache in pages of the size known by then, and a new file's
    are taken for a quarter of what they are to be."""
    db.execute(f"PRAGMA cache_size = -{settings.cache_bytes >> 10}")


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is empty; raises Refusal, before anything is changed, if it is not a ledger of this release."""
    if _pragma(db, "application_id") == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return True
    if _pragma(db, "application_id") != _APPLICATION_ID:
        raise Refusal(
            f"{path} is a database of another program", "give ledger.path the name of a file of its own"
        )
    version = _pragma(db, "user_version")
    if version != VERSION:
        raise Refusal(
            f"the ledger {path} has form {version}; this release reads form {VERSION}",
            "run the release that wrote it until all is published, then move the ledger away: "
            "progress is rebuilt from the sink",
        )
    return False


def _check(db: sqlite3.Connection) -> None:
    """Raises SQLite's own error if the file is damaged; reads all of it."""
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(str(found))


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    assert isinstance(value, int)
    return value
