"""From a raw line to a request that is ready to be sent, or to the outcome of a record that cannot be asked about."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import msgspec

from mira_stream.core.decode import decode, field_text
from mira_stream.core.errors import MiraStreamError
from mira_stream.core.fit import Zone, truncate_middle, zone
from mira_stream.core.outcome import Reason
from mira_stream.core.prompt import PromptTemplate, neutralise_rendered
from mira_stream.core.request import RequestEncoder
from mira_stream.core.tokens import Estimate, Estimator
from mira_stream.core.trace import Shape, render
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.raw import RawChannel, RawRecord
from mira_stream.pipeline.rows import RowMaker, Subject
from mira_stream.ports import Clock
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

OFF_LOOP_BYTES = 256 << 10
"""Lines longer than this are prepared in the executor: milliseconds of work would stall the loop."""


class Prompting(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool asks: its template, its request, and how many tokens prompt and reply may have together."""

    group: str
    slots: tuple[str, ...]
    template: PromptTemplate
    encoder: RequestEncoder
    context_tokens: int
    max_tokens: int
    truncate: bool

    @property
    def prompt_tokens_max(self) -> int:
        return self.context_tokens - self.max_tokens


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is ready to be sent. `prompt_tokens` is what admission counts; `estimate` is what the estimator
    said of the whole prompt, to be compared with what the replica counts."""

    subject: Subject
    body: bytes
    prompt_tokens: int
    estimate: Estimate


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A rendered record, before it is known whether it fits."""

    subject: Subject
    text: str
    turns: tuple[int, ...]
    estimate: Estimate


Count = Callable[[bytes], Awaitable[int | None]]
"""Exact prompt tokens of a `/tokenize` body, from a replica; None if none can say now."""

Offer = Callable[[Prepared], Awaitable[None]]


class PoolEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the prepare stage needs of one pool."""

    prompting: Prompting
    count: Count
    offer: Offer


class Preparer:
    """The prepare stage. `pool_of` gives the pool of a source, or None; `name_field` is a record's own source field."""

    def __init__(
        self,
        pool_of: Callable[[str], PoolEntry | None],
        *,
        name_field: str | None,
        meta_fields: tuple[str, ...],
        estimator: Estimator,
        committer: Committer,
        rows: RowMaker,
        meters: Meters,
        clock: Clock,
        executor: Executor,
    ) -> None:  # one stage's tools, named in build.py
        self._pool_of = pool_of
        self._name_field = name_field
        self._meta_fields = meta_fields
        self._estimator = estimator
        self._committer = committer
        self._rows = rows
        self._meters = meters
        self._clock = clock
        self._executor = executor

    async def work(self, channel: RawChannel) -> None:
        """Prepare what comes through `channel` until it is closed and empty."""
        while True:
            try:
                raw = await channel.get()
                await self._prepare(raw)
            except Closed:
                return

    async def _prepare(self, raw: RawRecord) -> None:
        began = self._clock()
        subject = Subject(key=raw.key, source=raw.source)
        if raw.reason is not None:
            await self._end(subject, raw.reason)
            return
        if self._name_field is None and self._pool_of(raw.source) is None:
            await self._end(subject, Reason.BLANK if not raw.raw or raw.raw.isspace() else Reason.NO_POOL)
            return
        prepared = await self._drafted(raw, subject)
        if isinstance(prepared, Reason):
            await self._end(subject, prepared)
            return
        draft, entry = prepared
        ready = await self._fitted(draft, entry)
        if isinstance(ready, Reason):
            await self._end(draft.subject, ready)
            return
        self._meters.observe(metrics.PREPARE_SECONDS, self._clock() - began, (entry.prompting.group,))
        self._count(ready.subject)
        await entry.offer(ready)

    async def _end(self, subject: Subject, reason: Reason) -> None:
        received = self._rows.unasked(subject, reason)
        await self._committer.finish(received, source=subject.source, stage=Stage.PREPARING)

    # Text.

    async def _drafted(self, raw: RawRecord, subject: Subject) -> tuple[Draft, PoolEntry] | Reason:
        if len(raw.raw) > OFF_LOOP_BYTES:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._draft, raw, subject)
        return self._draft(raw, subject)

    def _draft(self, raw: RawRecord, subject: Subject) -> tuple[Draft, PoolEntry] | Reason:
        record = decode(raw.raw, first=raw.key.ordinal == 0)
        if isinstance(record, Reason):
            return record
        source = raw.source if self._name_field is None else field_text(record, self._name_field)
        if not source:
            return Reason.MISSING_FIELD
        entry = self._pool_of(source)
        if entry is None:
            return Reason.NO_POOL
        rendered = render(record)
        if isinstance(rendered, Reason):
            return rendered
        text, turns, neutralised = neutralise_rendered(rendered.text, rendered.turns)
        full = msgspec.structs.replace(
            subject,
            source=source,
            group=entry.prompting.group,
            shape=rendered.shape,
            meta=self._meta(record),
            neutralised_tokens=neutralised,
        )
        estimate = self._estimator.estimate(text, source)
        return Draft(subject=full, text=text, turns=turns, estimate=estimate), entry

    def _meta(self, record: dict[str, object]) -> str | None:
        found = {name: text for name in self._meta_fields if (text := field_text(record, name)) is not None}
        return msgspec.json.encode(found).decode() if found else None
