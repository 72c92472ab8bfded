"""What SQLite and the disk complain of, translated for a person who has to mend it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mira_stream.core.errors import Refusal

_KEPT = "nothing that was received is lost"


@contextmanager
def operating_errors(path: Path) -> Iterator[None]:
    """Raises Refusal for trouble of the disk and the file; errors of ours (wrong SQL, broken constraints) stay bugs.

    After it the last transaction is not in the file, and all earlier ones are.
    """
    try:
        yield
    except (
        sqlite3.IntegrityError,
        sqlite3.ProgrammingError,
        sqlite3.InterfaceError,
        sqlite3.NotSupportedError,
    ):
        raise
    except sqlite3.DatabaseError as error:
        raise _refusal(path, error) from error
    except OSError as error:
        raise Refusal(
            f"cannot use {error.filename or path} for the ledger: {error.strerror or error}",
            "give ledger.path a folder on a local disk that this user may write to",
        ) from error


def _refusal(path: Path, error: sqlite3.DatabaseError) -> Refusal:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return Refusal(
            f"the disk that holds the ledger {path} is full", f"free some space and start again; {_KEPT}"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
        return Refusal(
            f"the ledger {path} cannot be written: {error}",
            f"make its folder and files writable for this user, on a disk mounted read-write; {_KEPT}",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Refusal(
            f"another program holds the ledger {path}: {error}",
            f"close it (an open sqlite3 shell, a backup) and start again; {_KEPT}",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Refusal(
            f"the ledger {path} is corrupt: {error}",
            f"move {path.name}, {path.name}-wal and {path.name}-shm away and start again: progress is rebuilt from "
            "the sink, and only outcomes that were not published yet are scored again",
        )
    return Refusal(
        f"the disk failed under the ledger {path}: {error}",
        f"look at the kernel log, mend the disk and start again; {_KEPT}",
    )
