"""`mira-stream render`: exactly what would be sent for one record of a local file."""

import time
from contextlib import aclosing
from pathlib import Path

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.core.naming import SourceNaming
from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line, ObjectVersion, RecordKey
from mira_stream.core.tokens import Estimator
from mira_stream.daemon.config import Config, load_config, parse_config
from mira_stream.daemon.pools import PoolPlan, plan_pools, pool_for
from mira_stream.pipeline.draft import draft_record, finish_draft
from mira_stream.pipeline.raw import RawRecord
from mira_stream.source.settings import SourceSettings
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from mira_stream.source.tail import TailSource


class Shown(msgspec.Struct, frozen=True):
    """A rendered request: as text for people, as the body that would be sent, and a line about it."""

    text: str
    body: str
    summary: str


async def render_record(file: Path, ordinal: int, *, group: str, config: Path | None) -> Shown:
    """Render line `ordinal` of `file`. Raises Refusal where there is nothing to send, with the reason."""
    settings = load_config(config) if config else _settings_of(group)
    line = await _line(file, ordinal)
    plans = plan_pools(settings)
    source = SourceNaming.parse(settings.source.name_from).of_key(file.name)
    plan = (pool_for(plans, source) if config else None) or plans[0]
    return _shown(line, source, plan, settings)


def _settings_of(group: str) -> Config:
    text = (
        f'[source]\nuri = "/nowhere/source"\n[sink]\nuri = "/nowhere/sink"\n[[pool]]\ngroup = "{group}"\n'
        'replicas = ["http://localhost:8000"]\n'
    )
    return parse_config(text, "the defaults")


async def _line(file: Path, ordinal: int) -> Line:
    """The line as the daemon would frame it: codecs, limits and damage as in a real run."""
    folder = _folder_of(file)
    source = TailSource(
        open_store(str(folder), StoreSettings()),
        SourceSettings(uri=str(folder), include=(file.name,), grow_settle_seconds=0),
        SourceNaming(),
        wall_clock=time.time,
    )
    try:
        return await _find(source, file, ordinal)
    finally:
        source.close()


def _folder_of(file: Path) -> Path:
    if not file.is_file():
        raise Refusal(f"there is no file {file}", "give a local JSONL file, plain, zstd or gzip")
    return file.resolve().parent


async def _find(source: TailSource, file: Path, ordinal: int) -> Line:
    version = None
    async for page in source.discover(known=lambda _: {}):
        for seen in page:
            version = seen.version if Path(seen.key).name == file.name else version
    if version is None:
        raise Refusal(
            f"{file} has no line that the daemon would read",
            "an empty file has no records; names that begin with . or _ or end in .tmp are never read",
        )
    lines = 0
    async with aclosing(source.read(version, once=True)) as batches:
        async for batch in batches:
            for line in batch.lines:
                lines = line.ordinal + 1
                if line.ordinal == ordinal:
                    return line
            if (end := batch.end) is not None and end.reason is not None:
                raise Refusal(f"{file} ends badly after {lines} lines: {end.reason}: {end.message}")
    raise Refusal(f"{file} has {lines} lines, none with the ordinal {ordinal}", "ordinals count from 0")


def _shown(line: Line, source: str, plan: PoolPlan, settings: Config) -> Shown:
    raw = RawRecord(RecordKey(ObjectVersion("file://render", ""), line.ordinal), source, line.raw)
    estimator = Estimator()
    draft = draft_record(
        raw,
        lambda _: plan.prompting,
        name_field=SourceNaming.parse(settings.source.name_from).field,
        meta_fields=settings.record.meta,
        estimator=estimator,
    )
    if isinstance(draft.result, Reason):
        raise _not_sent(draft.result)
    estimate = draft.result.estimated
    prepared = finish_draft(draft, plan.prompting, estimator=estimator)
    if isinstance(prepared, Reason):
        raise _not_sent(prepared)
    subject = prepared.subject
    messages = msgspec.json.decode(prepared.body)["messages"]
    text = "\n\n".join(f"──── {message['role']} ────\n{message['content']}" for message in messages)
    summary = (
        f"shape {subject.shape} · about {prepared.prompt_tokens} prompt tokens "
        f"(the whole record {estimate.low} to {estimate.high}) · truncated {subject.truncated_tokens} · "
        f"special tokens neutralised {subject.neutralised_tokens}"
    )
    return Shown(text, prepared.body.decode(), summary)


def _not_sent(reason: Reason) -> Refusal:
    return Refusal(f"this record is not sent: {reason.value}", f"see ops/runbook.md, {reason.value}")
