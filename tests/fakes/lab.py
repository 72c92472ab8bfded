"""The end of the pipeline for tests: the real ledger and the real sink over a store in memory, watched closely."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mira_stream.control.sealing import RollLimits
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import RecordKey
from mira_stream.core.segment import PublishedKey, Received
from mira_stream.ledger.sqlite import SqliteLedger
from mira_stream.pipeline.account import Account, Stage
from mira_stream.pipeline.commit import CommitSettings, Committer
from mira_stream.pipeline.rows import RowMaker
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.sink.settings import SinkSettings
from mira_stream.telemetry.meters import Meters
from tests.fakes.ledgers import open_ledger
from tests.fakes.memory_store import MemoryStore

NEVER = 1e6
SETTINGS = CommitSettings(
    roll_records=1000,
    roll_bytes=1 << 20,
    roll_seconds=NEVER,
    backlog_rows_max=10_000,
    backlog_bytes_max=1 << 30,
)
SINK_SETTINGS = SinkSettings(uri="unused", retry_initial_seconds=0.001, retry_max_seconds=0.002)


class WatchedAccount(Account):
    """An account that checks the identity after every event, and that a test can wait for."""

    def __init__(self, meters: Meters) -> None:
        super().__init__(meters)
        self._news = asyncio.Event()

    def enter(self, stage: Stage, records: int = 1) -> None:
        super().enter(stage, records)
        self._check()

    def move(self, origin: Stage, target: Stage) -> None:
        super().move(origin, target)
        self._check()

    def end(self, stage: Stage, outcome: Outcome, reason: Reason | None) -> None:
        super().end(stage, outcome, reason)
        self._check()

    def _check(self) -> None:
        assert self.read == self.ended + self.in_pipeline
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; looked at after every event."""
        while not holds():
            self._news.clear()
            await self._news.wait()


class GatedStore(MemoryStore):
    """A store whose segments are created only while `gate` is set. `waiting` counts those that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.waiting = 0
        self.waits = asyncio.Event()

    async def create(self, key: str, data: bytes) -> None:
        self.waiting += 1
        self.waits.set()
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        await super().create(key, data)

    async def until_waiting(self, creates: int) -> None:
        """Wait until so many creates wait at the same time."""
        while self.waiting < creates:
            self.waits.clear()
            await self.waits.wait()


class Lab:
    """Ledger, sink and committer of one process; the store outlives it."""

    def __init__(
        self, ledger: SqliteLedger, store: MemoryStore, executor: Executor, settings: CommitSettings
    ) -> None:
        self.ledger = ledger
        self.store = store
        self.executor = executor
        self.meters = Meters(frozenset({"claude_cli"}))
        self.account = WatchedAccount(self.meters)
        self.sink = SegmentSink(
            store, settings=SINK_SETTINGS, patience=Patience(SINK_SETTINGS), executor=executor
        )
        self.committer = Committer(
            ledger,
            self.sink,
            account=self.account,
            settings=settings,
            clock=time.monotonic,
            wall=time.time,
        )
        self.rows = RowMaker(shards=1, now=lambda: "2026-01-01T00:00:00Z", keep_reply=False)

    async def finish(self, *received: Received) -> None:
        """Records that were read, and are in flight no more."""
        for one in received:
            self.committer.enter(one.key)
            await self.committer.finish(one, source="claude_cli", stage=Stage.PREPARING)

    async def published(self) -> list[PublishedKey]:
        """Every row of every segment that is there, chain by chain."""
        found: list[PublishedKey] = []
        for partition, chain in sorted((await self.sink.survey()).items()):
            for seq in chain.held.ordinals():
                found += await self.sink.rows(partition, seq)
        return found

    async def published_once(self) -> Counter[tuple[Outcome, Reason | None]]:
        """How the published records ended; none of them is there twice, and all that ended here is there."""
        rows = await self.published()
        assert len({(row.record_id, row.generation) for row in rows}) == len(rows)
        return Counter((row.outcome, row.reason) for row in rows)


@asynccontextmanager
async def laboratory(
    folder: Path,
    *,
    store: MemoryStore | None = None,
    failpoint: Failpoint = inert,
    **changes: object,
) -> AsyncIterator[Lab]:
    """A lab in `folder`; `changes` are fields of the commit settings. Opening it again is a new process."""
    settings = msgspec.structs.replace(SETTINGS, **changes)
    ledger = open_ledger(
        folder / "ledger.sqlite3",
        sink_uri="s3://lake/scores",
        roll=RollLimits(settings.roll_records, settings.roll_bytes),
        failpoint=failpoint,
    )
    try:
        with ThreadPoolExecutor(2) as executor:
            yield Lab(ledger, store if store is not None else MemoryStore(), executor, settings)
    finally:
        await ledger.close()


@asynccontextmanager
async def committing(lab: Lab) -> AsyncIterator[Lab]:
    """The committer runs inside the block; at its end it is closed and everything is flushed."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(lab.committer.run())
        yield lab
        await lab.committer.close()


def key_of(row: PublishedKey) -> RecordKey:
    """The key of a published row."""
    return RecordKey(row.version, row.ordinal, row.generation)
