"""From outcomes to published segments: receive, seal, publish, confirm, advance; and what a rival published."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import structlog

from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import Plan, PublishedKey, Received, Trailer
from mira_stream.pipeline.account import Account, Stage
from mira_stream.pipeline.channel import Channel, Closed
from mira_stream.ports import Clock, Ledger, Sink
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_GROUP_COMMIT_MAX = 256
_OUTBOX_BYTES_MAX = 64 << 20

Ended = tuple[Outcome, Reason | None]


class CommitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When segments roll, how much may wait, and how many partitions are published at once."""

    roll_records: int
    roll_bytes: int
    roll_seconds: float
    backlog_rows_max: int
    backlog_bytes_max: int
    publishers_max: int = 4


class _Fill:
    """What one partition holds that is received and not published."""

    __slots__ = ("bytes", "oldest", "rows")

    def __init__(self, oldest: float) -> None:
        self.rows = 0
        self.bytes = 0
        self.oldest = oldest


class Finished(msgspec.Struct, frozen=True):
    """A record whose outcome is decided, on its way into the ledger."""

    received: Received
    source: str


class Committer:
    """The last stage. `finish` takes outcomes; `run` makes them durable and publishes them.

    A record counts as received only after the ledger has it, and as ended only after its segment is published.
    """

    def __init__(
        self,
        ledger: Ledger,
        sink: Sink,
        *,
        account: Account,
        meters: Meters,
        settings: CommitSettings,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._account = account
        self._meters = meters
        self._settings = settings
        self._clock = clock
        self._outbox: Channel[Finished] = Channel(
            items_max=4 * _GROUP_COMMIT_MAX, bytes_max=_OUTBOX_BYTES_MAX
        )
        self._fills: dict[str, _Fill] = {}
        self._publishing: set[str] = set()
        self._roll = asyncio.Event()
        self._users: Counter[ObjectVersion] = Counter()
        self._adopted: dict[ObjectVersion, dict[tuple[int, int], Ended]] = {}
        self._unblocked: list[Callable[[], None]] = []
        meters.refresh_with(self._refresh)

    # What the other stages ask.

    @property
    def blocked(self) -> bool:
        """Whether so much waits to be published that nothing more should be dispatched."""
        rows, size = self._waiting()
        return rows >= self._settings.backlog_rows_max or size >= self._settings.backlog_bytes_max

    def on_unblocked(self, call: Callable[[], None]) -> None:
        """Have `call` called after each publication, when `blocked` may have become false."""
        self._unblocked.append(call)

    def use(self, version: ObjectVersion) -> None:
        """Remember what rivals publish of this object version until it is released as often as used."""
        self._users[version] += 1

    def release(self, version: ObjectVersion) -> None:
        """The counterpart of `use`."""
        self._users[version] -= 1
        if self._users[version] <= 0:
            del self._users[version]
            self._adopted.pop(version, None)

    def enter(self, key: RecordKey) -> None:
        """A record was read: it is counted, and its object is in use until the record has ended."""
        self._account.enter(Stage.PREPARING)
        self.use(key.version)

    def adopted(self, key: RecordKey) -> bool:
        """Whether a rival has published this record since its object was opened."""
        return (key.ordinal, key.generation) in self._adopted.get(key.version, ())

    async def finish(self, received: Received, *, source: str, stage: Stage) -> None:
        """Hand over the outcome of a record that is in `stage`; waits for room, raises Closed after `close`."""
        await self._outbox.put(Finished(received, source), len(received.encoded))
        self._account.move(stage, Stage.RECEIVING)

    # Recovery: before anything is read.

    async def recover(self) -> None:
        """Count what the ledger kept, and finish the plans that were sealed when the last process ended."""
        kept = await self._ledger.unpublished()
        if kept:
            self._account.enter(Stage.RECEIVED, len(kept))
            _log.info("outcomes recovered from the ledger", records=len(kept))
        for backlog in await self._ledger.backlogs():
            fill = self._fills[backlog.partition] = _Fill(self._clock())
            fill.rows, fill.bytes = backlog.rows, backlog.bytes
            if backlog.sealed:
                await self._publish_next(backlog.partition)

    async def adopt(self, trailer: Trailer) -> None:
        """Take over a segment that somebody else published in one of our chains."""
        nothing_of_ours = not self._users and self._account.at(Stage.RECEIVED) == 0
        rows = () if nothing_of_ours else await self._sink.rows(trailer.partition, trailer.seq)
        self._remember(rows)
        ends = {(row.version, row.ordinal, row.generation): (row.outcome, row.reason) for row in rows}
        dropped = await self._ledger.adopt(trailer, rows)
        for key in dropped:
            self._account.end(Stage.RECEIVED, *ends[key.version, key.ordinal, key.generation])
        self._shrink(trailer.partition, len(dropped))

    # Life.

    async def run(self) -> None:
        """Receive and publish until `close` is called and all is published."""
        async with asyncio.TaskGroup() as group:
            rolling = group.create_task(self._roll_forever(group), name="roll")
            await self._receive_forever()
            rolling.cancel()
        await self._flush()

    async def close(self) -> None:
        """Take no more outcomes; `run` ends when everything received is published."""
        await self._outbox.close()

    async def _receive_forever(self) -> None:
        while True:
            try:
                batch = await self._outbox.take(_GROUP_COMMIT_MAX)
            except Closed:
                return
            began = self._clock()
            stored = await self._ledger.receive([finished.received for finished in batch])
            self._meters.observe(metrics.LEDGER_RECEIVE_SECONDS, self._clock() - began)
            for finished, is_new in zip(batch, stored, strict=True):
                self._received(finished, is_new=is_new)

    def _received(self, finished: Finished, *, is_new: bool) -> None:
        received = finished.received
        if is_new:
            self._account.move(Stage.RECEIVING, Stage.RECEIVED)
            self._meters.add(
                metrics.RECORDS_RECEIVED, 1, (self._meters.source(finished.source), received.outcome.value)
            )
            self._fill(received)
        else:
            end = self._adopted.get(received.key.version, {}).get(
                (received.key.ordinal, received.key.generation)
            )
            self._account.end(Stage.RECEIVING, *(end or (received.outcome, received.reason)))
        self.release(received.key.version)

    def _fill(self, received: Received) -> None:
        fill = self._fills.setdefault(received.partition, _Fill(self._clock()))
        if fill.rows == 0:
            fill.oldest = self._clock()
            self._roll.set()  # the timer of the roll loop has one more partition to watch
        fill.rows += 1
        fill.bytes += len(received.encoded)
        if fill.rows == self._settings.roll_records or fill.bytes >= self._settings.roll_bytes:
            self._roll.set()

    # Rolling.

    async def _roll_forever(self, group: asyncio.TaskGroup) -> None:
        places = asyncio.Semaphore(self._settings.publishers_max)
        while True:
            self._roll.clear()
            for partition in self._due():
                self._publishing.add(partition)
                group.create_task(self._publish_due(partition, places), name=f"publish {partition}")
            wait = self._seconds_to_next_roll()
            try:
                async with asyncio.timeout(wait):
                    await self._roll.wait()
            except TimeoutError:
                continue

    def _due(self) -> list[str]:
        now = self._clock()
        return [
            partition
            for partition, fill in self._fills.items()
            if partition not in self._publishing and self._is_due(fill, now)
        ]

    def _is_due(self, fill: _Fill, now: float) -> bool:
        if fill.rows == 0:
            return False
        full = fill.rows >= self._settings.roll_records or fill.bytes >= self._settings.roll_bytes
        return full or now - fill.oldest >= self._settings.roll_seconds

    def _seconds_to_next_roll(self) -> float | None:
        waiting = [
            fill.oldest
            for partition, fill in self._fills.items()
            if fill.rows and partition not in self._publishing
        ]
        if not waiting:
            return None
        return max(0.0, min(waiting) + self._settings.roll_seconds - self._clock())

    async def _publish_due(self, partition: str, places: asyncio.Semaphore) -> None:
        try:
            async with places:
                await self._publish_next(partition)
        finally:
            self._publishing.discard(partition)
            self._roll.set()

    async def _publish_next(self, partition: str) -> bool:
        """Seal, publish, confirm and advance one segment; False if there was nothing to seal."""
        plan = await self._ledger.seal(partition)
        if plan is None:
            self._rest(partition)
            return False
        began = self._clock()
        trailer = await self._sink.publish(plan)
        self._meters.observe(metrics.SINK_PUBLISH_SECONDS, self._clock() - began)
        if trailer.plan_id == plan.plan_id:
            await self._ledger.advance(plan)
            self._advanced(plan)
        else:
            self._meters.add(metrics.SINK_RIVAL_SEGMENTS)
            _log.error(
                "a rival published a segment of our chain; its records are adopted",
                partition=partition,
                seq=plan.seq,
                hint="two daemons write to one sink: stop one, or give it its own sink.uri",
            )
            await self.adopt(trailer)
        for call in self._unblocked:
            call()
        return True

    def _advanced(self, plan: Plan) -> None:
        for row in plan.rows:
            self._account.end(Stage.RECEIVED, row.outcome, row.reason)
        self._meters.add(metrics.SINK_SEGMENTS)
        self._meters.add(metrics.SINK_ROWS, len(plan.rows))
        self._shrink(plan.partition, len(plan.rows))

    def _shrink(self, partition: str, rows: int) -> None:
        """Rows have left the partition; the bytes of the rest are in proportion, and it starts to age now."""
        fill = self._fills.get(partition)
        if fill is None:
            return
        left = fill.rows - rows
        assert left >= 0, f"{partition} would hold {left} rows"
        fill.bytes = fill.bytes * left // fill.rows
        fill.rows = left
        self._rest(partition)

    def _rest(self, partition: str) -> None:
        fill = self._fills.get(partition)
        if fill is None:
            return
        fill.oldest = self._clock()
        if fill.rows == 0:
            del self._fills[partition]

    async def _flush(self) -> None:
        """Publish all that is received. Rows held back for another partition's plan come in a later round."""
        while self._fills:
            progress = False
            for partition in list(self._fills):
                progress |= await self._publish_next(partition)
            assert progress or not self._fills, f"nothing can be sealed in {sorted(self._fills)}"

    # Helpers.

    def _remember(self, rows: Sequence[PublishedKey]) -> None:
        for row in rows:
            if row.version in self._users:
                kept = self._adopted.setdefault(row.version, {})
                kept[row.ordinal, row.generation] = (row.outcome, row.reason)

    def _waiting(self) -> tuple[int, int]:
        rows = sum(fill.rows for fill in self._fills.values()) + len(self._outbox)
        return rows, sum(fill.bytes for fill in self._fills.values()) + self._outbox.bytes

    def _refresh(self) -> None:
        rows, size = self._waiting()
        self._meters.set(metrics.SINK_BACKLOG_ROWS, rows)
        self._meters.set(metrics.SINK_BACKLOG_BYTES, size)
        self._meters.set(metrics.SINK_BACKLOG_ROWS_LIMIT, self._settings.backlog_rows_max)
        self._meters.set(metrics.SINK_BACKLOG_BYTES_LIMIT, self._settings.backlog_bytes_max)
