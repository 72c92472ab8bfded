"""The life of the daemon: open, probe, recover, stream, and shut down in two phases."""

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from mira_stream.daemon.build import built
from mira_stream.daemon.config import Config
from mira_stream.daemon.core_files import forbid_core_files
from mira_stream.daemon.descriptors import raise_descriptor_limit
from mira_stream.daemon.heartbeat import beat
from mira_stream.daemon.http import make_app, serving
from mira_stream.daemon.http_guard import guard_of
from mira_stream.daemon.memory import give_memory_back
from mira_stream.daemon.notify import Notifier
from mira_stream.daemon.reload import Reloader, Setup, setup_of
from mira_stream.daemon.service import Daemon
from mira_stream.daemon.shutdown import Shutdown
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.logs import configure_logs

_log = structlog.get_logger(__name__)
EXIT_STOPPED_POOL = 1
_YOUNG_OBJECTS_MAX = 10_000
"""New objects after which cycles are looked for: a decoded record alone has hundreds, and no cycles."""


async def run_daemon(config: Config, *, once: bool, read: Callable[[], Config] | None = None) -> int:
    """Run until everything is scored (`once`) or a signal ends it; the exit code. Raises Refusal and store errors.

    `read` reads the configuration again, where SIGHUP asks for it.
    """
    configure_logs(config.log.level, as_json=config.log.format == "json")
    forbid_core_files()
    give_memory_back()
    guard = guard_of(config.http)
    notifier = Notifier()
    raise_descriptor_limit()
    with _hangups() as asked:
        async with (
            built(config, once=once) as daemon,
            serving(
                make_app(daemon.exporter, daemon.status, daemon.unready, guard=guard), config.http.listen
            ) as url,
        ):
            _log.info("listening", url=url)
            _collect_less_often()
            await _live(daemon, config, notifier, _reloader(daemon, config, read or (lambda: config), asked))
            _tell_end(daemon)
    has_stopped = daemon.stopped_pools or daemon.pipeline.stages.committer.stopped
    return EXIT_STOPPED_POOL if has_stopped else 0


def _collect_less_often() -> None:
    """What was made so far stays to the end; what a record is made of is freed without the collector's help.

    Worth 3 % of a record's CPU (six pairs of runs, with and without).
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX)


@contextmanager
def _hangups() -> Iterator[asyncio.Event]:
    """Set by each SIGHUP, from the start to the end: unhandled it would end the process."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        yield asked
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _reloader(daemon: Daemon, config: Config, read: Callable[[], Config], asked: asyncio.Event) -> Reloader:
    async def read_again() -> Setup:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(daemon.executor, lambda: setup_of(read()))

    return Reloader(
        Setup(config, daemon.pools.plans),
        daemon.pools,
        read=read_again,
        asked=asked,
        state=lambda: daemon.state,
        meters=daemon.meters,
    )


async def _live(daemon: Daemon, config: Config, notifier: Notifier, reloader: Reloader) -> None:
    shutdown = Shutdown(
        daemon.pipeline,
        notifier,
        drain_seconds=config.service.drain_seconds,
        cancel_seconds=config.service.cancel_seconds,
    )
    async with asyncio.TaskGroup() as group:
        beside = [
            group.create_task(
                beat(
                    notifier,
                    daemon.meters,
                    daemon.status_line,
                    clock=time.monotonic,
                    each=daemon.note_pace,
                ),
                name="beat",
            ),
            group.create_task(_tell_ready(daemon, notifier), name="ready"),
            group.create_task(reloader.run(notifier), name="reload"),
        ]
        for dispatcher in daemon.pipeline.stages.dispatchers.values():
            dispatcher.on_request_ended = reloader.request_ended
        try:
            async with asyncio.timeout(None) as deadline:
                with shutdown.handling_signals(deadline):
                    await daemon.pipeline.run()
        except TimeoutError:
            _log.error(
                "the sink did not take what was received in time; it stays in the ledger for the next start"
            )
        for task in beside:
            task.cancel()


async def _tell_ready(daemon: Daemon, notifier: Notifier) -> None:
    await daemon.pipeline.stages.discovery.first_page.wait()
    notifier.ready()
    _log.info("ready")


def _tell_end(daemon: Daemon) -> None:
    account = daemon.account
    outcomes = {outcome.value: count for outcome, count in account.outcomes().items()}
    _log.info("ended", read=account.read, in_pipeline=account.in_pipeline, **outcomes)
    unsettled = daemon.pipeline.stages.reader.postponed
    unsettled += int(daemon.meters.value(metrics.SOURCE_NAMES_IGNORED, ("unsettled",)))
    if unsettled:
        _log.warning(
            "files that may still be written to were left unread, wholly or at their end", files=unsettled
        )
    unreadable = len(daemon.pipeline.stages.reader.left)
    unreadable += int(daemon.meters.value(metrics.SOURCE_NAMES_IGNORED, ("denied",)))
    if unreadable:
        _log.error("objects could not be read, and are left for the next start", objects=unreadable)
