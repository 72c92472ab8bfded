"""From outcomes to published segments: receive, seal, publish, confirm, advance; and what a rival published."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from mira_stream.control.sealing import RollLimits
from mira_stream.core.record import RecordKey
from mira_stream.core.segment import Plan, Received, Trailer
from mira_stream.pipeline.account import Account, Stage
from mira_stream.pipeline.channel import Channel, Closed
from mira_stream.pipeline.fills import Fills
from mira_stream.pipeline.under_way import UnderWay
from mira_stream.ports import Clock, Ledger, Sink
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_GROUP_COMMIT_MAX = 256
_OUTBOX_BYTES_MAX = 64 << 20


class CommitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When segments roll, how much may wait, and how many partitions are published at once."""

    roll_records: int
    roll_bytes: int
    roll_seconds: float
    backlog_rows_max: int
    backlog_bytes_max: int
    publishers_max: int = 4


class Finished(msgspec.Struct, frozen=True):
    """A record whose outcome is decided, on its way into the ledger."""

    received: Received
    source: str


class Committer:
    """The last stage. `finish` takes outcomes; `run` makes them durable and publishes them.

    A record counts as received only after the ledger has it, and as ended only after its segment is published. What
    the ledger did is counted before anything else is awaited: its answers come in the order of its transactions, so
    the counts here are always those of one of its states.
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
        self.under_way = UnderWay()
        self._ledger = ledger
        self._sink = sink
        self._account = account
        self._meters = meters
        self._settings = settings
        self._clock = clock
        self._outbox: Channel[Finished] = Channel(
            items_max=4 * _GROUP_COMMIT_MAX, bytes_max=_OUTBOX_BYTES_MAX
        )
        self._receiving_bytes = 0
        roll = RollLimits(settings.roll_records, settings.roll_bytes)
        self._fills = Fills(roll, roll_seconds=settings.roll_seconds, clock=clock)
        self._publishing: set[str] = set()
        self._roll = asyncio.Event()
        self._room = asyncio.Event()
        self._unblocked: list[Callable[[], None]] = []
        meters.refresh_with(self._refresh)

    # What the other stages ask.

    @property
    def blocked(self) -> bool:
        """Whether so much waits to be published that nothing more should be dispatched, or ended without asking."""
        rows, size = self._waiting()
        return rows >= self._settings.backlog_rows_max or size >= self._settings.backlog_bytes_max

    def on_unblocked(self, call: Callable[[], None]) -> None:
        """Have `call` called whenever `blocked` may have become false."""
        self._unblocked.append(call)

    async def wait_for_room(self) -> None:
        """Wait while `blocked`: for those whose records cost no GPU work, and can wait where they are."""
        while self.blocked:
            self._room.clear()
            await self._room.wait()

    def enter(self, key: RecordKey) -> None:
        """A record was read: it is counted, and its object is in use until the record is received."""
        self._account.enter(Stage.PREPARING)
        self.under_way.enter(key)

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
        backlogs = await self._ledger.backlogs()
        self._fills.reset(backlogs)
        for backlog in backlogs:
            if backlog.sealed:
                await self._publish_next(backlog.partition)

    async def adopt(self, trailer: Trailer) -> None:
        """Take over a segment that somebody else published in one of our chains."""
        nothing_of_ours = not self.under_way and self._account.at(Stage.RECEIVED) == 0
        rows = () if nothing_of_ours else await self._sink.rows(trailer.partition, trailer.seq)
        dropped = await self._ledger.adopt(trailer, rows)
        self.under_way.adopt(rows)
        ends = {(row.version, row.ordinal, row.generation): (row.outcome, row.reason) for row in rows}
        for key in dropped:
            self._account.end(Stage.RECEIVED, *ends[key.version, key.ordinal, key.generation])
        if dropped:
            # A rival with another configuration may have put them into another partition than we did.
            self._fills.reset(await self._ledger.backlogs())

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
            self._receiving_bytes = sum(len(finished.received.encoded) for finished in batch)
            began = self._clock()
            stored = await self._ledger.receive([finished.received for finished in batch])
            self._meters.observe(metrics.LEDGER_RECEIVE_SECONDS, self._clock() - began)
            self._receiving_bytes = 0
            for finished, is_new in zip(batch, stored, strict=True):
                self._received(finished, is_new=is_new)
            if not all(stored):
                self._tell_unblocked()

    def _received(self, finished: Finished, *, is_new: bool) -> None:
        received = finished.received
        if is_new:
            self._account.move(Stage.RECEIVING, Stage.RECEIVED)
            labels = (self._meters.source(finished.source), received.outcome.value)
            self._meters.add(metrics.RECORDS_RECEIVED, 1, labels)
            if self._fills.add(received.partition, len(received.encoded)) or self.blocked:
                self._roll.set()
        else:
            end = self.under_way.adopted(received.key) or (received.outcome, received.reason)
            self._account.end(Stage.RECEIVING, *end)
        self.under_way.leave(received.key)

    # Rolling.

    async def _roll_forever(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._roll.clear()
            free = self._settings.publishers_max - len(self._publishing)
            for partition in self._fills.due(free, busy=self._publishing, everything=self.blocked):
                self._publishing.add(partition)
                group.create_task(self._publish_due(partition), name=f"publish {partition}")
            try:
                async with asyncio.timeout(self._seconds_to_next_roll()):
                    await self._roll.wait()
            except TimeoutError:
                continue

    def _seconds_to_next_roll(self) -> float | None:
        if len(self._publishing) >= self._settings.publishers_max:
            return None  # the end of a publication wakes the loop
        due_at = self._fills.next_due_at(busy=self._publishing)
        return None if due_at is None else max(0.0, due_at - self._clock())

    async def _publish_due(self, partition: str) -> None:
        try:
            await self._publish_next(partition)
        finally:
            self._publishing.discard(partition)
            self._roll.set()

    async def _publish_next(self, partition: str) -> bool:
        """Seal, publish, confirm and advance one segment; False if there was nothing to seal."""
        plan = await self._ledger.seal(partition)
        if plan is None:
            self._fills.hold(partition)
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
        self._tell_unblocked()
        return True

    def _advanced(self, plan: Plan) -> None:
        for row in plan.rows:
            self._account.end(Stage.RECEIVED, row.outcome, row.reason)
        self._meters.add(metrics.SINK_SEGMENTS)
        self._meters.add(metrics.SINK_ROWS, len(plan.rows))
        self._fills.take(plan.partition, len(plan.rows), sum(len(row.encoded) for row in plan.rows))

    async def _flush(self) -> None:
        """Publish all that is received. Rows held back for another partition's plan come in a later round."""
        places = asyncio.Semaphore(self._settings.publishers_max)
        while self._fills:
            async with asyncio.TaskGroup() as group:
                partitions = self._fills.partitions()
                round_of_all = [group.create_task(self._publish_in_turn(one, places)) for one in partitions]
            progress = any(task.result() for task in round_of_all)
            assert progress or not self._fills, f"nothing can be sealed in {self._fills.partitions()}"

    async def _publish_in_turn(self, partition: str, places: asyncio.Semaphore) -> bool:
        async with places:
            return await self._publish_next(partition)

    # Helpers.

    def _tell_unblocked(self) -> None:
        self._room.set()
        for call in self._unblocked:
            call()

    def _waiting(self) -> tuple[int, int]:
        """Rows and bytes in the outbox, on their way into the ledger, and in it."""
        rows = self._account.at(Stage.RECEIVING) + self._fills.rows
        return rows, self._outbox.bytes + self._receiving_bytes + self._fills.bytes

    def _refresh(self) -> None:
        rows, size = self._waiting()
        self._meters.set(metrics.SINK_BACKLOG_ROWS, rows)
        self._meters.set(metrics.SINK_BACKLOG_BYTES, size)
        self._meters.set(metrics.SINK_BACKLOG_ROWS_LIMIT, self._settings.backlog_rows_max)
        self._meters.set(metrics.SINK_BACKLOG_BYTES_LIMIT, self._settings.backlog_bytes_max)
