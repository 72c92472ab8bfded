"""The pipeline as a whole: discovery, reading, preparing, dispatching per pool, committing; its start and its two ends."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from mira_stream.control.score_counts import ScoreCounts
from mira_stream.pipeline.account import Account
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.pipeline.prepare import Preparer
from mira_stream.pipeline.raw import RawChannel
from mira_stream.pipeline.read import Discovery, Reader
from mira_stream.pipeline.recovery import recover
from mira_stream.pipeline.replays import Replayer
from mira_stream.pipeline.watch import Watcher
from mira_stream.ports import Ledger, Sink

PREPARERS_PER_CHANNEL = 4
"""More than one, so that a record which is counted exactly by a replica does not hold up the next."""


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """All stages, in the order of the flow; dispatchers and watchers by group."""

    discovery: Discovery
    reader: Reader
    replayer: Replayer
    channels: Sequence[RawChannel]
    preparer: Preparer
    dispatchers: Mapping[str, Dispatcher]
    watchers: Mapping[str, Watcher]
    committer: Committer
    scores: ScoreCounts


class Pipeline:
    """All stages over the ports. `run` returns when a single listing is scored and published, or after `drain`.

    Shutdown has two phases: `drain` stops reading and dispatching and lets requests in flight end; `cancel` gives
    those up. Both publish everything that was received before `run` returns.
    """

    def __init__(self, ledger: Ledger, sink: Sink, stages: Stages, *, account: Account) -> None:
        self.stages = stages
        self.account = account
        self.draining = False
        self._ledger = ledger
        self._sink = sink
        self._intake: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Recover, then stream. Raises what stops the daemon: Refusal, or Transient of ledger and sink."""
        await recover(self._ledger, self._sink, self.stages.committer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.stages.committer.run(), name="commit")
            if not self.draining:
                await self._look_at_replicas()
            watching = [
                group.create_task(watcher.run(), name="watch") for watcher in self.stages.watchers.values()
            ]
            async with asyncio.TaskGroup() as sending:
                for name, dispatcher in self.stages.dispatchers.items():
                    sending.create_task(dispatcher.run(), name=f"dispatch {name}")
                self._intake = sending.create_task(self._take_in(), name="intake")
                if self.draining:
                    self._intake.cancel()
            for task in watching:
                task.cancel()
            await self.stages.committer.close()
        await self.stages.replayer.answer_finished()

    async def _look_at_replicas(self) -> None:
        async with asyncio.TaskGroup() as group:
            for watcher in self.stages.watchers.values():
                group.create_task(watcher.look_first())

    async def _take_in(self) -> None:
        """Discover, read and prepare until everything is read or `drain` cancels this."""
        try:
            async with asyncio.TaskGroup() as preparing:
                for channel in self.stages.channels:
                    for number in range(PREPARERS_PER_CHANNEL):
                        preparing.create_task(self.stages.preparer.work(channel), name=f"prepare {number}")
                async with asyncio.TaskGroup() as reading:
                    reading.create_task(self.stages.discovery.run(), name="discover")
                    reading.create_task(self.stages.reader.run(self.stages.discovery), name="read")
                    reading.create_task(self.stages.replayer.run(), name="replay")
                for channel in self.stages.channels:
                    await channel.close()
        finally:
            for dispatcher in self.stages.dispatchers.values():
                dispatcher.close()

    def drain(self) -> None:
        """Phase one: read nothing more, dispatch nothing more; requests in flight go on. Idempotent."""
        if self.draining:
            return
        self.draining = True
        for dispatcher in self.stages.dispatchers.values():
            dispatcher.drain()
        if self._intake is not None:
            self._intake.cancel()

    def cancel(self) -> None:
        """Phase two: give up the requests in flight; they are asked again at the next start."""
        self.drain()
        for dispatcher in self.stages.dispatchers.values():
            dispatcher.cancel()
