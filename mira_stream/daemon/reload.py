"""`systemctl reload`: replicas come, go and move between pools as the configuration file says, under full load.

Nothing else may change that way: a file that differs in anything but the replicas of its pools is refused as a whole,
and the daemon goes on as before.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor

import msgspec
import structlog

from mira_stream.core.errors import MiraStreamError, Refusal
from mira_stream.daemon.config import Config
from mira_stream.daemon.notify import Notifier
from mira_stream.daemon.pools import plan_pools
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.pipeline.watch import Watcher
from mira_stream.ports import Replica
from mira_stream.replica.vllm import server_name
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_SHOWN = 5

MakeReplica = Callable[[str, str], Replica]
"""Opens a replica: group and address."""
Wanted = Mapping[str, Mapping[str, str]]
"""For each group the replicas it shall have: name to address."""


def wanted_replicas(old: Config, new: Config) -> Wanted:
    """The replicas of each pool under `new`. Raises Refusal if anything else differs from `old`."""
    differing = sorted(set(_differences(_frame(old), _frame(new), "")))
    if differing:
        shown = ", ".join(differing[:_SHOWN]) + (", …" if len(differing) > _SHOWN else "")
        raise Refusal(
            f"{shown}: only a pool's replicas can change by a reload", "restart the service, or undo it"
        )
    return {pool.group: {server_name(url): url for url in pool.replicas} for pool in new.pool}


def _frame(config: Config) -> object:
    """All of a configuration but the replicas; pools by their group, since their order means nothing."""
    frame = msgspec.to_builtins(config)
    frame["pool"] = {
        pool["group"]: {key: value for key, value in pool.items() if key != "replicas"}
        for pool in frame["pool"]
    }
    return frame


def _differences(old: object, new: object, where: str) -> Iterator[str]:
    """The keys, dotted, under which two trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif old != new:
        yield where


class Pools:
    """The pools' replicas: what they shall be, and the way there.

    A replica that leaves ends its requests first. One that moves joins its new pool only then: the batched-token budget
    is an engine's, so no two pools may hold permits on one.
    """

    def __init__(
        self,
        dispatchers: Mapping[str, Dispatcher],
        watchers: Mapping[str, Watcher],
        *,
        make: MakeReplica,
        meters: Meters,
    ) -> None:
        self._dispatchers = dispatchers
        self._watchers = watchers
        self._make = make
        self._meters = meters
        self._wanted: Wanted | None = None

    def want(self, wanted: Wanted) -> None:
        """From now on these; what an earlier call wanted is forgotten."""
        self._wanted = wanted

    @property
    def at_rest(self) -> bool:
        """Whether all pools have what they shall have."""
        return self._wanted is None

    def step(self) -> None:
        """Do what can be done now; call it again whenever a request has ended, until all is at rest."""
        if self._wanted is None:
            return
        for group, dispatcher in self._dispatchers.items():
            self._let_go(dispatcher, self._wanted[group])
        for group, dispatcher in self._dispatchers.items():
            self._take_in(group, dispatcher, self._wanted[group])
        if all(set(one.replicas) == set(self._wanted[group]) for group, one in self._dispatchers.items()):
            self._wanted = None
            _log.info("all pools have the replicas of the configuration")

    def _let_go(self, dispatcher: Dispatcher, wanted: Mapping[str, str]) -> None:
        for name in [name for name in dispatcher.replicas if name not in wanted]:
            dispatcher.leave(name)
            if dispatcher.left(name):
                self._meters.forget("replica", name)
                _log.info("replica has left", replica=name, group=dispatcher.pool.group)

    def _take_in(self, group: str, dispatcher: Dispatcher, wanted: Mapping[str, str]) -> None:
        for name, url in wanted.items():
            if name in dispatcher.replicas:
                dispatcher.stay(name)
            elif not any(name in one.replicas for one in self._dispatchers.values()):
                dispatcher.add(name, self._make(group, url))
                self._watchers[group].add(name)
                _log.info("replica has come", replica=name, group=group)


class Reloader:
    """Reads the configuration again when asked to, and brings the pools there. Runs until it is cancelled."""

    def __init__(
        self, config: Config, pools: Pools, *, read: Callable[[], Config], meters: Meters, executor: Executor
    ) -> None:
        self._config = config
        self._pools = pools
        self._read = read
        self._meters = meters
        self._executor = executor
        self._asked = False
        self._news = asyncio.Event()

    def ask(self) -> None:
        """A signal asked for it."""
        self._asked = True
        self._news.set()

    def request_ended(self) -> None:
        """A pool's request has ended: a replica that was to leave may have left."""
        if not self._pools.at_rest:
            self._news.set()

    async def run(self, notifier: Notifier) -> None:
        """Wait for news, and act on it."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._asked:
                self._asked = False
                notifier.reloading()
                await self._reload()
                notifier.ready()
            self._pools.step()

    async def _reload(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            new = await loop.run_in_executor(self._executor, self._checked)
            self._pools.want(wanted_replicas(self._config, new))
        except MiraStreamError as error:
            hint = error.hint if isinstance(error, Refusal) else ""
            _log.error(
                "configuration not taken over; the daemon goes on as before", error=str(error), hint=hint
            )
            self._meters.add(metrics.CONFIG_RELOADS, 1, ("refused",))
            return
        self._config = new
        _log.info("configuration read again")
        self._meters.add(metrics.CONFIG_RELOADS, 1, ("done",))

    def _checked(self) -> Config:
        config = self._read()
        plan_pools(config)
        return config
