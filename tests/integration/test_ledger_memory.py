"""What SQLite holds in memory for a ledger is bounded by the configuration, from the file's first byte on."""

import _sqlite3
import asyncio
import ctypes
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mira_stream.ledger.settings import LedgerSettings
from tests.fakes.ledgers import open_ledger, outcome, version

_ROWS, _AT_ONCE, _ROW_BYTES = 3_000, 100, 8_000
_BESIDE_CACHES = 2 << 20
"""Statements, and pages that are being written."""


def _sqlite_bytes() -> int:
    """What SQLite has allocated in this process, which has a database open."""
    for library in (None, _sqlite3.__file__, "libsqlite3.so.0"):
        try:
            used = ctypes.CDLL(library).sqlite3_memory_used
        except (AttributeError, OSError):
            continue
        used.restype = ctypes.c_int64
        if found := int(used()):
            return found
    pytest.skip("NOT RUN: this Python was built so that nobody can ask SQLite how much memory it has taken")


def test_the_caches_of_a_new_ledger_are_no_larger_than_configured(tmp_path: Path) -> None:
    """SQLite takes the pages of a new file for smaller than they are to be, and would keep four times as many bytes."""

    async def story() -> int:
        ledger = open_ledger(tmp_path / "ledger")
        for start in range(0, _ROWS, _AT_ONCE):
            rows = [outcome(version("a"), start + n, size=_ROW_BYTES) for n in range(_AT_ONCE)]
            await ledger.receive(rows)
        taken = _sqlite_bytes()
        await ledger.close()
        return taken

    cache = LedgerSettings().cache_bytes
    assert 4 * cache < _ROWS * _ROW_BYTES
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("SELECT 1")
        before = _sqlite_bytes()
        assert cache // 2 < asyncio.run(story()) - before < 2 * cache + _BESIDE_CACHES
