"""The commit: one conditional create publishes a segment, and reading back decides whose it is."""

from concurrent.futures import Executor

from mira_stream.core.errors import AlreadyExists, Transient, TransientKind
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.core.segment import Plan, Trailer
from mira_stream.ports import ObjectStore
from mira_stream.sink.format import encode_segment, segment_key
from mira_stream.sink.reader import SegmentReader
from mira_stream.sink.retry import Patience
from mira_stream.sink.settings import SinkSettings


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

    async def chains(self) -> dict[str, int]:
        """As the reader's; what was listed survives power loss from then on, so that it may be adopted."""
        found = await super().chains()
        await self.patience.until_known(self._store.settle)
        return found

    async def publish(self, plan: Plan) -> Trailer:
        """Steps 3 and 4, for the same plan until it is known what stands at (partition, seq); cancellable.

        Returns the trailer that stands there: ours if its `plan_id` is the plan's. Raises Corrupt if what stands there
        is no segment.
        """
        data = await self._run(lambda: encode_segment(plan, level=self._level))
        return await self.patience.until_known(lambda: self._try_to_publish(plan, data))

    async def _try_to_publish(self, plan: Plan, data: bytes) -> Trailer:
        self._failpoint("publish.before")
        doubt = await self._create(segment_key(plan.partition, plan.seq), data)
        self._failpoint("publish.after")
        self._failpoint("confirm.before")
        found = await self.look(plan.partition, plan.seq) if doubt else None
        self._failpoint("confirm.after")
        if doubt and found is None:
            raise doubt
        return found.trailer if found else plan.trailer

    async def _create(self, key: str, data: bytes) -> Transient | None:
        """None if the store says that ours was created; else what is wrong if nothing turns out to stand there."""
        try:
            await self.patience.answered(lambda: self._store.create(key, data))
        except AlreadyExists:
            return Transient(TransientKind.SERVER, f"{self.uri}/{key} was there and is gone")
        except Transient as error:
            return error
        return None
