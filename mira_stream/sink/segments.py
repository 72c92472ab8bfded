"""The commit: one conditional create publishes a segment, and reading back decides whose it is."""

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

import msgspec

from mira_stream.control.known import Chain
from mira_stream.core.errors import AlreadyExists, Transient, TransientKind
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.core.segment import Plan, Trailer
from mira_stream.ports import ObjectStore
from mira_stream.sink.checkpoints import Folding, checkpoint_key
from mira_stream.sink.format import encode_segment, segment_key
from mira_stream.sink.reader import TRAILERS_AT_ONCE, SegmentReader
from mira_stream.sink.retry import Patience
from mira_stream.sink.settings import SinkSettings


class _Covered(msgspec.Struct, frozen=True):
    """Nothing was created: a checkpoint is at that place or above it."""


class SegmentSink(SegmentReader):
    """Implements `ports.Sink` on any store with create-if-absent.

    Args:
        store: the sink; probed and laid out by the caller (`probe_sink`, `ensure_layout`).
        settings: level of compression; waits are `patience`'s.
        patience: repeats what a store did not answer.
        executor: compresses and decompresses; bounded, owned by the caller.
        failpoint: called before and after steps 3 (publish) and 4 (confirm), at every try.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        settings: SinkSettings,
        patience: Patience,
        executor: Executor,
        failpoint: Failpoint = inert,
    ) -> None:
        super().__init__(store, patience=patience, executor=executor)
        self._level = settings.compression_level
        self._failpoint = failpoint

    async def survey(self) -> dict[str, Chain]:
        """As the reader's; what was listed survives power loss from then on, so that it may be adopted."""
        found = await super().survey()
        await self.patience.until_known(self._store.settle)
        return found

    async def publish(self, plan: Plan) -> Trailer | None:
        """Steps 3 and 4, for the same plan until it is known what stands at (partition, seq); cancellable.

        Returns the trailer that stands there: ours if its `plan_id` is the plan's. None if a checkpoint covers that
        place and what stood there is gone. Raises Corrupt if what stands there is no segment.
        """
        data = await self._run(lambda: encode_segment(plan, level=self._level))
        return await self.patience.until_known(lambda: self._try_to_publish(plan, data))

    async def _try_to_publish(self, plan: Plan, data: bytes) -> Trailer | None:
        self._failpoint("publish.before")
        doubt = await self._create_above_checkpoints(plan, data)
        self._failpoint("publish.after")
        self._failpoint("confirm.before")
        trailer = plan.trailer if doubt is None else await self._standing(plan)
        self._failpoint("confirm.after")
        if isinstance(doubt, Transient) and trailer is None:
            raise doubt
        return trailer

    async def _create_above_checkpoints(self, plan: Plan, data: bytes) -> Transient | _Covered | None:
        """None if the store says that ours was created; else what is wrong if nothing turns out to stand there."""

        async def create() -> _Covered | None:
            if max(await self.look_for_checkpoints(plan.partition), default=-1) >= plan.seq:
                return _Covered()
            await self._store.create(segment_key(plan.partition, plan.seq), data)
            return None

        try:
            # In one: a process that was stopped between the two for long gets no answer in time, and looks again.
            return await self.patience.answered(create)
        except AlreadyExists:
            key = segment_key(plan.partition, plan.seq)
            return Transient(TransientKind.SERVER, f"{self.uri}/{key} was there and is gone")
        except Transient as error:
            return error

    async def _standing(self, plan: Plan) -> Trailer | None:
        """What stands at the plan's place; None for nothing, also where ours must not stand and is withdrawn."""
        found = await self.look(plan.partition, plan.seq)
        if found is None:
            return None
        if found.trailer.plan_id == plan.plan_id and await self._is_late(plan):
            key = segment_key(plan.partition, plan.seq)
            await self.patience.answered(lambda: self._store.delete(key))
            return None
        return found.trailer

    async def _is_late(self, plan: Plan) -> bool:
        """Whether a checkpoint covers another segment at this place, which was removed before ours was created.

        Only a process that was stopped for longer than segments are kept, between its look and its write, gets here.
        """
        covering = [seq for seq in await self.look_for_checkpoints(plan.partition) if seq >= plan.seq]
        if not covering:
            return False
        told = (await self.open_checkpoint(plan.partition, min(covering))).plan_id(plan.seq)
        return told is not None and told != plan.plan_id

    async def write_checkpoint(self, partition: str, seq: int) -> None:
        """Create the checkpoint at `seq` if there is none at or above it; all segments up to `seq` are published.

        Derived from the checkpoint before and the trailers since: killed anywhere, or raced by a rival, it is whole or
        not there. Raises Corrupt if a segment above the checkpoint before it is missing or damaged.
        """
        known = max(await self.checkpoints(partition), default=-1)
        if known >= seq:
            return
        base = await self.open_checkpoint(partition, known) if known >= 0 else None
        folding = Folding(partition, base, level=self._level)
        for start in range(known + 1, seq + 1, TRAILERS_AT_ONCE):
            trailers = await self.trailers(partition, start, min(start + TRAILERS_AT_ONCE, seq + 1))
            if None in trailers:
                raise self.missing(partition, start + trailers.index(None))
            await self._run(partial(_fold, folding, trailers))
        data = await self._run(folding.finished)
        with suppress(AlreadyExists):
            key = checkpoint_key(partition, seq)
            await self.patience.fetched(lambda: self._store.create(key, data))


def _fold(folding: Folding, trailers: Sequence[Trailer | None]) -> None:
    for trailer in trailers:
        assert trailer is not None
        folding.add(trailer)
        if folding.is_full:
            folding.fold()
