"""The prepare stage: raw lines become requests that are ready to be sent, or outcomes where nothing can be asked."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from mira_stream.core.errors import MiraStreamError, Permanent, Transient
from mira_stream.core.outcome import Reason
from mira_stream.core.tokens import Estimator
from mira_stream.core.trace import Shape
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.draft import (
    Draft,
    Prepared,
    Prompting,
    Text,
    draft_record,
    finish_draft,
    tokenize_body,
)
from mira_stream.pipeline.exact import ExactCounts
from mira_stream.pipeline.raw import RawChannel, RawRecord
from mira_stream.pipeline.rows import RowMaker, Subject
from mira_stream.ports import Clock
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)
_OFF_LOOP_BYTES = 256 << 10
"""Lines longer than this are prepared in the executor: milliseconds of work would stall the loop."""
_OFF_LOOP_CHARS = 96 << 10
"""The same for making texts fit, which may estimate and encode them several times."""
_COUNT_AGAIN_SECONDS = 1.0
_COUNT_TRIES_MAX = 3
_COUNTS_MAX = 3

Count = Callable[[bytes], Awaitable[int | None]]
"""Exact prompt tokens of a `/tokenize` body; None while no replica is there to ask; raises if those that are cannot say."""

Offer = Callable[[Prepared], Awaitable[None]]


class PoolEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the prepare stage needs of one pool; `exact` where its tokenizer is at hand."""

    prompting: Prompting
    count: Count
    offer: Offer
    exact: ExactCounts | None = None

    @property
    def trusted(self) -> ExactCounts | None:
        """The exact counter, as long as it is believed."""
        return self.exact if self.exact is not None and self.exact.trusted else None


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What the prepare stage works with."""

    estimator: Estimator
    committer: Committer
    rows: RowMaker
    meters: Meters
    clock: Clock
    executor: Executor


class Preparer:
    """The prepare stage.

    Args:
        pool_of: the pool of a source, or None.
        name_field: the field by which a record names its own source, if it does.
        meta_fields: fields of the record that travel into its row.
    """

    def __init__(
        self,
        pool_of: Callable[[str], PoolEntry | None],
        *,
        name_field: str | None,
        meta_fields: tuple[str, ...],
        tools: Tools,
    ) -> None:
        self._pool_of = pool_of
        self._name_field = name_field
        self._meta_fields = meta_fields
        self._tools = tools

    async def work(self, channel: RawChannel) -> None:
        """Prepare what comes through `channel` until it is closed and empty."""
        while True:
            try:
                await self._prepare(await channel.get())
            except Closed:
                return

    async def _prepare(self, raw: RawRecord) -> None:
        began = self._tools.clock()
        if raw.reason is not None:
            await self._end(Subject(key=raw.key, source=raw.source), raw.reason)
            return
        draft = await self._drafted(raw)
        if isinstance(draft.result, Reason):
            await self._end(draft.subject, draft.result)
            return
        entry = self._pool_of(draft.subject.source)
        assert entry is not None, "a draft without a pool has a reason"
        prepared = await self._fitted(draft, entry)
        if isinstance(prepared, Reason):
            await self._end(draft.subject, prepared)
            return
        self._note(prepared.subject)
        self._tools.meters.observe(
            metrics.PREPARE_SECONDS, self._tools.clock() - began, (entry.prompting.group,)
        )
        await entry.offer(prepared)

    async def _end(self, subject: Subject, reason: Reason) -> None:
        received = self._tools.rows.unasked(subject, reason)
        await self._tools.committer.wait_for_room()
        await self._tools.committer.finish(received, source=subject.source, stage=Stage.PREPARING)

    async def _drafted(self, raw: RawRecord) -> Draft:
        if len(raw.raw) <= _OFF_LOOP_BYTES:
            return self._draft(raw)
        return await asyncio.get_running_loop().run_in_executor(self._tools.executor, self._draft, raw)

    def _draft(self, raw: RawRecord) -> Draft:
        def prompting_of(source: str) -> Prompting | None:
            entry = self._pool_of(source)
            return None if entry is None else entry.prompting

        return draft_record(
            raw,
            prompting_of,
            name_field=self._name_field,
            meta_fields=self._meta_fields,
            estimator=self._tools.estimator,
            exact=lambda source: (entry := self._pool_of(source)) is not None and entry.trusted is not None,
        )

    async def _fitted(self, draft: Draft, entry: PoolEntry) -> Prepared | Reason:
        """Let other work run between the two halves; what fits is decided by exact counts where there are any."""
        await asyncio.sleep(0)
        exact = entry.trusted
        if exact is not None:
            finished = await self._fitted_exactly(draft, exact)
            if finished is not None:
                return finished
        estimated = await self._off_loop(
            draft, lambda: draft.estimated(entry.prompting, self._tools.estimator)
        )
        return await self._fitted_by_estimate(estimated, entry)

    async def _fitted_exactly(self, draft: Draft, exact: ExactCounts) -> Prepared | Reason | None:
        """None if the counter is in trouble and an estimate does as well; where ids are sent, nothing else does."""
        while True:
            try:
                return await exact.finish(draft)
            except Transient as error:
                _log.warning("a record could not be counted exactly", error=str(error))
                if not exact.as_ids:
                    return None
            await asyncio.sleep(_COUNT_AGAIN_SECONDS)

    async def _fitted_by_estimate(self, draft: Draft, entry: PoolEntry) -> Prepared | Reason:
        """Count by a replica where the estimate is too near to the limit."""
        prompting, estimator = entry.prompting, self._tools.estimator
        draft = await self._off_loop(draft, partial(draft.cut_if_over, prompting, estimator))
        counted = None
        for _ in range(_COUNTS_MAX):
            body = await self._off_loop(draft, partial(tokenize_body, draft, prompting, counted=counted))
            if body is None:
                break
            counted = await self._counted(body, entry)
            if counted is None:
                break
            draft = await self._off_loop(draft, partial(draft.cut_to, counted, prompting, estimator))
        return await self._off_loop(draft, partial(finish_draft, draft, prompting, estimator=estimator))

    async def _off_loop(self, draft: Draft, work: Callable[[], _T]) -> _T:
        """Do it here if the text is short, else where it does not stall the loop."""
        assert isinstance(draft.result, Text)
        if len(draft.result.text) <= _OFF_LOOP_CHARS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._tools.executor, work)

    async def _counted(self, body: bytes, entry: PoolEntry) -> int | None:
        """The exact count; None if the replicas cannot say, so that the estimate's upper end has to do."""
        failures = 0
        while True:
            try:
                counted = await entry.count(body)
            except MiraStreamError as error:
                failures += 1
                if isinstance(error, Permanent) or failures == _COUNT_TRIES_MAX:
                    _log.warning("a record near the limit could not be counted exactly", error=str(error))
                    return None
                counted = None
            if counted is not None:
                self._tools.meters.add(metrics.PREPARE_COUNTED, 1, (entry.prompting.group,))
                return counted
            await asyncio.sleep(_COUNT_AGAIN_SECONDS)

    def _note(self, subject: Subject) -> None:
        meters, source = self._tools.meters, (self._tools.meters.source(subject.source),)
        meters.add(metrics.PREPARE_TRUNCATED, subject.truncated_tokens, source)
        meters.add(metrics.PREPARE_NEUTRALISED, subject.neutralised_tokens, source)
        if subject.shape == Shape.UNKNOWN:
            meters.add(metrics.PREPARE_UNKNOWN_SHAPE, 1, source)
