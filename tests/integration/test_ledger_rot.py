"""A ledger whose file was changed behind its back is refused at the start, whatever byte it was; its log may be cut."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.ledger import sums
from tests.fakes.ledgers import ONE, open_ledger, outcomes, seen, version

A, B = version("a"), version("b")
ROOT = Path(__file__).parents[2]

# Receives many rows, publishes some of them, and dies without closing.
CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from mira_stream.ledger import sums
from tests.fakes.ledgers import ONE, open_ledger, outcomes, seen, version
sums._LOG_BYTES_MAX = 1 << 18
async def main():
    ledger = open_ledger(Path(sys.argv[1]))
    await ledger.discover([seen(version("a")), seen(version("b"))])
    for start in range(0, 6050, 50):
        await ledger.receive(outcomes(version("a"), start, start + 50))
        if start % 2000 == 0:
            await ledger.advance(await ledger.seal(ONE))
    await ledger.receive(outcomes(version("b"), 0, 3))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ledger whose process was killed: the file has been folded into a few times, the log is not empty."""
    folder = tmp_path_factory.mktemp("killed")
    child = subprocess.run([sys.executable, "-c", CHILD, str(folder / "ledger")], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert (folder / "ledger-wal").stat().st_size > 1000
    assert (folder / "ledger").stat().st_size > 1 << 18
    return folder


@pytest.fixture
def ledger(killed: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    shutil.copytree(killed, tmp_path / "copy")
    return tmp_path / "copy" / "ledger"


def received(path: Path) -> int:
    """How many rows a start finds unpublished."""

    async def count() -> int:
        ledger = open_ledger(path)
        try:
            return len(await ledger.unpublished())
        finally:
            await ledger.close()

    return asyncio.run(count())


def in_log(path: Path) -> set[int]:
    """The pages that the log holds: the file's own are not read."""
    with sums.page_sums(path) as of_file:
        return set(of_file._logged(16 << 10))


def test_after_a_kill_the_ledger_opens_as_it_was(ledger: Path) -> None:
    """Again and again, with its log and without."""
    first = received(ledger)
    assert first > 0
    assert received(ledger) == first


@pytest.mark.parametrize("seed", range(40))
def test_any_changed_bit_is_found(ledger: Path, seed: int) -> None:
    """One bit of a page that is read from the file: the ledger is refused as corrupt."""
    random = Random(seed)
    data = bytearray(ledger.read_bytes())
    pages = sorted(set(range(1, len(data) // (16 << 10) + 1)) - in_log(ledger))
    at = (random.choice(pages) - 1) * (16 << 10) + random.randrange(16 << 10)
    data[at] ^= 1 << random.randrange(8)
    ledger.write_bytes(data)
    with pytest.raises(Refusal, match="is corrupt") as error:
        open_ledger(ledger)
    assert "rebuilt from the sink" in error.value.hint


@pytest.mark.parametrize("seed", range(10))
def test_a_file_that_was_cut_is_found(ledger: Path, seed: int) -> None:
    """At any length."""
    os.truncate(ledger, Random(seed).randrange(1, ledger.stat().st_size - (16 << 10)))
    with pytest.raises(Refusal):
        open_ledger(ledger)


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_log_ends_where_it_is_damaged(ledger: Path, seed: int) -> None:
    """SQLite's own checksums tell: what was received before stays, what was behind is scored again."""
    before = received_before_the_log(ledger)
    log = ledger.with_name("ledger-wal")
    data = bytearray(log.read_bytes())
    data[Random(seed).randrange(len(data))] ^= 16
    log.write_bytes(data)
    assert before <= received(ledger)


def received_before_the_log(path: Path) -> int:
    """How many rows are unpublished in the file alone."""
    copy = path.with_name("alone")
    shutil.copy(path, copy)
    with sqlite3.connect(f"file:{copy}?immutable=1", uri=True) as db:
        (count,) = db.execute("SELECT count(*) FROM outcomes").fetchone()
    db.close()
    assert isinstance(count, int)
    return count


def test_a_ledger_whose_log_another_program_folded_in_is_opened(ledger: Path) -> None:
    """A shell that looked into it after a kill did so on leaving: its pages cannot be compared, and are sound."""
    with sqlite3.connect(ledger) as shell:
        shell.execute("SELECT 1 FROM meta").fetchall()
    shell.close()
    assert not ledger.with_name("ledger-wal").exists()
    assert received(ledger) > 0


def test_sums_that_are_lost_or_damaged_are_made_anew(ledger: Path) -> None:
    """They are a check, and never the only one who knows."""
    first = received(ledger)
    of_file = ledger.with_name("ledger-sums")
    of_file.write_bytes(of_file.read_bytes()[:-3])
    assert received(ledger) == first
    of_file.unlink()
    assert received(ledger) == first
    data = bytearray(ledger.read_bytes())
    data[40_000] ^= 1
    ledger.write_bytes(data)
    with pytest.raises(Refusal, match="is corrupt"):
        open_ledger(ledger)


def test_a_new_ledger_beside_old_sums(ledger: Path) -> None:
    """Whoever moves a ledger away need not know of the sums."""
    for end in ("", "-wal", "-shm"):
        ledger.with_name(f"ledger{end}").unlink()

    async def story() -> None:
        new = open_ledger(ledger)
        await new.discover([seen(A), seen(B)])
        await new.receive(outcomes(A, 0, 3))
        assert await new.seal(ONE) is not None
        await new.close()

    asyncio.run(story())
    assert received(ledger) == 3
