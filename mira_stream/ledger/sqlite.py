"""The ledger in one SQLite file: durable on return, one writer thread, group commit, one process at a time."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from mira_stream.control.known import Backlog, Holding, PendingObject
from mira_stream.control.sealing import RollLimits
from mira_stream.core.errors import Refusal
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import Plan, PublishedKey, Received, Trailer
from mira_stream.core.sight import FileSight, SeenObject
from mira_stream.ledger.files import Files
from mira_stream.ledger.folder import make_folder
from mira_stream.ledger.listed import known_of, newest_below
from mira_stream.ledger.lock import FileLock, refuse_network_disk
from mira_stream.ledger.objects import Objects, OnOverwrite
from mira_stream.ledger.outcomes import Outcomes
from mira_stream.ledger.partitions import Partitions
from mira_stream.ledger.plans import Plans
from mira_stream.ledger.schema import open_reader, open_writer
from mira_stream.ledger.settings import LedgerSettings
from mira_stream.ledger.spans import PublishedSpans
from mira_stream.ledger.sums import PageSums, page_sums
from mira_stream.ledger.trouble import operating_errors
from mira_stream.ports import Checkpoint, Clock

_GROUP_COMMIT_MAX = 256
_T = TypeVar("_T")


class SqliteLedger:
    """Implements `ports.Ledger`. Open it with `open`.

    Every transaction runs in the one writer thread, in the order of the calls, so that there are never more of them
    waiting than there are callers. Outcomes that wait while a commit is being synced share the next one: a lone
    caller never waits for company. A cancelled call may have been carried out.

    Trouble of the disk raises Refusal; the transaction is rolled back and the ledger stays usable.
    """

    def __init__(
        self,
        path: Path,
        tables: "_Tables",
        *,
        reader: sqlite3.Connection,
        closing: ExitStack,
        clock: Clock,
        failpoint: Failpoint,
    ) -> None:
        self._path = path
        self._tables = tables
        self._db = tables.db
        self._reader = reader
        self._closing = closing
        self._clock = clock
        self._failpoint = failpoint
        self._opened_at = clock()
        self._opened_with = tables.outcomes.last_number()
        self._waiting: deque[_Batch] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._closed = False

    @classmethod
    def open(  # noqa: PLR0913 - called by the composition root alone
        cls,
        path: Path,
        *,
        sink_uri: str,
        settings: LedgerSettings,
        roll: RollLimits,
        on_overwrite: OnOverwrite,
        clock: Clock,
        failpoint: Failpoint = inert,
    ) -> "SqliteLedger":
        """Open or make the ledger of one sink. Blocks for the check of the file.

        Raises Refusal with a hint: another process holds it, it belongs to another sink, it is corrupt, of another
        release, not writable, or on a network file system.
        """
        with ExitStack() as closing, operating_errors(path):
            make_folder(path.parent)
            refuse_network_disk(path.parent)
            lock = FileLock(path.with_name(f"{path.name}.lock"))
            closing.callback(lock.release)
            sums = closing.enter_context(page_sums(path))
            writer = closing.enter_context(open_writer(path, settings, is_checked=sums.is_checked))
            sums.begin(writer)
            closing.callback(sums.end, writer)
            reader = closing.enter_context(open_reader(path, settings))
            tables = _Tables(writer, on_overwrite, roll, sums)
            with _transaction(writer):
                _bind(writer, path, sink_uri)
                tables.objects.reopen()
            return cls(
                path, tables, reader=reader, closing=closing.pop_all(), clock=clock, failpoint=failpoint
            )

    # Objects.

    def known(self, uris: Sequence[str]) -> dict[str, str]:
        """The `change` mark of the last sight of each known uri, with `?` behind it if it is wanted again even if
        unchanged."""
        with operating_errors(self._path):
            return known_of(self._reader, uris)

    def newest(self, below: str) -> list[str]:
        """The greatest known uri below a folder, then that of each of the last folders in it."""
        with operating_errors(self._path):
            return newest_below(self._reader, below)

    async def begin_listing(self) -> None:
        """What may not have settled is waited for."""
        await self._write(self._tables.objects.rotations.begin_listing)

    async def end_listing(self) -> None:
        """What was waited for and not shown is pending: it is gone, or renamed."""
        await self._write(self._tables.objects.end_listing)

    async def discover(self, seen: Sequence[SeenObject]) -> int:
        """Remember objects; returns how many versions are new.

        A version that was overwritten before anything of it was read is forgotten. Under `first`, a new version of a
        uri of which another version was read becomes pending as superseded.
        """
        return await self._write(lambda: sum([self._tables.objects.discover(one) for one in seen]))

    async def next_pending(
        self, limit: int, exclude: frozenset[str], *, wanted: Callable[[str], bool] = lambda _: True
    ) -> Sequence[PendingObject]:
        """Up to `limit` pending objects of wanted sources in order of discovery, whose uri is not in `exclude`."""
        return await self._write(lambda: self._tables.objects.pending(limit, exclude, wanted))

    async def postpone(self, version: ObjectVersion, sight: FileSight | None = None) -> None:
        """The object is not settled: pending again at the next discovery."""
        await self._write(lambda: self._tables.objects.postpone(version, sight))

    async def put_off(self, version: ObjectVersion) -> None:
        """The object cannot be read now: pending again at the next discovery."""
        await self._write(lambda: self._tables.objects.put_off(version))

    async def end_object(self, version: ObjectVersion, lines: int, sight: FileSight | None = None) -> None:
        """The end of the object was read: `lines` rows in all."""
        await self._write(lambda: self._tables.objects.end(version, lines, sight))

    # The commit protocol.

    async def receive(self, received: Sequence[Received]) -> Sequence[bool]:
        """Make outcomes durable, in this order; for each False if it is received or published already."""
        batch = _Batch(received)
        self._waiting.append(batch)
        try:
            await self._run(lambda: self._commit_group(batch))
        except asyncio.CancelledError:
            batch.received = ()  # unless it is on its way already
            raise
        assert batch.stored is not None
        return batch.stored

    async def seal(self, partition: str) -> Plan | None:
        """Fix the next plan of the partition; the unconfirmed one if there is one.

        None if nothing waits, or if all that waits completes objects whose other rows are in sealed plans of other
        partitions: these have to be confirmed before.
        """
        return await self._write(lambda: self._tables.plans.seal(partition), step="seal")

    async def advance(self, plan: Plan) -> None:
        """The plan is published. Idempotent."""
        await self._write(lambda: self._tables.plans.advance(plan), step="advance")

    async def adopt(self, trailer: Trailer, rows: Sequence[PublishedKey]) -> Sequence[RecordKey]:
        """Somebody else published (partition, seq), the next of the chain. Idempotent; `rows` may be left out."""
        return await self._write(lambda: self._tables.plans.adopt(trailer, rows))

    async def adopt_checkpoint(self, checkpoint: Checkpoint) -> Sequence[Received]:
        """The chain is published up to that checkpoint. One transaction, however many objects it names. Idempotent."""
        return await self._write(lambda: self._tables.plans.adopt_checkpoint(checkpoint))

    # What is there.

    async def is_published(self, key: RecordKey) -> bool:
        """Whether that row is in the published ranges."""
        return await self._write(lambda: self._is_published(key))

    async def holding(self, version: ObjectVersion, generation: int) -> Holding:
        """What is published, and received, of an object version in that generation; empty for an unknown one."""
        return await self._write(lambda: self._holding(version, generation))

    async def chains(self) -> dict[str, int]:
        """For each partition the next seq."""
        return await self._write(self._tables.partitions.chains)

    async def last_plans(self) -> dict[str, tuple[int, str]]:
        """For each partition of which it is known: the seq of its last segment, and its plan id."""
        return await self._write(self._tables.partitions.last_plans)

    async def backlogs(self) -> Sequence[Backlog]:
        """What waits, per partition; outcomes of an earlier process wait since this one began."""
        return await self._write(lambda: self._tables.outcomes.backlogs(self._opened_at, self._opened_with))

    async def unpublished(self) -> Sequence[RecordKey]:
        """The keys of all rows received and not published, in order of receipt."""
        return await self._write(self._tables.outcomes.keys)

    async def close(self) -> None:
        """Finish what was asked before, and release the lock. Idempotent; nothing may be asked afterwards."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        finally:
            self._thread.shutdown(wait=False)

    def _close(self) -> None:
        with operating_errors(self._path):
            self._closing.close()

    def _is_published(self, key: RecordKey) -> bool:
        object_id = self._tables.objects.find(key.version)
        return object_id is not None and self._tables.spans.holds(object_id, key.generation, key.ordinal)

    def _holding(self, version: ObjectVersion, generation: int) -> Holding:
        tables = self._tables
        object_id = tables.objects.find(version)
        if object_id is None:
            return Holding()
        received = tables.outcomes.received(object_id, generation)
        return Holding(tables.spans.load(object_id, generation), received, Files(self._db).prefix(object_id))

    # The writer thread.

    def _commit_group(self, batch: "_Batch") -> None:
        """Step 1: receive this batch and those behind it in one transaction."""
        if batch.stored is not None:
            return  # an earlier caller took it along
        group = self._take_group()
        contents = [one.received for one in group]
        try:
            self._failpoint("receive.before")
            with operating_errors(self._path), _transaction(self._db):
                stored = self._tables.outcomes.receive(
                    [one for part in contents for one in part], self._clock()
                )
            answers = iter(stored)
            for one, part in zip(group, contents, strict=True):
                one.stored = [next(answers) for _ in part]
            self._tables.sums.fold_if_due(self._db)
            self._failpoint("receive.after")
        except BaseException:
            # The trouble is this caller's to report; each of the others tries for itself.
            self._waiting.extendleft(
                one for one in reversed(group) if one.stored is None and one is not batch
            )
            raise

    def _take_group(self) -> "list[_Batch]":
        group: list[_Batch] = []
        size = 0
        while self._waiting and (not group or size + len(self._waiting[0].received) <= _GROUP_COMMIT_MAX):
            group.append(self._waiting.popleft())
            size += len(group[-1].received)
        return group

    async def _write(self, work: Callable[[], _T], step: str = "") -> _T:
        """Run `work` in a transaction of its own; `step` names its failpoints."""
        return await self._run(lambda: self._transact(work, step))

    def _transact(self, work: Callable[[], _T], step: str) -> _T:
        if step:
            self._failpoint(f"{step}.before")
        with operating_errors(self._path), _transaction(self._db):
            result = work()
        self._tables.sums.fold_if_due(self._db)
        if step:
            self._failpoint(f"{step}.after")
        return result

    async def _run(self, work: Callable[[], _T]) -> _T:
        assert not self._closed, "the ledger is closed"
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Tables:
    """All tables on one connection."""

    def __init__(
        self, db: sqlite3.Connection, on_overwrite: OnOverwrite, roll: RollLimits, sums: PageSums
    ) -> None:
        self.db = db
        self.sums = sums
        self.spans = PublishedSpans(db)
        self.partitions = Partitions(db)
        self.objects = Objects(db, self.spans, on_overwrite)
        self.outcomes = Outcomes(db, self.objects, self.spans, self.partitions)
        self.plans = Plans(
            db,
            objects=self.objects,
            outcomes=self.outcomes,
            partitions=self.partitions,
            spans=self.spans,
            roll=roll,
        )


class _Batch:
    """What one caller wants received, and the answer."""

    __slots__ = ("received", "stored")

    def __init__(self, received: Sequence[Received]) -> None:
        self.received = received
        self.stored: list[bool] | None = None


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and on disk afterwards."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have rolled it back already
            db.execute("ROLLBACK")
        raise


def _bind(db: sqlite3.Connection, path: Path, sink_uri: str) -> None:
    """Make the ledger this sink's, or refuse if it is another's."""
    db.execute("INSERT INTO meta VALUES ('sink_uri', ?) ON CONFLICT DO NOTHING", (sink_uri,))
    (bound,) = db.execute("SELECT value FROM meta WHERE name = 'sink_uri'").fetchone()
    if bound != sink_uri:
        raise Refusal(
            f"the ledger {path} belongs to the sink {bound}, not to {sink_uri}",
            "give each sink a ledger.path of its own, or set sink.uri back",
        )
