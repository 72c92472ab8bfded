"""`systemctl reload`: replicas come, go and move between pools as the configuration file says, under full load.

Nothing else may change that way: a file that differs in anything but the replicas of its pools is refused as a whole,
and the daemon goes on as before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec
import structlog

from mira_stream.core.errors import MiraStreamError, Refusal
from mira_stream.daemon.config import Config
from mira_stream.daemon.notify import Notifier
from mira_stream.daemon.pools import PoolPlan, plan_pools
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


class Setup(msgspec.Struct, frozen=True):
    """A configuration, and what the files and secrets that it names came to."""

    config: Config
    plans: tuple[PoolPlan, ...]


def setup_of(config: Config) -> Setup:
    """Reads the files that `config` names; not on the event loop. Raises Refusal, OSError and UnicodeError."""
    return Setup(config, plan_pools(config))


def wanted_replicas(old: Setup, new: Setup) -> Wanted:
    """The replicas of each pool under `new`. Raises Refusal if anything else differs from `old`."""
    # What differs in the file explains what differs in the pools.
    differing = sorted(set(_differences(_frame(old.config), _frame(new.config), "")))
    differing = differing or sorted(_differences(_resolved(old.plans), _resolved(new.plans), ""))
    if differing:
        shown = ", ".join(differing[:_SHOWN]) + (", …" if len(differing) > _SHOWN else "")
        raise Refusal(
            f"{shown}: only a pool's replicas can change by a reload", "restart the service, or undo it"
        )
    return {plan.group: _by_name(plan) for plan in new.plans}


def _by_name(plan: PoolPlan) -> dict[str, str]:
    return {server_name(url): url for url in plan.replicas}


def _frame(config: Config) -> object:
    """All of a configuration but the replicas; pools by their group, since their order means nothing."""
    frame = msgspec.to_builtins(config)
    frame["pool"] = {
        pool["group"]: {key: value for key, value in pool.items() if key != "replicas"}
        for pool in frame["pool"]
    }
    return frame


def _resolved(plans: Sequence[PoolPlan]) -> object:
    """What can change behind one and the same configuration file, by pool."""
    return {
        f"what is known of {plan.group}": {
            "model": plan.model,
            "sources": plan.sources,
            "context_tokens": plan.prompting.context_tokens,
            "anchors": plan.rubric.fingerprint,
            "prompt": plan.prompting.template.fingerprint,
            "api_key": plan.api_key,
        }
        for plan in plans
    }


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
    is an engine's, so no two pools may hold permits on one. One whose address has other credentials leaves and comes.
    """

    def __init__(
        self,
        dispatchers: Mapping[str, Dispatcher],
        watchers: Mapping[str, Watcher],
        *,
        plans: tuple[PoolPlan, ...],
        make: MakeReplica,
        meters: Meters,
    ) -> None:
        self.plans = plans
        self._dispatchers = dispatchers
        self._watchers = watchers
        self._make = make
        self._meters = meters
        self._opened = {name: url for plan in plans for name, url in _by_name(plan).items()}
        self._wanted: Wanted | None = None
        self.refused: str | None = None
        """Why the last reload was refused; None if it was not."""

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
            self._let_go(group, dispatcher, self._wanted[group])
        for group, dispatcher in self._dispatchers.items():
            self._take_in(group, dispatcher, self._wanted[group])
        if all(self._has_all(group, wanted) for group, wanted in self._wanted.items()):
            self._wanted = None
            _log.info("all pools have the replicas of the configuration")

    def _let_go(self, group: str, dispatcher: Dispatcher, wanted: Mapping[str, str]) -> None:
        for name in [name for name in dispatcher.replicas if not self._stays(name, wanted)]:
            dispatcher.leave(name)
            if dispatcher.left(name):
                self._meters.forget("replica", name)
                _log.info("replica has left", replica=name, group=group)

    def _take_in(self, group: str, dispatcher: Dispatcher, wanted: Mapping[str, str]) -> None:
        for name, url in wanted.items():
            if name in dispatcher.replicas and self._stays(name, wanted):
                dispatcher.stay(name)
            elif not any(name in one.replicas for one in self._dispatchers.values()):
                dispatcher.add(name, self._make(group, url))
                self._watchers[group].add(name)
                self._opened[name] = url
                _log.info("replica has come", replica=name, group=group)

    def _has_all(self, group: str, wanted: Mapping[str, str]) -> bool:
        replicas = self._dispatchers[group].replicas
        return replicas.keys() == wanted.keys() and all(self._stays(name, wanted) for name in replicas)

    def _stays(self, name: str, wanted: Mapping[str, str]) -> bool:
        return name in wanted and _credentials(wanted[name]) == _credentials(self._opened[name])


def _credentials(url: str) -> str:
    return urlsplit(url.strip()).netloc.rpartition("@")[0]


class Reloader:
    """Reads the configuration again whenever `asked` is set, and brings the pools there. Runs until it is cancelled.

    Args:
        read: reads it anew, off the loop; may raise like `setup_of`.
        state: the daemon's, as in its status.
    """

    def __init__(
        self,
        setup: Setup,
        pools: Pools,
        *,
        read: Callable[[], Awaitable[Setup]],
        asked: asyncio.Event,
        state: Callable[[], str],
        meters: Meters,
    ) -> None:
        self._setup = setup
        self._pools = pools
        self._read = read
        self._asked = asked
        self._state = state
        self._meters = meters
        self._request_ended = asyncio.Event()

    def request_ended(self) -> None:
        """A pool's request has ended: a replica that was to leave may have left."""
        if not self._pools.at_rest:
            self._request_ended.set()

    async def run(self, notifier: Notifier) -> None:
        """Wait for news, and act on it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._obey(notifier), name="read again")
            group.create_task(self._go_on(), name="let leave")

    async def _go_on(self) -> None:
        while True:
            await self._request_ended.wait()
            self._request_ended.clear()
            self._pools.step()

    async def _obey(self, notifier: Notifier) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._state() == "draining":
                _log.info("configuration not read again: the daemon is shutting down")
                continue
            # Before it is ready it must not say so, and once it stops no more.
            if self._state() == "running":
                notifier.reloading()
            await self._reload()
            if self._state() == "running":
                notifier.ready()

    async def _reload(self) -> None:
        try:
            new = await self._read()
            wanted = wanted_replicas(self._setup, new)
        except (MiraStreamError, OSError, UnicodeError) as error:
            hint = error.hint if isinstance(error, Refusal) else "look at the files that it names"
            _log.error(
                "configuration not taken over; the daemon goes on as before", error=str(error), hint=hint
            )
            self._meters.add(metrics.CONFIG_RELOADS, 1, ("refused",))
            self._pools.refused = str(error)
            return
        self._setup = new
        self._pools.refused = None
        _log.info("configuration read again")
        self._meters.add(metrics.CONFIG_RELOADS, 1, ("done",))
        self._pools.want(wanted)
        self._pools.step()
