"""The composition root: the one place where adapters, decisions and stages are put together."""

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from mira_stream.control.admission import PoolControl
from mira_stream.control.health import BreakerState
from mira_stream.control.selftest import self_test
from mira_stream.core.early_stop import EarlyStop
from mira_stream.core.errors import MiraStreamError, Refusal
from mira_stream.core.naming import SourceNaming
from mira_stream.core.tokens import Estimator, raw_tokens
from mira_stream.core.usage import Reply
from mira_stream.daemon.aggregators import load_aggregators
from mira_stream.daemon.config import Config
from mira_stream.daemon.counters import OpenCounter, canned_chat, open_counters, warm_up_body
from mira_stream.daemon.host_meters import meter_host
from mira_stream.daemon.lake import (
    SinkTrouble,
    failpoint_from_environment,
    make_source,
    open_ledger,
    open_stores,
    probe_stores,
)
from mira_stream.daemon.pools import PoolPlan, known_sources, plan_pools, pool_for
from mira_stream.daemon.reload import Pools
from mira_stream.daemon.service import Daemon
from mira_stream.daemon.status_parts import config_status
from mira_stream.pipeline.account import Account
from mira_stream.pipeline.channel import Channel
from mira_stream.pipeline.commit import CommitSettings, Committer
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.pipeline.draft import Prepared
from mira_stream.pipeline.left_objects import LeftObjects, ReadSettings
from mira_stream.pipeline.prepare import PoolEntry, Preparer, Tools
from mira_stream.pipeline.raw import RawChannel, RawRecord
from mira_stream.pipeline.read import Discovery, Reader
from mira_stream.pipeline.replays import Replayer, ReplayTools
from mira_stream.pipeline.request import PoolIdentity, Workplace
from mira_stream.pipeline.rows import Fingerprints, RowMaker
from mira_stream.pipeline.topology import Pipeline, Stages
from mira_stream.pipeline.watch import Watcher
from mira_stream.ports import Ledger, Replays, Replica, Sink, Source
from mira_stream.replica.vllm import VllmReplica, open_session
from mira_stream.sink.replays import ReplayFolder
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_CHANNEL_RECORDS = 64
_CHANNEL_BYTES = 32 << 20
_NO_POOL = ""


class Adapters(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that touches the world, opened; `replicas` by group and name, exact counters by group."""

    source: Source
    source_of: Callable[[str], str | None]
    ledger: Ledger
    sink: Sink
    replays: Replays
    replicas: Mapping[str, Mapping[str, Replica]]
    workers: Executor
    counters: Mapping[str, OpenCounter] = {}


@asynccontextmanager
async def built(config: Config, *, once: bool) -> AsyncIterator[Daemon]:
    """Try the gates, open everything, probe the stores, and put the pipeline together; closes it all on the way out."""
    if stuck := self_test(config.admission):
        raise Refusal(
            f"[admission]: {stuck[0]}", "no record could be sent, or no bound kept, with these settings"
        )
    plans = plan_pools(config)
    meters = Meters(known_sources(config, plans))
    failpoint = failpoint_from_environment()
    async with AsyncExitStack() as stack:
        stores = open_stores(config, meters)
        await probe_stores(config, stores)
        ledger = open_ledger(config, stores.sink.uri, failpoint)
        stack.push_async_callback(ledger.close)
        meter_host(meters, Path(config.ledger.path), wall=time.time)
        source = make_source(config, stores.source, meters)
        stack.callback(source.close)
        workers = stack.enter_context(ThreadPoolExecutor(4, "worker"))
        patience = Patience(config.sink, on_retry=SinkTrouble(meters))
        sink = SegmentSink(
            stores.sink, settings=config.sink, patience=patience, executor=workers, failpoint=failpoint
        )
        session = await stack.enter_async_context(open_session(config.replica))

        def make(group: str, url: str) -> VllmReplica:
            plan = next(one for one in plans if one.group == group)
            return VllmReplica(
                url,
                session,
                api_key=plan.api_key,
                mode=config.request.mode,
                watch=lambda: EarlyStop(plan.prompting.slots),
                settings=config.replica,
            )

        replicas = {
            plan.group: {
                replica.name: replica for replica in (make(plan.group, url) for url in plan.replicas)
            }
            for plan in plans
        }
        counters = await stack.enter_async_context(
            open_counters(config, plans, executor=workers, meters=meters)
        )
        adapters = Adapters(
            source=source,
            source_of=source.source_of,
            ledger=ledger,
            sink=sink,
            replays=ReplayFolder(stores.sink, patience=patience),
            replicas=replicas,
            workers=workers,
            counters=counters,
        )
        pipeline = assemble(config, plans, adapters, meters, once=once)
        stages = pipeline.stages
        pools = Pools(stages.dispatchers, stages.watchers, plans=plans, make=make, meters=meters)
        summary = config_status(config, once=once)
        yield Daemon(pipeline, meters, pools=pools, executor=workers, config=summary)


def assemble(
    config: Config, plans: tuple[PoolPlan, ...], adapters: Adapters, meters: Meters, *, once: bool
) -> Pipeline:
    """The stages over opened adapters."""
    account = Account(meters)
    committer = Committer(
        adapters.ledger,
        adapters.sink,
        account=account,
        settings=msgspec.convert(config.sink, CommitSettings, from_attributes=True),
        clock=time.monotonic,
        wall=time.time,
    )
    rows = RowMaker(
        shards=config.sink.shards,
        now=_rfc3339_now,
        keep_reply=config.record.keep_reply,
        aggregators=load_aggregators(config.aggregate, plans),
    )
    workplace = Workplace(
        committer=committer,
        rows=rows,
        account=account,
        meters=meters,
        clock=time.monotonic,
        jitter=random.random,
    )
    estimator = Estimator()
    pipelines: list[Pipeline] = []  # known to the dispatchers only when it stands
    dispatchers = {
        plan.group: _dispatcher(
            plan, config, adapters, workplace, estimator, lambda: _drain(pipelines, once=once)
        )
        for plan in plans
    }
    entries = {
        plan.group: _entry(plan, dispatchers[plan.group], adapters.counters.get(plan.group)) for plan in plans
    }
    tools = Tools(
        estimator=estimator,
        committer=committer,
        rows=rows,
        meters=meters,
        clock=time.monotonic,
        executor=adapters.workers,
    )
    intake = _intake(config, plans, adapters, committer, meters, once=once)
    stages = Stages(
        discovery=intake.discovery,
        reader=intake.reader,
        replayer=intake.replayer,
        preparer=Preparer(
            lambda source: entries[plan.group] if (plan := pool_for(plans, source)) else None,
            name_field=SourceNaming.parse(config.source.name_from).field,
            meta_fields=config.record.meta,
            tools=tools,
        ),
        channels=intake.channels,
        dispatchers=dispatchers,
        watchers={plan.group: _watcher(plan, dispatchers[plan.group], config, meters) for plan in plans},
        committer=committer,
        scores=workplace.scores,
    )
    pipeline = Pipeline(adapters.ledger, adapters.sink, stages, account=account)
    pipelines.append(pipeline)
    return pipeline


class _Intake(NamedTuple):
    """The stages from the listing to the channels of the pools."""

    discovery: Discovery
    reader: Reader
    replayer: Replayer
    channels: tuple[RawChannel, ...]


def _intake(
    config: Config,
    plans: tuple[PoolPlan, ...],
    adapters: Adapters,
    committer: Committer,
    meters: Meters,
    *,
    once: bool,
) -> _Intake:
    channels = _channels(plans, meters)
    settings = ReadSettings(
        list_seconds=config.source.list_seconds,
        open_objects_max=config.source.open_objects_max,
        once=once,
        vanished_seconds=config.source.grow_settle_seconds,
    )
    source, ledger = adapters.source, adapters.ledger

    def route(name: str) -> RawChannel:
        return channels[plan.group if (plan := pool_for(plans, name)) else _NO_POOL]

    left = LeftObjects(ledger, settings=settings, clock=time.monotonic, meters=meters)
    reader = Reader(source, ledger, committer, route=route, meters=meters, left=left)
    says_its_source = SourceNaming.parse(config.source.name_from).field is not None
    tools = ReplayTools(
        source_of=adapters.source_of,
        can_score=lambda name: says_its_source or pool_for(plans, name) is not None,
        route=route,
        emit=reader.emit,
        settings=settings,
        meters=meters,
    )
    return _Intake(
        Discovery(source, ledger, meters=meters, settings=settings, clock=time.monotonic, wall=time.time),
        reader,
        Replayer(adapters.replays, source, ledger, committer=committer, tools=tools),
        tuple(channels.values()),
    )


def _drain(pipelines: list[Pipeline], *, once: bool) -> None:
    """A stopped pool ends a `--once` run; a following daemon goes on with its other pools."""
    if once:
        for pipeline in pipelines:
            pipeline.drain()


def _rfc3339_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _dispatcher(
    plan: PoolPlan,
    config: Config,
    adapters: Adapters,
    workplace: Workplace,
    estimator: Estimator,
    on_stopped: Callable[[], None],
) -> Dispatcher:
    counter = adapters.counters.get(plan.group)

    def learn(prepared: Prepared, reply: Reply) -> None:
        if counter is not None and not prepared.raw_tokens:
            counter.exact.compare(prepared.prompt_tokens, reply.usage.prompt_tokens)
        estimator.observe(prepared.subject.source, prepared.raw_tokens, reply.usage.prompt_tokens)

    replicas = adapters.replicas[plan.group]
    canned = counter.canned if counter is not None else canned_chat(plan)
    identity = PoolIdentity(
        group=plan.group,
        model=plan.model,
        prompting=plan.prompting,
        fingerprints=Fingerprints(plan.rubric.fingerprint, plan.prompting.template.fingerprint),
        canned=canned,
        warm_up=warm_up_body(plan, canned if config.request.mode == "tokens" else None),
        reasks_max=config.request.reasks_max,
    )
    template = plan.prompting.template
    shared_tokens = raw_tokens(template.system + template.before)
    control = PoolControl(list(replicas), config.admission, shared_tokens=shared_tokens)
    return Dispatcher(identity, control, replicas, workplace=workplace, learn=learn, on_stopped=on_stopped)


def _entry(plan: PoolPlan, dispatcher: Dispatcher, counter: OpenCounter | None) -> PoolEntry:
    async def count(body: bytes) -> int | None:
        """Ask the first replica that is able to say; None if none is well."""
        trouble: MiraStreamError | None = None
        for snapshot in dispatcher.snapshot():
            # A half-open one has passed a look, and is closed only by a record: those that wait here may be all there are.
            if snapshot.breaker is not BreakerState.OPEN:
                try:
                    return await dispatcher.replicas[snapshot.name].count(body)
                except MiraStreamError as error:
                    trouble = error
        if trouble is not None:
            raise trouble
        return None

    exact = counter.exact if counter is not None else None
    return PoolEntry(prompting=plan.prompting, count=count, offer=dispatcher.offer, exact=exact)


def _channels(plans: tuple[PoolPlan, ...], meters: Meters) -> dict[str, RawChannel]:
    """One channel per pool, and one for records of no pool, so that a full pool does not hold up the others."""
    channels: dict[str, RawChannel] = {
        name: Channel[RawRecord](items_max=_CHANNEL_RECORDS, bytes_max=_CHANNEL_BYTES)
        for name in (*(plan.group for plan in plans), _NO_POOL)
    }

    def refresh() -> None:
        for name, channel in channels.items():
            labels = (name or "none",)
            meters.set(metrics.PREPARE_CHANNEL_RECORDS, len(channel), labels)
            meters.set(metrics.PREPARE_CHANNEL_RECORDS_LIMIT, channel.items_max, labels)
            meters.set(metrics.PREPARE_CHANNEL_BYTES, channel.bytes, labels)
            meters.set(metrics.PREPARE_CHANNEL_BYTES_LIMIT, channel.bytes_max, labels)

    meters.refresh_with(refresh)
    return channels


def _watcher(plan: PoolPlan, dispatcher: Dispatcher, config: Config, meters: Meters) -> Watcher:
    return Watcher(
        dispatcher,
        context_tokens=plan.prompting.context_tokens,
        settings=config.admission,
        clock=time.monotonic,
        jitter=random.random,
        meters=meters,
    )
