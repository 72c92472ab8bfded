"""Power loss at each step: whatever of our own files was not synced may be missing, torn or out of order."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from uuid import uuid4

import pytest

from mira_stream.core.errors import MiraStreamError
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.ledger import sqlite as ledger
from mira_stream.pipeline.recovery import recover
from mira_stream.sink.layout import Layout, ensure_layout
from mira_stream.sink.probe import probe_sink
from mira_stream.source import durable, local_store
from mira_stream.source.local_store import LocalStore
from tests.fakes import segments
from tests.fakes.crash_disk import CrashDisk, Event, Killed, State
from tests.fakes.lab import committing, laboratory
from tests.fakes.ledgers import seen, version

LEDGER = "state/of/ledger.sqlite3"
SCORES = "lake/scores"
LAYOUT = Layout(source_naming="path:0", shards=1, format="jsonl.zst")
PLACES = {version("a"): "source=a/shard=00", version("b"): "source=b/shard=00"}
ROWS = 6
EVERYTHING = frozenset((one.uri, ordinal) for one in PLACES for ordinal in range(ROWS))

Key = tuple[str, int]


class Ended(Exception):
    """Power was lost, and the next start went wrong; the message tells what led to it."""


async def _process(world: Path, failpoint: Failpoint = inert) -> set[Key]:
    """A daemon's life from probe to flush: all records end published; those that it scored."""
    scored: set[Key] = set()
    with ThreadPoolExecutor(2) as executor:
        store = LocalStore(world / SCORES, executor=executor)
        await probe_sink(store, uuid4().hex)
        await ensure_layout(store, LAYOUT)
        folder = (world / LEDGER).parent
        async with laboratory(
            folder, store=store, failpoint=failpoint, roll_records=4, publishers_max=1
        ) as lab:  # type: ignore[arg-type]  # a folder where the others have memory
            # The power of this test fails in the model alone.
            lab.ledger._db.execute("PRAGMA synchronous = OFF")
            await recover(lab.ledger, lab.sink, lab.committer)
            await lab.ledger.discover([seen(one) for one in PLACES])
            async with committing(lab):
                for pending in await lab.ledger.next_pending(9, frozenset()):
                    one = pending.seen.version
                    missing = [ordinal for ordinal in range(ROWS) if ordinal not in pending.done]
                    scored |= {(one.uri, ordinal) for ordinal in missing}
                    rows = [segments.row(one, ordinal) for ordinal in missing]
                    await lab.finish(*(segments.received(row, PLACES[one]) for row in rows))
                    await lab.ledger.end_object(one, ROWS)
            published = [(row.version.uri, row.ordinal) for row in await lab.published()]
    assert len(published) == len(set(published)), "a row is doubled"
    assert set(published) == EVERYTHING, f"lost: {EVERYTHING - set(published)}"
    return scored


def _kept(ledger: bytes | None) -> set[Key]:
    """The records that a ledger said it has received, published since or not."""
    if not ledger:
        return set()
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(ledger.replace(b"\x02\x02", b"\x01\x01", 1))
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'published'").fetchone():
            return set()
        waiting = "SELECT uri, ordinal, ordinal + 1 FROM outcomes JOIN objects ON objects.id = object"
        published = "SELECT uri, start, stop FROM published JOIN objects ON objects.id = object"
        spans = db.execute(f"{waiting} UNION ALL {published}").fetchall()
    return {(uri, ordinal) for uri, start, stop in spans for ordinal in range(start, stop)}


class Trial:
    """Processes on one disk, and the start after each state in which power loss may leave it."""

    def __init__(self, folder: Path, tried: "set[State] | None" = None) -> None:
        """`tried` are the states of other trials, which need no second start."""
        self.folder = folder
        world = folder / "world"
        world.mkdir(parents=True)
        self.disk = CrashDisk(world.resolve(), LEDGER)
        self._tried = set() if tried is None else tried

    def live(self, *, kill_at: int | None = None) -> None:
        """A process, to its end or until it is killed before an event."""
        self.disk.revive()
        self.disk.kill_at = kill_at
        with self.disk.recording():
            try:
                asyncio.run(_process(self.disk.folder, self._failpoint))
            except* Killed:
                assert kill_at is not None

    def lose_power(self, *, since: int = 0) -> int:
        """Start again from each state of the disk; how many were new. Fails with the first that goes wrong."""
        before = len(self._tried)
        for name, state in self.disk.states(since=since):
            if state.identity not in self._tried:
                self._tried.add(state.identity)
                self._start_again(name, state)
        return len(self._tried) - before

    def _failpoint(self, name: str) -> None:
        inert(name)
        self.disk.mark(name)

    def _start_again(self, name: str, state: State) -> None:
        world = self.folder / f"after-{len(self._tried)}"
        state.materialise(world, LEDGER)
        try:
            again = asyncio.run(_process(world))
        except (MiraStreamError, ExceptionGroup, AssertionError) as error:
            raise Ended(f"{name}: {error!r}\n{self._story(state)}") from error
        twice = again & _kept(state.ledger)
        if twice:
            raise Ended(
                f"{name}: received before the power went and scored again: {twice}\n{self._story(state)}"
            )

    def _story(self, state: State) -> str:
        events = "\n".join(f"{n} {e.kind} {e.node} {e.name}" for n, e in enumerate(self.disk.events))
        return f"{[path for path, _ in state.files]}\n{events}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A new folder, in memory where the system has such: SQLite's own syncs would take most of the time."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as name:
        yield Path(name)


def test_power_lost_at_any_event_loses_and_doubles_nothing(folder: Path) -> None:
    """Before each event of a life from an empty disk on: the next start publishes every record once, and scores none
    again that the ledger had received."""
    trial = Trial(folder)
    trial.live()
    assert trial.lose_power() > 30


def _killed_at(folder: Path, happens: Callable[[Event], bool]) -> Iterator[int]:
    """The numbers of the events that follow such a one, in the life of one process."""
    rehearsal = Trial(folder / "rehearsal")
    rehearsal.live()
    for number, event in enumerate(rehearsal.disk.events):
        if happens(event):
            yield number + 1


@pytest.mark.slow
def test_power_lost_after_a_killed_process_was_followed_by_another(folder: Path) -> None:
    """What one process did and had no time to sync is synced by the next before that relies on it."""
    tried: set[State] = set()
    for number in _killed_at(folder, lambda event: event.kind in ("folder", "file")):
        _kill_and_go_on(folder / f"killed-at-{number}", number, tried)
    assert len(tried) > 100


def test_power_lost_after_progress_was_rebuilt(folder: Path) -> None:
    """A killed process leaves a segment whose name is not synced, and its ledger is lost: what the next one adopts is
    durable before that."""
    tried: set[State] = set()
    for number in _killed_at(folder, lambda event: event.name.endswith(".zst")):
        _kill_and_go_on(folder / f"killed-at-{number}", number, tried, lose_ledger=True)


def _kill_and_go_on(folder: Path, number: int, tried: set[State], *, lose_ledger: bool = False) -> None:
    trial = Trial(folder, tried)
    trial.live(kill_at=number)
    if lose_ledger:
        for path in trial.disk.folder.glob(f"{LEDGER}*"):
            path.unlink()
    since = len(trial.disk.events)
    trial.live()
    trial.lose_power(since=since)


def _without_sync(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(fd, data)
    os.close(fd)


def _nothing(*_: object) -> None:
    """In place of a sync."""


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("room", "name", "careless", "words"),
    [
        (durable, "_write_synced", _without_sync, "restore the segment from a backup|cannot be understood"),
        (durable, "_keep_names", _nothing, "the sink has lost segment"),
        (local_store, "settle", _nothing, "the sink has lost segment"),
        (ledger, "make_folder", _make_folder, "received before the power went and scored again"),
    ],
)
def test_each_sync_is_needed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: ModuleType,
    name: str,
    careless: Callable[..., None],
    words: str,
) -> None:
    """Without any one of them power loss does harm, and the next start refuses by name what is torn or lost: the model
    has teeth."""
    monkeypatch.setattr(room, name, careless)

    def try_both() -> None:
        test_power_lost_at_any_event_loses_and_doubles_nothing(folder / "one")
        test_power_lost_after_progress_was_rebuilt(folder / "two")

    with pytest.raises(Ended, match=words):
        try_both()
