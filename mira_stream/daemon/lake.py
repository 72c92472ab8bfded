"""Opening what the daemon, `check` and `verify` share: both stores, the source, the sink's reader, the ledger."""

import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from uuid import uuid4

import msgspec
import structlog

from mira_stream.control.sealing import RollLimits
from mira_stream.core.errors import Refusal
from mira_stream.core.failpoint import FAILPOINTS, Failpoint, inert
from mira_stream.core.naming import SourceNaming
from mira_stream.daemon.config import Config
from mira_stream.ledger.sqlite import SqliteLedger
from mira_stream.ports import ObjectStore
from mira_stream.sink.layout import Layout, ensure_layout
from mira_stream.sink.probe import probe_sink
from mira_stream.sink.reader import SegmentReader
from mira_stream.sink.replays import ReplayFolder
from mira_stream.sink.retry import Patience
from mira_stream.source.probe import probe_source
from mira_stream.source.store import open_store
from mira_stream.source.tail import TailSource
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_AUDIT_TRIES = 5
_TELL_SECONDS = 60.0
_FAILPOINT = re.compile(r"(?P<name>[a-z.]+)(?:@(?P<at>[1-9][0-9]*))?(?P<stop>:stop)?", re.ASCII)


class Stores(msgspec.Struct, frozen=True):
    """Both ends of the lake."""

    source: ObjectStore
    sink: ObjectStore


def open_stores(config: Config, meters: Meters) -> Stores:
    """Open both stores; raises Refusal if one lies inside the other (the daemon would score its own output)."""

    def ignored(reason: str, names: int) -> None:
        meters.add(metrics.SOURCE_NAMES_IGNORED, names, (reason,))

    stores = Stores(
        source=open_store(config.source.uri, config.source.store, on_refused=ignored),
        sink=open_store(config.sink.uri, config.sink.store, on_refused=_refuse_links),
    )
    source, sink = f"{stores.source.uri}/", f"{stores.sink.uri}/"
    if source.startswith(sink) or sink.startswith(source):
        raise Refusal(
            f"source.uri {stores.source.uri} and sink.uri {stores.sink.uri} lie inside each other",
            "the daemon would score its own output: give the sink a place beside the source",
        )
    return stores


def _refuse_links(reason: str, names: int) -> None:
    """No listing follows a link: rows behind one would be unknown to a rebuild and to an audit, and come again."""
    if reason == "link":
        raise Refusal(
            f"{names} names in the sink are symbolic links, and what they lead to would not be counted",
            "put the files and folders themselves there (find them with `find SINK -type l`); where another disk is meant,"
            " use a bind mount",
        )


def layout_of(config: Config, source_uri: str) -> Layout:
    """The layout that this configuration means; `source_uri` as the store spells it."""
    return Layout(
        source_naming=config.source.name_from,
        shards=config.sink.shards,
        format=config.sink.format,
        source_uri=source_uri,
    )


async def probe_stores(config: Config, stores: Stores) -> list[str]:
    """The start-up probe of both stores and the layout; findings for people. Raises Refusal and store errors."""
    await probe_sink(stores.sink, uuid4().hex)
    await ensure_layout(stores.sink, layout_of(config, stores.source.uri))
    return await probe_source(stores.source)


def make_source(config: Config, store: ObjectStore, meters: Meters) -> TailSource:
    """The live source over `store`."""

    def ignored(reason: str, names: int) -> None:
        meters.add(metrics.SOURCE_NAMES_IGNORED, names, (reason,))

    naming = SourceNaming.parse(config.source.name_from)
    return TailSource(store, config.source, naming, wall_clock=time.time, on_ignored=ignored)


def open_ledger(config: Config, sink_uri: str, failpoint: Failpoint = inert) -> SqliteLedger:
    """The ledger of this configuration. Raises Refusal."""
    return SqliteLedger.open(
        Path(config.ledger.path),
        sink_uri=sink_uri,
        settings=config.ledger,
        roll=RollLimits(config.sink.roll_records, config.sink.roll_bytes),
        on_overwrite=config.source.on_overwrite,
        clock=time.monotonic,
        failpoint=failpoint,
    )


def _ledger_that_is_there(config: Config, sink_uri: str) -> SqliteLedger:
    """As `open_ledger`, but an audit makes none."""
    if not Path(config.ledger.path).exists():
        raise Refusal(
            f"there is no ledger at {config.ledger.path}", "correct ledger.path, or leave out --ledger"
        )
    return open_ledger(config, sink_uri)


def failpoint_from_environment() -> Failpoint:
    """`MIRA_STREAM_FAILPOINT=seal.before`: the process kills itself there, as a power cut would. For tests.

    `seal.before@3` does so at the third time, `seal.before@3:stop` stops the process there until it is continued.
    """
    wanted = os.environ.get("MIRA_STREAM_FAILPOINT", "")
    if not wanted:
        return inert
    match = _FAILPOINT.fullmatch(wanted)
    if match is None or match["name"] not in FAILPOINTS:
        raise Refusal(
            f"MIRA_STREAM_FAILPOINT={wanted} is no failpoint",
            f"one of {', '.join(FAILPOINTS)}, with @2 for the second time, with :stop to stop there",
        )
    times = count(1)
    at, fate = int(match["at"] or 1), signal.SIGSTOP if match["stop"] else signal.SIGKILL

    def end_here(name: str) -> None:
        if name == match["name"] and next(times) == at:
            os.kill(os.getpid(), fate)

    return end_here


class SinkTrouble:
    """Counts the calls to the sink that are tried again, and says why, once a minute while that lasts.

    Args:
        meters: where they are counted.
        clock: monotonic seconds.
    """

    def __init__(self, meters: Meters, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._meters = meters
        self._clock = clock
        self._told_at = float("-inf")

    def __call__(self, problem: str) -> None:
        self._meters.add(metrics.SINK_RETRIES)
        now = self._clock()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            _log.warning("the sink is in trouble; tried again until it is well", error=problem)


class AuditLake(msgspec.Struct, frozen=True):
    """What an audit reads; `chains` is the ledger's view, where it was asked for, `replays` where they are asked for."""

    source: TailSource
    source_uri: str
    sink: SegmentReader
    chains: Mapping[str, int]
    replays: ReplayFolder


@asynccontextmanager
async def opened_for_audit(config: Config, *, with_ledger: bool) -> AsyncIterator[AuditLake]:
    """Source and sink for `verify`, without probes: an audit writes nothing."""
    meters = Meters()
    stores = open_stores(config, meters)
    source = make_source(config, stores.source, meters)
    with ThreadPoolExecutor(2, "audit") as executor:
        patience = Patience(config.sink, tries_max=_AUDIT_TRIES)
        sink = SegmentReader(stores.sink, patience=patience, executor=executor)
        chains: Mapping[str, int] = {}
        if with_ledger:
            ledger = _ledger_that_is_there(config, stores.sink.uri)
            try:
                chains = await ledger.chains()
            finally:
                await ledger.close()
        try:
            replays = ReplayFolder(stores.sink, patience=patience)
            yield AuditLake(source, stores.source.uri, sink, chains, replays)
        finally:
            source.close()
