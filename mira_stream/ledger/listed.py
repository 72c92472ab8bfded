"""What a listing asks: which of its names are known as they are, and behind which ones new names are to be expected."""

import sqlite3
from collections.abc import Sequence

import msgspec

from mira_stream.core.sight import UNSETTLED
from mira_stream.ledger.schema import State

_FOLDERS_MAX = 32
_encode = msgspec.json.Encoder().encode


def known_of(db: sqlite3.Connection, uris: Sequence[str]) -> dict[str, str]:
    """The `change` mark of each uri that was seen, `UNSETTLED` behind those that are to be shown again."""
    found = db.execute(
        "SELECT uri, change || iif(state = ? OR EXISTS (SELECT 1 FROM files WHERE object = id AND hot), ?, '')"
        " FROM objects WHERE uri IN (SELECT value FROM json_each(?)) AND current AND change IS NOT NULL",
        (State.POSTPONED.value, UNSETTLED, _encode(uris).decode()),
    )
    return dict(found.fetchall())


def newest_below(db: sqlite3.Connection, below: str) -> list[str]:
    """The greatest uri below a folder, then that of each of the last folders in it; one step in the index for each."""
    first, bound = f"{below}/", f"{below}0"  # `0` is next to `/`
    newest: list[str] = []
    while len(newest) < _FOLDERS_MAX:
        (uri,) = db.execute(
            "SELECT max(uri) FROM objects WHERE uri >= ? AND uri < ?", (first, bound)
        ).fetchone()
        if uri is None:
            break
        newest.append(uri)
        folder, slash, _ = uri[len(first) :].partition("/")
        # A name that lies in the folder itself takes a step of its own.
        bound = f"{first}{folder}/" if slash else uri
    return newest
