"""From outcomes to published segments: receive, seal, publish, confirm, advance; and what a rival published."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from mira_stream.control.coverage import Coverage
from mira_stream.control.intervals import IntervalSet
from mira_stream.control.sealing import RollLimits
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Reason
from mira_stream.core.partition import source_prefix
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import Plan, PublishedKey, Received, Trailer
from mira_stream.pipeline.account import Account, Stage
from mira_stream.pipeline.channel import Channel, Closed
from mira_stream.pipeline.checkpoints import Checkpoints
from mira_stream.pipeline.fills import Fills
from mira_stream.pipeline.letters import LatestLetters
from mira_stream.pipeline.under_way import UnderWay
from mira_stream.ports import Checkpoint, Clock, Ledger, Sink
from mira_stream.telemetry import registry as metrics

_log = structlog.get_logger(__name__)
_GROUP_COMMIT_MAX = 256
_BATCH_MAX = _GROUP_COMMIT_MAX // 2
"""Outcomes on their way into the ledger, and as many behind them: a crash costs one group commit and what is in flight."""
_OUTBOX_BYTES_MAX = 64 << 20
_BACKLOG = (
    metrics.SINK_BACKLOG_ROWS,
    metrics.SINK_BACKLOG_BYTES,
    metrics.SINK_BACKLOG_ROWS_LIMIT,
    metrics.SINK_BACKLOG_BYTES_LIMIT,
)
"""What waits: rows and bytes, and how many of each may."""


class CommitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When segments roll, how much may wait, and how many partitions are published at once."""

    roll_records: int
    roll_bytes: int
    roll_seconds: float
    backlog_rows_max: int
    backlog_bytes_max: int
    publishers_max: int = 4
    checkpoint_segments: int = 1_000
    checkpoint_seconds: float = 86_400.0

    def is_too_much(self, rows: int, size: int) -> bool:
        """Whether `rows`, or their `size` in bytes, are more than may wait: then everything is due."""
        return rows >= self.backlog_rows_max or size >= self.backlog_bytes_max


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
        settings: CommitSettings,
        clock: Clock,
        wall: Clock,
    ) -> None:
        self.under_way = UnderWay()
        self.letters = LatestLetters()
        self.stopped: Mapping[str, str] = {}
        self._ledger = ledger
        self._sink = sink
        self._account = account
        self._meters = account.meters
        self._settings = settings
        self._clock = clock
        self._outbox: Channel[Finished] = Channel(items_max=_BATCH_MAX, bytes_max=_OUTBOX_BYTES_MAX)
        self._receiving_bytes = 0
        roll = RollLimits(settings.roll_records, settings.roll_bytes)
        self._fills = Fills(roll, roll_seconds=settings.roll_seconds, clock=clock)
        self._publishing: set[str] = set()
        self._roll = asyncio.Event()
        self._room = asyncio.Event()
        self._unblocked: list[Callable[[], None]] = []
        self.checkpoints = Checkpoints(
            sink,
            Coverage(segments_max=settings.checkpoint_segments, seconds_max=settings.checkpoint_seconds),
            wall=wall,
            meters=self._meters,
            on_broken=self.stop,
        )
        self._meters.refresh_with(self._refresh)

    # What the other stages ask.

    @property
    def blocked(self) -> bool:
        """Whether so much waits for ledger or sink that nothing more should be dispatched, or ended without asking."""
        return self._outbox.is_full or self._is_behind()

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

    def stop(self, partition: str, problem: str) -> None:
        """Publish nothing more of this partition, and read no more of its source, until the next start.

        What it has received stays in the ledger, and counts as backlog. Idempotent.
        """
        if partition in self.stopped:
            return
        # A new one each time: the thread of the ledger asks `is_stopped` too.
        self.stopped = {**self.stopped, partition: problem}
        self.checkpoints.forget(partition)
        self._meters.set(metrics.SINK_PARTITIONS_STOPPED, len(self.stopped))
        _log.error(
            "a partition is stopped: its chain cannot be gone on with",
            partition=partition,
            problem=problem,
            hint="`mira-stream verify` says what else is wrong; restore the chain, then start again",
        )

    def is_stopped(self, source: str) -> bool:
        """Whether a partition of that source is stopped; may be asked in any thread."""
        return any(one.startswith(source_prefix(source)) for one in self.stopped)

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
            if backlog.sealed and backlog.partition not in self.stopped:
                await self._publish_or_stop(backlog.partition)

    async def adopt(self, trailer: Trailer) -> None:
        """Take over a segment that somebody else published in one of our chains.

        Raises Corrupt if its trailer claims rows that it does not hold: they would be lost.
        """
        nothing_of_ours = not self.under_way and self._account.at(Stage.RECEIVED) == 0
        rows = () if nothing_of_ours else await self._sink.rows(trailer.partition, trailer.seq)
        if not nothing_of_ours:
            _refuse_unless_held(trailer, rows)
        dropped = await self._ledger.adopt(trailer, rows)
        self.checkpoints.published(trailer.partition, trailer.seq)
        self.under_way.adopt(rows)
        ends = {(row.version, row.ordinal, row.generation): (row.outcome, row.reason) for row in rows}
        for key in dropped:
            self._account.end(Stage.RECEIVED, *ends[key.version, key.ordinal, key.generation])
        if dropped:
            # A rival with another configuration may have put them into another partition than we did.
            self._fills.reset(await self._ledger.backlogs())

    async def adopt_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take over all that a chain held up to a checkpoint: of its rows only the places are known by now."""
        dropped = await self._ledger.adopt_checkpoint(checkpoint)
        self.checkpoints.covered(checkpoint.partition, checkpoint.seq)
        for received in dropped:
            # How the published row ended cannot be read any more: ours stands for it in the counts.
            self._account.end(Stage.RECEIVED, received.outcome, received.reason)
        if dropped:
            self._fills.reset(await self._ledger.backlogs())

    # Life.

    async def run(self) -> None:
        """Receive and publish until `close` is called and all is published."""
        async with asyncio.TaskGroup() as group:
            rolling = group.create_task(self._roll_forever(group), name="roll")
            checkpointing = group.create_task(self.checkpoints.run(), name="checkpoints")
            await self._receive_forever()
            rolling.cancel()
            checkpointing.cancel()
        await self._flush()
        await self.checkpoints.write_due()

    async def close(self) -> None:
        """Take no more outcomes; `run` ends when everything received is published."""
        await self._outbox.close()

    async def _receive_forever(self) -> None:
        while True:
            try:
                batch = await self._outbox.take(_BATCH_MAX)
            except Closed:
                return
            self._receiving_bytes = sum(len(finished.received.encoded) for finished in batch)
            if len(batch) == _BATCH_MAX or self._receiving_bytes >= _OUTBOX_BYTES_MAX:
                self._tell_unblocked()  # it was full
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
            self.letters.see(received)
            if self._fills.add(received.partition, len(received.encoded)) or self._is_behind():
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
            for partition in self._fills.due(free, busy=self._not_now(), everything=self._is_behind()):
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
        due_at = self._fills.next_due_at(busy=self._not_now())
        return None if due_at is None else max(0.0, due_at - self._clock())

    def _not_now(self) -> set[str]:
        return self._publishing | self.stopped.keys()

    async def _publish_due(self, partition: str) -> None:
        try:
            await self._publish_or_stop(partition)
        finally:
            self._publishing.discard(partition)
            self._roll.set()

    async def _publish_or_stop(self, partition: str) -> bool:
        """As `_publish_next`; a chain that is damaged stops its own partition alone."""
        try:
            return await self._publish_next(partition)
        except (Corrupt, Missing) as error:
            self.stop(partition, str(error))
            return True

    async def _publish_next(self, partition: str) -> bool:
        """Seal, publish, confirm and advance one segment; False if there was nothing to seal."""
        plan = await self._ledger.seal(partition)
        if plan is None:
            self._fills.hold(partition)
            return False
        began = self._clock()
        trailer = await self._sink.publish(plan)
        if trailer is None:
            await self._overtaken(partition, plan.seq)
            return True
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

    async def _overtaken(self, partition: str, seq: int) -> None:
        """The chain went on without us, and its segment at our place is gone already."""
        checkpoint = await self._sink.checkpoint(partition)
        assert checkpoint is not None, f"{partition} {seq} is covered by a checkpoint"
        self._meters.add(metrics.SINK_RIVAL_SEGMENTS)
        _log.error(
            "our chain was published by somebody else up to a checkpoint, which is adopted",
            partition=partition,
            seq=seq,
            checkpoint=checkpoint.seq,
            hint="two daemons write to one sink, or this ledger is from a backup: see to it that one writes",
        )
        await self.adopt_checkpoint(checkpoint)
        self._tell_unblocked()

    def _advanced(self, plan: Plan) -> None:
        for row in plan.rows:
            self._account.end(Stage.RECEIVED, row.outcome, row.reason)
        self.checkpoints.published(plan.partition, plan.seq)
        self._meters.add(metrics.SINK_SEGMENTS)
        self._meters.add(metrics.SINK_ROWS, len(plan.rows))
        self._fills.take(plan.partition, len(plan.rows), sum(len(row.encoded) for row in plan.rows))

    async def _flush(self) -> None:
        """Publish all that is received. Rows held back for another partition's plan come in a later round."""
        places = asyncio.Semaphore(self._settings.publishers_max)
        while partitions := [one for one in self._fills.partitions() if one not in self.stopped]:
            async with asyncio.TaskGroup() as group:
                round_of_all = [group.create_task(self._publish_in_turn(one, places)) for one in partitions]
            progress = any(task.result() for task in round_of_all)
            assert progress or not self._fills, f"nothing can be sealed in {partitions}"

    async def _publish_in_turn(self, partition: str, places: asyncio.Semaphore) -> bool:
        async with places:
            return await self._publish_or_stop(partition)

    # Helpers.

    def _tell_unblocked(self) -> None:
        self._room.set()
        for call in self._unblocked:
            call()

    def _is_behind(self) -> bool:
        return self._settings.is_too_much(*self._waiting())

    def _waiting(self) -> tuple[int, int]:
        """Rows and bytes in the outbox, on their way into the ledger, and in it."""
        rows = self._account.at(Stage.RECEIVING) + self._fills.rows
        return rows, self._outbox.bytes + self._receiving_bytes + self._fills.bytes

    def _refresh(self) -> None:
        backlog = (*self._waiting(), self._settings.backlog_rows_max, self._settings.backlog_bytes_max)
        for metric, value in zip(_BACKLOG, backlog, strict=True):
            self._meters.set(metric, value)


def _refuse_unless_held(trailer: Trailer, rows: Sequence[PublishedKey]) -> None:
    """Raise Corrupt if a trailer claims ordinals of which the segment has no row."""
    held: dict[tuple[ObjectVersion, int], list[int]] = {}
    for row in rows:
        held.setdefault((row.version, row.generation), []).append(row.ordinal)
    for claimed in trailer.ranges:
        has = held.get((ObjectVersion(claimed.uri, claimed.etag), claimed.generation), ())
        if IntervalSet.from_spans(claimed.spans).minus(IntervalSet.from_ordinals(has)):
            raise Corrupt(
                Reason.CORRUPT,
                f"segment {trailer.seq} of {trailer.partition}, which somebody else published, claims rows of "
                f"{claimed.uri} that it does not hold: they would be lost; restore it from a backup of the sink, or "
                "move it away (and all later ones of its chain) to score its records again",
            )
