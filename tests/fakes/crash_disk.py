"""A disk that can lose power: what a process did to a folder, and every state in which it may be found afterwards.

Whatever was not synced may be there, in part or not, in any order: bytes of a file after its last fsync, and names in
a folder (created, linked, removed) after the last fsync of that folder. The sync of a file makes none of its names
durable. SQLite is trusted: a ledger is found as its last commit left it, if its folder is found.
"""

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from mira_stream.source.durable import TEMP_PREFIX

ROOT = 0
_NAMING = frozenset({"file", "folder", "gone"})
_SUBSETS_MAX = 32


class Killed(Exception):
    """The process is dead: nothing it does reaches the disk any more."""


class Event(NamedTuple):
    """`write` and `sync` are of the inode `node`; `file`, `folder` and `gone` put `child` or nothing under `name` in it."""

    kind: str
    node: int
    name: str = ""
    child: int | None = None
    data: bytes = b""


class State(NamedTuple):
    """What is found after the power came back: files by path below the disk, folders, and the ledger's bytes."""

    files: tuple[tuple[str, bytes], ...]
    folders: tuple[str, ...]
    ledger: bytes | None

    @property
    def identity(self) -> "State":
        """The state without temporary files, whose names are random and which nobody reads."""
        kept = tuple(file for file in self.files if TEMP_PREFIX not in file[0])
        return self._replace(files=kept)

    def materialise(self, folder: Path, ledger: str) -> None:
        """Write it into an empty folder; `ledger` is the ledger's path below it."""
        folder.mkdir()
        for path in self.folders:
            (folder / path).mkdir(parents=True, exist_ok=True)
        for path, data in self.files:
            (folder / path).write_bytes(data)
        if self.ledger is not None and (folder / ledger).parent.is_dir():
            (folder / ledger).write_bytes(self.ledger)


class CrashDisk:
    """Records what is done below `folder` by way of `os`; `ledger` is the path of the SQLite file below it.

    `kill_at`: the number of the event before which the process dies; until `revive` all it tries raises `Killed`.
    """

    def __init__(self, folder: Path, ledger: str) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.ledgers: list[bytes | None] = []
        """For each event, what the ledger held before it."""
        self.kill_at: int | None = None
        self.dead = False
        self._ledger = folder / ledger
        self._nodes: dict[str, int] = {str(folder): ROOT}
        self._fds: dict[int, int] = {}
        self._next = ROOT + 1
        self._lock = threading.RLock()
        self._seen_ledgers: dict[bytes, bytes] = {}

    def revive(self) -> None:
        """A new process, on the disk as the dead one left it."""
        self.kill_at, self.dead = None, False
        self._fds.clear()

    def mark(self, _: str = "") -> None:
        """A point of time at which power may be lost; a failpoint of the product."""
        with self._lock:
            self._record(Event("mark", ROOT))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What this process does inside the block is recorded; at its end the record is held against the folder."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "write", "fsync", "close", "link", "unlink", "mkdir"):
                self._patch(patch, name, getattr(self, f"_{name}"))
            for name in (
                "rename",
                "replace",
                "symlink",
                "rmdir",
                "truncate",
                "pwrite",
                "fdatasync",
                "remove",
            ):
                self._patch(patch, name, self._unknown(name))
            yield
        self._check()

    def _patch(self, patch: pytest.MonkeyPatch, name: str, double: Callable[..., Any]) -> None:
        real = getattr(os, name)

        def locked(*args: Any, **more: Any) -> Any:
            with self._lock:
                return double(real, *args, **more)

        patch.setattr(os, name, locked)

    def _unknown(self, name: str) -> Callable[..., Any]:
        def refuse(real: Callable[..., Any], first: Any, *args: Any, **more: Any) -> Any:
            ours = first in self._fds if isinstance(first, int) else self._is_ours(first)
            assert not ours, f"os.{name} below {self.folder}: teach the model what it does"
            return real(first, *args, **more)

        return refuse

    # What the process does.

    def _open(self, real: Any, path: Any, flags: int, *args: Any, **more: Any) -> int:
        if not self._is_ours(path) and str(path) != str(self.folder):
            other: int = real(path, flags, *args, **more)
            return other
        creates = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        if creates:
            self._alive()
        fd: int = real(path, flags, *args, **more)
        if creates:
            self._name("file", path, self._new())
        self._fds[fd] = self._nodes[str(path)]
        return fd

    def _write(self, real: Any, fd: int, data: Any) -> int:
        if fd not in self._fds:
            written: int = real(fd, data)
            return written
        self._alive()
        count: int = real(fd, data)
        self._record(Event("write", self._fds[fd], data=bytes(data[:count])))
        return count

    def _fsync(self, real: Any, fd: int) -> None:
        if fd in self._fds:
            # Nothing is really synced: the power of this disk fails in the model alone.
            self._record(Event("sync", self._fds[fd]))
        else:
            real(fd)

    def _close(self, real: Any, fd: int) -> None:
        self._fds.pop(fd, None)
        real(fd)

    def _link(self, real: Any, source: Any, target: Any, **more: Any) -> None:
        if self._is_ours(target):
            self._alive()
        real(source, target, **more)
        if self._is_ours(target):
            self._name("file", target, self._nodes[str(source)])

    def _unlink(self, real: Any, path: Any, **more: Any) -> None:
        if self._is_ours(path):
            self._alive()
        real(path, **more)
        if self._is_ours(path):
            self._name("gone", path, None)

    def _mkdir(self, real: Any, path: Any, *args: Any, **more: Any) -> None:
        if self._is_ours(path):
            self._alive()
        real(path, *args, **more)
        if self._is_ours(path):
            self._name("folder", path, self._new())

    def _is_ours(self, path: Any) -> bool:
        # The ledger's own files and its lock are SQLite's matter.
        place = str(path)
        return place.startswith(f"{self.folder}/") and not place.startswith(str(self._ledger))

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def _name(self, kind: str, path: Any, child: int | None) -> None:
        folder, _, name = str(path).rpartition("/")
        self._record(Event(kind, self._nodes[folder], name, child))
        if child is None:
            del self._nodes[str(path)]
        else:
            self._nodes[str(path)] = child

    def _alive(self) -> None:
        if self.dead or (self.kill_at is not None and len(self.events) >= self.kill_at):
            self.dead = True
            raise Killed

    def _record(self, event: Event) -> None:
        if event.kind in ("mark", "sync"):
            self._alive()
        self.ledgers.append(self._ledger_now())
        self.events.append(event)

    def _ledger_now(self) -> bytes | None:
        if not self._ledger.exists():
            return None
        with closing(sqlite3.connect(self._ledger)) as db, closing(sqlite3.connect(":memory:")) as copy:
            (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
            copy.execute(f"PRAGMA page_size = {page_bytes}")
            db.backup(copy)
            data = copy.serialize()
        return self._seen_ledgers.setdefault(data, data)

    def _check(self) -> None:
        """The record explains what is in the folder: nothing was done behind its back."""
        everything = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and self._is_ours(path)
        }
        assert dict(_Disk(self.events).found(lambda _: True).files) == everything

    # What may be found.

    def states(self, *, since: int = 0, seed: int = 0) -> Iterator[tuple[str, State]]:
        """Every state in which the disk may be found if power is lost before an event from `since` on, or at the end.

        With each of them what tells it apart. Where more than 32 subsets of what is not synced are possible, 32 are
        taken by chance, among them none, all, each one alone and all but one.
        """
        chance = random.Random(seed)
        last = self._ledger_now()
        for count in range(since, len(self.events) + 1):
            ledger = self.ledgers[count] if count < len(self.events) else last
            disk = _Disk(self.events[:count])
            for number, kept in enumerate(_subsets(len(disk.pending), chance)):
                for torn in disk.tears():
                    found = disk.found(kept.__contains__, torn)
                    yield f"event {count}, subset {number}", found._replace(ledger=ledger)


class _File:
    def __init__(self) -> None:
        self.synced = b""
        self.data = b""

    def versions(self) -> list[bytes]:
        """Whole, without what is not synced, cut, and with zeros in its place."""
        if self.synced == self.data:
            return [self.data]
        rest = len(self.data) - len(self.synced)
        cut = self.data[: len(self.synced) + rest // 2]
        return [self.data, self.synced, cut, self.synced + bytes(rest)]


class _Disk:
    """The events, replayed: what is durable, and `pending`, the names that are not."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.files: dict[int, _File] = {}
        self.pending: list[Event] = []
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        for event in events:
            if event.kind == "write":
                self.files[event.node].data += event.data
            elif event.kind == "sync":
                self._sync(event.node)
            elif event.kind in _NAMING:
                self._name(event)

    def _name(self, event: Event) -> None:
        self.pending.append(event)
        if event.child is not None and event.kind == "file":
            self.files.setdefault(event.child, _File())
        elif event.child is not None:
            self._names[event.child] = {}

    def _sync(self, node: int) -> None:
        if node in self.files:
            self.files[node].synced = self.files[node].data
        for event in self.pending:
            if event.node == node:
                _apply(self._names, event)
        self.pending = [event for event in self.pending if event.node != node]

    def tears(self) -> Iterator[dict[int, bytes]]:
        """What the files with bytes that are not synced may hold."""
        open_files = [node for node, file in self.files.items() if file.synced != file.data]
        for versions in product(*(self.files[node].versions() for node in open_files)):
            yield dict(zip(open_files, versions, strict=True))

    def found(self, kept: Callable[[int], bool], torn: Mapping[int, bytes] = MappingProxyType({})) -> State:
        """The state in which those of `pending` are there whose numbers are `kept`, and files hold `torn`."""
        names = {node: dict(entries) for node, entries in self._names.items()}
        for number, event in enumerate(self.pending):
            if kept(number):
                _apply(names, event)
        files: dict[str, bytes] = {}
        folders: list[str] = []
        places = [("", ROOT)]
        while places:
            place, folder = places.pop()
            for name, child in names[folder].items():
                if child in self.files:
                    files[place + name] = torn.get(child, self.files[child].data)
                else:
                    folders.append(place + name)
                    places.append((f"{place}{name}/", child))
        return State(tuple(sorted(files.items())), tuple(sorted(folders)), None)


def _apply(names: dict[int, dict[str, int]], event: Event) -> None:
    if event.child is None:
        names[event.node].pop(event.name, None)
    else:
        names[event.node][event.name] = event.child


def _subsets(size: int, chance: random.Random) -> list[frozenset[int]]:
    everything = frozenset(range(size))
    if 2**size <= _SUBSETS_MAX:
        return [frozenset(n for n in everything if bits >> n & 1) for bits in range(2**size)]
    found = {frozenset(), everything}
    found |= {frozenset({n}) for n in everything} | {everything - {n} for n in everything}
    while len(found) < _SUBSETS_MAX:
        found.add(frozenset(n for n in everything if chance.random() < 0.5))
    return sorted(found, key=sorted)
