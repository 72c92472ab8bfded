"""The ledger against the end of its process, a second process, and bad disks."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.record import RecordKey
from mira_stream.ledger.lock import network_file_system
from mira_stream.ledger.trouble import operating_errors
from tests.fakes.ledgers import ONE, open_ledger, outcome, outcomes, version

A = version("a")
ROOT = Path(__file__).parents[2]

# Receives rows one by one, seals, advances, and so on; says on stdout what has returned. Dies at the failpoint's
# n-th call.
CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.fakes.ledgers import ONE, open_ledger, outcomes, seen, version
path, name, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def failpoint(at):
    global left
    left -= at == name
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
async def main():
    ledger = open_ledger(path, failpoint=failpoint)
    one = version("a")
    await ledger.discover([seen(one)])
    await ledger.next_pending(1, frozenset())
    for start in range(0, 40, 4):
        if start == 36:
            await ledger.end_object(one, 40)
        await ledger.receive(outcomes(one, start, start + 4))
        print(f"received {start + 4}", flush=True)
        if start % 8 == 4:
            plan = await ledger.seal(ONE)
            print(f"sealed {plan.plan_id}", flush=True)
            await ledger.advance(plan)
            print(f"advanced {start + 4}", flush=True)
asyncio.run(main())
"""


HOLDER = """
import sys
from pathlib import Path
from tests.fakes.ledgers import open_ledger
held = open_ledger(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def _run_until_killed(path: Path, name: str, call: int) -> dict[str, str]:
    """The last word of the process about each step."""
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), name, str(call)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return dict(line.split() for line in ended.stdout.splitlines())


async def _drain(path: Path) -> list[int]:
    """Redo what is sealed, score what is pending, publish all; the ordinals published now, in order."""
    ledger = open_ledger(path)
    published = []
    while (plan := await ledger.seal(ONE)) is not None:
        published += [row.key.ordinal for row in plan.rows]
        await ledger.advance(plan)
    for pending in await ledger.next_pending(9, frozenset()):
        missing = [n for n in range(40) if n not in pending.done]
        await ledger.end_object(A, 40)
        assert all(await ledger.receive([outcome(A, n) for n in missing]))
    while (plan := await ledger.seal(ONE)) is not None:
        published += [row.key.ordinal for row in plan.rows]
        await ledger.advance(plan)
    assert await ledger.next_pending(9, frozenset()) == []
    assert all([await ledger.is_published(RecordKey(A, n)) for n in range(40)])
    await ledger.close()
    return published


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("step", ["receive", "seal", "advance"])
def test_a_killed_process_loses_and_doubles_nothing(tmp_path: Path, step: str, side: str, call: int) -> None:
    """Whatever returned is there, a sealed plan is the same plan, and each row is published once in all."""
    path = tmp_path / "ledger.sqlite3"
    said = _run_until_killed(path, f"{step}.{side}", call)

    async def story() -> None:
        ledger = open_ledger(path)
        advanced = int(said.get("advanced", 0)) + 8 * (step == "advance" and side == "after")
        assert await ledger.is_published(RecordKey(A, advanced - 1)) == (advanced > 0)
        assert not await ledger.is_published(RecordKey(A, advanced))
        received = int(said.get("received", 0)) + 4 * (step == "receive" and side == "after")
        assert [key.ordinal for key in await ledger.unpublished()] == list(range(advanced, received))
        sealed = [backlog.sealed for backlog in await ledger.backlogs()]
        assert sealed == ([(step, side) in {("seal", "after"), ("advance", "before")}] if sealed else [])
        if step == "advance" and side == "before":
            plan = await ledger.seal(ONE)
            assert plan is not None
            assert plan.plan_id == said["sealed"]
        await ledger.close()
        assert await _drain(path) == list(range(advanced, 40))

    asyncio.run(story())


@pytest.mark.parametrize("side", ["before", "after"])
def test_an_error_at_a_failpoint_reaches_its_caller_alone(tmp_path: Path, side: str) -> None:
    """Others that share the commit are received, and the ledger stays usable."""

    class Stop(Exception):
        pass

    calls = iter(range(100))

    def failpoint(name: str) -> None:
        if name == f"receive.{side}" and next(calls) == 0:
            raise Stop

    async def story() -> None:
        ledger = open_ledger(tmp_path / "ledger.sqlite3", failpoint=failpoint)
        async with asyncio.TaskGroup() as group:

            async def receive(n: int) -> object:
                try:
                    return await ledger.receive([outcome(A, n)])
                except Stop:
                    return "stopped"

            tasks = [group.create_task(receive(n)) for n in range(5)]
        assert [task.result() for task in tasks] == ["stopped", [True], [True], [True], [True]]
        expected = list(range(5)) if side == "after" else list(range(1, 5))
        assert [key.ordinal for key in await ledger.unpublished()] == expected
        await ledger.close()

    asyncio.run(story())


# Who may open it.


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The message names the file and the process that holds it, which may end however it likes."""
    path = tmp_path / "ledger.sqlite3"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLDER,
            str(path),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            Refusal, match=rf"another daemon holds .*{path.name}.*process {holder.pid}\b"
        ) as error:
            open_ledger(path)
        assert "ledger.path" in error.value.hint
        holder.kill()
    asyncio.run(open_ledger(path).close())


def test_a_refused_ledger_is_left_free(tmp_path: Path) -> None:
    """A refusal holds no lock and no file behind."""
    path = tmp_path / "ledger.sqlite3"
    asyncio.run(open_ledger(path).close())
    for _ in range(2):
        with pytest.raises(Refusal, match="belongs to the sink s3://lake/scores, not to s3://other"):
            open_ledger(path, sink_uri="s3://other")
    asyncio.run(open_ledger(path).close())
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["ledger.sqlite3", "ledger.sqlite3-sums", "ledger.sqlite3.lock"]


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1_000)


def _damaged(path: Path) -> None:
    async def fill() -> None:
        ledger = open_ledger(path)
        await ledger.receive(outcomes(A, 0, 500))
        await ledger.close()

    asyncio.run(fill())
    with path.open("r+b") as file:
        file.seek(20 << 10)
        file.write(b"\xff" * (path.stat().st_size - (24 << 10)))


def test_what_is_committed_is_synced(tmp_path: Path) -> None:
    """The settings on which all that is said of power loss rests; a killed process alone would not miss them."""
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    told = [ledger._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert told == ["wal", 2]
    asyncio.run(ledger.close())


def _foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()


def _of_another_release(path: Path) -> None:
    asyncio.run(open_ledger(path).close())
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()


def _a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (_garbage, "is corrupt", "rebuilt from the sink"),
        (_damaged, "is corrupt", "move ledger.sqlite3, ledger.sqlite3-wal and ledger.sqlite3-shm away"),
        (_foreign, "another program", "a file of its own"),
        (_of_another_release, "has form 99", "rebuilt from the sink"),
        (_a_folder, "cannot be written", "writable"),
    ],
)
def test_a_file_that_is_no_ledger_of_ours_is_refused(
    tmp_path: Path, make: Callable[[Path], None], message: str, hint: str
) -> None:
    """It is left as it is, and the hint says what to do."""
    path = tmp_path / "ledger.sqlite3"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(Refusal, match=message) as error:
        open_ledger(path)
    assert before == (path.read_bytes() if path.is_file() else b"")
    assert str(path) in str(error.value)
    assert hint in error.value.hint


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file stands in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match=r"cannot use .* for the ledger") as error:
        open_ledger(tmp_path / "file" / "ledger.sqlite3")
    assert "local disk" in error.value.hint


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/u/ledger", None),
        ("/mnt/share/ledger", "nfs4"),
        ("/mnt/share/local/ledger", None),
        ("/mnt/shared", None),
        ("/mnt/with space/x", "fuse.sshfs"),
    ],
)
def test_network_file_systems_are_told_from_local_ones(folder: str, kind: str | None) -> None:
    """The innermost mount decides; of several on one place the last."""
    mounts = """\
rootfs / rootfs rw 0 0
/dev/vda / ext4 rw 0 0
server:/x /mnt/share nfs4 rw 0 0
/dev/vdb /mnt/share/local xfs rw 0 0
me@host:/ /mnt/with\\040space fuse.sshfs rw 0 0
torn line
"""
    assert network_file_system(Path(folder), mounts) == kind


# Bad disks.


def test_a_full_disk_is_a_refusal_and_nothing_is_lost(tmp_path: Path) -> None:
    """The rows before it stay, the rows of the failed commit are not half there, and it goes on when there is room."""
    path = tmp_path / "ledger.sqlite3"

    async def story() -> None:
        ledger = open_ledger(path)
        await ledger.receive(outcomes(A, 0, 10))
        ledger._db.execute("PRAGMA max_page_count = 20")  # what SQLite does when the disk has no room
        with pytest.raises(Refusal, match=r"ledger\.sqlite3 is full") as error:
            await ledger.receive([outcome(A, n, size=4_000) for n in range(10, 200)])
        assert "nothing that was received is lost" in error.value.hint
        assert len(await ledger.unpublished()) == 10
        ledger._db.execute("PRAGMA max_page_count = 100000")
        assert await ledger.receive(outcomes(A, 9, 12)) == [False, True, True]
        await ledger.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (sqlite3.SQLITE_FULL, "is full"),
        (sqlite3.SQLITE_READONLY, "cannot be written"),
        (sqlite3.SQLITE_IOERR, "the disk failed"),
        (sqlite3.SQLITE_BUSY, "another program holds"),
        (sqlite3.SQLITE_CORRUPT, "is corrupt"),
    ],
)
def test_each_trouble_has_its_own_words(code: int, message: str) -> None:
    """Also with the extended codes that SQLite gives."""
    trouble = sqlite3.OperationalError("what SQLite says")
    trouble.sqlite_errorcode = code | 0x200
    with pytest.raises(Refusal, match=message) as error, operating_errors(Path("/x/ledger")):
        raise trouble
    assert error.value.hint


def test_a_bug_of_ours_stays_a_bug() -> None:
    """Broken constraints are not the disk's fault."""
    with pytest.raises(sqlite3.IntegrityError), operating_errors(Path("/x/ledger")):
        raise sqlite3.IntegrityError("UNIQUE constraint failed")
