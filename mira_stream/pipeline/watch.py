"""Looks at the replicas of one pool: their metrics while they work, their models before they may work again."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from mira_stream.control.capacity import CapacityOrigin
from mira_stream.control.health import BreakerState
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import MiraStreamError
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import ServedModel
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.ports import Clock, Replica
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_REMIND_SECONDS = 60.0
_BREAKER_VALUES = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}


def unfit(served: tuple[ServedModel, ...], model: str, context_tokens: int) -> str | None:
    """Why a replica that serves `served` may not score for a pool; None if it may."""
    found = next((one for one in served if one.model == model), None)
    if found is None:
        names = ", ".join(one.model for one in served) or "no model"
        return f"it serves {names}, not {model}"
    if found.max_model_len is not None and found.max_model_len < context_tokens:
        return f"its max_model_len is {found.max_model_len}, the pool needs {context_tokens}"
    return None


class Watcher:
    """Watches the replicas of one dispatcher, each in a task of its own."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        context_tokens: int,
        settings: AdmissionSettings,
        clock: Clock,
        jitter: Callable[[], float],
        meters: Meters,
    ) -> None:
        self._dispatcher = dispatcher
        self._context_tokens = context_tokens
        self._scrape_seconds = settings.scrape_seconds
        self._scrape_seconds_min = min(settings.scrape_seconds_min, settings.scrape_seconds)
        self._clock = clock
        self._jitter = jitter
        self._meters = meters
        self._watched: set[str] = set()
        self._changed = asyncio.Event()
        self._said: dict[str, tuple[str, float]] = {}
        meters.refresh_with(self._refresh)

    async def look_first(self) -> None:
        """One look at every replica before the first record: an absent or unfit one starts as an open breaker."""
        async with asyncio.TaskGroup() as group:
            for name, replica in self._replicas.items():
                group.create_task(self._look(name, replica, first=True), name=f"look {name}")

    async def run(self) -> None:
        """Watch for ever; replicas may come and go meanwhile."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for name in self._dispatcher.replicas.keys() - self._watched:
                    self._watched.add(name)
                    group.create_task(self._watch(name, self._replicas[name]), name=f"watch {name}")
                await self._changed.wait()

    def add(self, name: str) -> None:
        """A replica has come: it is watched, and sent nothing before a look at it went well."""
        self._dispatcher.control.shut_out(name, self._clock(), 0.0)
        self._changed.set()

    @property
    def _replicas(self) -> Mapping[str, Replica]:
        return self._dispatcher.replicas

    async def _watch(self, name: str, replica: Replica) -> None:
        dispatcher, control = self._dispatcher, self._dispatcher.control
        while self._replicas.get(name) is replica:
            await dispatcher.wanted_looks.wait(name, self._scrape_seconds - self._scrape_seconds_min)
            if name in control.probes_due(self._clock()):
                await self._look(name, replica, first=False)
            asked_at = self._clock()  # what is sent while the answer is on its way was not seen by it
            try:
                load = await replica.load()
            except MiraStreamError:
                pass  # the breaker speaks through requests; a missed look only ages the telemetry
            else:
                control.observe(name, load, asked_at, self._clock())
                dispatcher.wake()
            if control.warm_up_due(name):
                control.warmed_up(name)
                _log.info("shared prefix is sent alone: the prefix cache misses it", replica=name)
                await dispatcher.faults.warm_up(name)
            await asyncio.sleep(self._scrape_seconds_min)
        self._watched.discard(name)
        self._changed.set()  # one of the same name may have come meanwhile

    async def _look(self, name: str, replica: Replica, *, first: bool) -> None:
        try:
            problem = unfit(tuple(await replica.models()), self._dispatcher.pool.model, self._context_tokens)
            if not first and problem is None and not await self._dispatcher.faults.prove(name):
                problem = "it serves the model, but refuses a canned record"
        except MiraStreamError as error:
            problem = str(error)
        control, now = self._dispatcher.control, self._clock()
        if first and problem is not None:
            control.shut_out(name, now, self._jitter())
        elif not first:
            control.probed(name, now, self._jitter(), ok=problem is None)
        if name in self._replicas:
            self._tell(name, problem)
        self._dispatcher.wake()

    def _tell(self, name: str, problem: str | None) -> None:
        if problem is None:
            if self._said.pop(name, None):
                _log.info("replica is back", replica=name)
            return
        said, said_at = self._said.get(name, ("", 0.0))
        now = self._clock()
        # Again now and then: whoever waits for a run that waits for its replicas must be able to see it.
        if said != problem or now - said_at >= _REMIND_SECONDS:
            self._said[name] = (problem, now)
            _log.warning("replica is shut out until it is fit", replica=name, problem=problem)

    def _refresh(self) -> None:
        meters = self._meters
        for replica in self._dispatcher.snapshot():
            labels = (replica.name,)
            meters.set(metrics.REPLICA_REQUESTS, replica.requests, labels)
            meters.set(metrics.REPLICA_RESERVED_TOKENS, replica.reserved_tokens, labels)
            meters.set(metrics.REPLICA_RESERVED_TOKENS_LIMIT, replica.reserved_tokens_limit, labels)
            meters.set(metrics.REPLICA_UNPREFILLED_TOKENS, replica.unprefilled_tokens, labels)
            meters.set(
                metrics.REPLICA_PREDICTED_UNPREFILLED_TOKENS, replica.predicted_unprefilled_tokens, labels
            )
            meters.set(metrics.REPLICA_CAPACITY_TOKENS, replica.capacity_tokens, labels)
            meters.set(metrics.REPLICA_CAPACITY_SHARE_RATIO, replica.capacity_share, labels)
            for origin in CapacityOrigin:
                here = origin is replica.capacity_origin
                meters.set(metrics.REPLICA_CAPACITY_ORIGIN, here, (*labels, origin.value))
            meters.set(metrics.REPLICA_PREFILL_TOKENS_PER_SECOND, replica.prefill_tokens_per_second, labels)
            meters.set(metrics.REPLICA_FOREIGN_REQUESTS, replica.foreign_requests, labels)
            meters.set(metrics.REPLICA_TELEMETRY_AGE_SECONDS, replica.telemetry_age_seconds or 0.0, labels)
            meters.set(metrics.REPLICA_PREFIX_HIT_RATIO, replica.cached_ratio or 0.0, labels)
            meters.set(metrics.REPLICA_REQUESTS_LIMIT, replica.requests_limit, labels)
            meters.set(metrics.REPLICA_UNPREFILLED_TOKENS_LIMIT, replica.unprefilled_tokens_limit, labels)
            meters.set(metrics.REPLICA_BREAKER_OPEN, _BREAKER_VALUES[replica.breaker], labels)
            for factor in LimitingFactor:
                meters.set(metrics.REPLICA_LIMITING_FACTOR, factor is replica.factor, (*labels, factor.value))
            if replica.load is not None:
                meters.set(metrics.REPLICA_KV_USAGE_RATIO, replica.load.kv_usage or 0.0, labels)
                meters.set(metrics.REPLICA_WAITING_REQUESTS, replica.load.waiting, labels)
                meters.set(metrics.REPLICA_RUNNING_REQUESTS, replica.load.running, labels)
