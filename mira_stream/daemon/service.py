"""The running daemon as others see it: its pipeline, its metrics, its status."""

import time
from concurrent.futures import Executor

from mira_stream import __version__
from mira_stream.control.snapshot import ReplicaSnapshot
from mira_stream.daemon.reload import Pools
from mira_stream.daemon.status import PoolStatus, ReplicaStatus, Status
from mira_stream.pipeline.account import Account
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.pipeline.topology import Pipeline
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.exporter import Exporter
from mira_stream.telemetry.meters import Meters


class Daemon:
    """Everything that runs, and what it says about itself."""

    def __init__(self, pipeline: Pipeline, meters: Meters, *, pools: Pools, executor: Executor) -> None:
        self.pipeline = pipeline
        self.pools = pools
        self.executor = executor
        self.meters = meters
        self.exporter = Exporter(meters)
        self._began = time.monotonic()

    @property
    def account(self) -> Account:
        return self.pipeline.account

    @property
    def stopped_pools(self) -> list[str]:
        """Why pools were stopped by a configuration fault; empty if none was."""
        stops = (pool.control.stopped for pool in self.pipeline.stages.dispatchers.values())
        return [stopped for stopped in stops if stopped is not None]

    def unready(self) -> list[str]:
        """What is still waited for before the daemon is ready."""
        return (
            []
            if self.pipeline.stages.discovery.first_page.is_set()
            else ["the first listing page of the source"]
        )

    def status_line(self) -> str:
        """One line for an operator."""
        return self.status().line()

    def status(self) -> Status:
        """One snapshot; no await lies inside it."""
        meters = self.meters
        meters.refresh()
        stages = meters.values[metrics.RECORDS_IN_PIPELINE]
        return Status(
            version=__version__,
            state=self.state,
            uptime_seconds=round(time.monotonic() - self._began, 3),
            read=self.account.read,
            outcomes={outcome.value: count for outcome, count in self.account.outcomes().items()},
            in_pipeline={stage: int(count) for (stage,), count in stages.items()},
            objects_open=int(meters.value(metrics.SOURCE_OBJECTS_OPEN)),
            segments=int(meters.value(metrics.SINK_SEGMENTS)),
            rows=int(meters.value(metrics.SINK_ROWS)),
            backlog_rows=int(meters.value(metrics.SINK_BACKLOG_ROWS)),
            prompt_tokens=int(meters.sum(metrics.REPLICA_PROMPT_TOKENS)),
            completion_tokens=int(meters.sum(metrics.REPLICA_COMPLETION_TOKENS)),
            reload_refused=self.pools.refused,
            pools=[self._pool_status(name, pool) for name, pool in self.pipeline.stages.dispatchers.items()],
        )

    @property
    def state(self) -> str:
        """`starting`, `running` or `draining`."""
        if self.pipeline.draining:
            return "draining"
        return "starting" if self.unready() else "running"

    def _pool_status(self, group: str, pool: Dispatcher) -> PoolStatus:
        factor = pool.factor
        return PoolStatus(
            group=group,
            model=pool.pool.model,
            limiting_factor=factor.value if factor else None,
            stopped=pool.control.stopped,
            window_records=len(pool.control.window),
            prefix_possible_ratio=round(pool.control.prefix_possible_ratio, 4),
            count_error_ratio=self.meters.mean(metrics.POOL_COUNT_ERROR_RATIO, (group,)),
            wasted_tokens={
                cause: int(tokens)
                for (owner, cause), tokens in self.meters.values.get(metrics.POOL_WASTED_TOKENS, {}).items()
                if owner == group
            },
            replicas=[self._replica_status(one) for one in pool.snapshot()],
        )

    def _replica_status(self, one: ReplicaSnapshot) -> ReplicaStatus:
        load = one.load
        return ReplicaStatus(
            name=one.name,
            breaker=one.breaker.value,
            limiting_factor=one.factor.value if one.factor else None,
            requests=one.requests,
            requests_limit=one.requests_limit,
            reserved_tokens=one.reserved_tokens,
            reserved_tokens_limit=one.reserved_tokens_limit,
            capacity_tokens=one.capacity_tokens,
            capacity_origin=one.capacity_origin.value,
            capacity_share=round(one.capacity_share, 4),
            unprefilled_tokens=one.unprefilled_tokens,
            unprefilled_tokens_limit=one.unprefilled_tokens_limit,
            prefill_tokens_per_second=round(one.prefill_tokens_per_second, 1),
            foreign_requests=one.foreign_requests,
            prefix_hit_ratio=one.cached_ratio,
            telemetry_age_seconds=one.telemetry_age_seconds,
            stale=one.stale,
            leaving=one.leaving,
            running=load.running if load else None,
            waiting=load.waiting if load else None,
            kv_usage=load.kv_usage if load else None,
            answers=int(self.meters.value(metrics.REPLICA_ANSWERS, (one.name,))),
        )
