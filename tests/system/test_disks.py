"""Disks that are full or read-only under a daemon: it waits or ends with a sentence; nothing is lost, nothing doubled."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.harness import Lab, conversation, until
from tests.e2e.simulators import Simulator
from tests.e2e.test_world import assert_calm
from tests.system.machine import Disk, disk

RECORDS = 60


def records(name: str) -> bytes:
    """Lines that can be scored."""
    return b"".join(conversation(f"Fix {name} number {number}.") for number in range(RECORDS))


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Simulator]:
    """A replica that answers at once."""
    with Simulator(tmp_path / "requests.log").start() as sim:
        yield sim


class Places:
    """A lab whose ledger and scores are on disks of their own."""

    def __init__(self, root: Path, sim: Simulator) -> None:
        self.lab = Lab(root)
        self.sim = sim
        self.sink = Disk(root / "sink")
        self.ledger = Disk(root / "ledger")
        self.lab.scores = self.sink.place / "scores"
        self.lab.configure(
            [sim.url],
            sink={"uri": str(self.lab.scores), "roll_records": 10, "retry_max_seconds": 0.5},
            log={"level": "info"},
        )

    def assert_exactly_once(self, objects: int) -> None:
        """After one more run all is scored, and nothing was asked for twice beyond one group commit."""
        assert len(self.lab.scored()) == objects * RECORDS


@pytest.fixture
def places(tmp_path: Path, sim: Simulator) -> Iterator[Places]:
    """Both disks are large until a test fills them."""
    with disk(tmp_path / "sink", size="64m"), disk(tmp_path / "ledger", size="64m"):
        yield Places(tmp_path, sim)


def test_a_full_sink_waits_for_room(places: Places) -> None:
    """Publishing is tried again, calmly, until there is room; then it goes on in the same process."""
    places.lab.land("claude_cli/a.jsonl", records("a"))
    with running(places.lab) as daemon:
        daemon.until_scored(RECORDS)
        places.sink.fill()
        places.lab.land("claude_cli/b.jsonl", records("b"))
        daemon.until(lambda status: status["backlog_rows"] == RECORDS, "outcomes wait for the sink")
        assert_calm(daemon)
        places.sink.make_room()
        daemon.until_scored(2 * RECORDS)
        assert daemon.terminate() == 0
    assert len(places.sim.requests()) == 2 * RECORDS
    places.assert_exactly_once(2)


def test_a_read_only_sink(places: Places) -> None:
    """It ends with a sentence and exit code 2; what was received is published after the disk is writable again."""
    places.lab.land("claude_cli/a.jsonl", records("a"))
    with running(places.lab) as daemon:
        daemon.until_scored(RECORDS)
        places.sink.remount("ro")
        places.lab.land("claude_cli/b.jsonl", records("b"))
        assert_ended(daemon, "Read-only file system")
    assert places.lab.run_once().code == 2
    places.sink.remount("rw")
    places.assert_exactly_once(2)


def test_a_full_disk_under_the_ledger(places: Places) -> None:
    """It ends with a sentence and exit code 2, starts again when there is room, and scores what is missing, once."""
    places.lab.land("claude_cli/a.jsonl", records("a"))
    with running(places.lab) as daemon:
        daemon.until_scored(RECORDS)
        places.ledger.fill()
        for number in range(8):
            places.lab.land(f"claude_cli/b{number}.jsonl", records(f"b{number}"))
        assert_ended(daemon, "is full")
    again = places.lab.run_once()
    assert again.code == 2, again
    assert "Traceback" not in again.stderr
    places.ledger.make_room()
    places.assert_exactly_once(9)


def test_a_read_only_ledger(places: Places) -> None:
    """It ends with a sentence and exit code 2, at a start too; then it goes on."""
    places.lab.land("claude_cli/a.jsonl", records("a"))
    with running(places.lab) as daemon:
        daemon.until_scored(RECORDS)
        assert daemon.terminate() == 0
    places.ledger.remount("ro")
    places.lab.land("claude_cli/b.jsonl", records("b"))
    ended = places.lab.run_once()
    assert (ended.code, "Read-only" in ended.stderr or "cannot be written" in ended.stderr) == (2, True), (
        ended
    )
    places.ledger.remount("rw")
    places.assert_exactly_once(2)


def assert_ended(daemon: Daemon, words: str) -> None:
    """By itself, refused, with these words and no traceback."""
    until(lambda: daemon.ended, "the daemon ends")
    said = daemon.log.read_text("utf-8")
    assert (daemon.wait(), words in said, "Traceback" in said) == (2, True, False), said[-2000:]
