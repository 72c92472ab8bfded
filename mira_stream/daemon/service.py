"""The running daemon as others see it: its pipeline, its metrics, its status."""

import time
from concurrent.futures import Executor
from itertools import islice

import msgspec

from mira_stream import __version__
from mira_stream.control.pace import Pace
from mira_stream.daemon.diagnosis import WORDS, diagnose
from mira_stream.daemon.reload import Pools
from mira_stream.daemon.status import ConfigStatus, Status
from mira_stream.daemon.status_parts import (
    history_of,
    pool_status,
    reason_statuses,
    rounded,
    score_statuses,
    totals_of,
)
from mira_stream.pipeline.account import Account
from mira_stream.pipeline.topology import Pipeline
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.exporter import Exporter
from mira_stream.telemetry.meters import Meters

_STOPPED_SHOWN = 20


class Daemon:
    """Everything that runs, and what it says about itself."""

    def __init__(
        self, pipeline: Pipeline, meters: Meters, *, pools: Pools, executor: Executor, config: ConfigStatus
    ) -> None:
        self.pipeline = pipeline
        self.pools = pools
        self.executor = executor
        self.meters = meters
        self.exporter = Exporter(meters)
        self._config = config
        self._pace = Pace()
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

    def note_pace(self) -> None:
        """Remember what was done so far, so that rates can be told; call it about every second."""
        self._pace.note(time.monotonic(), totals_of(self.meters))

    def status(self) -> Status:
        """One snapshot; no await lies inside it."""
        self.meters.refresh()
        status = self._status()
        return msgspec.structs.replace(status, diagnosis=diagnose(status))

    def _status(self) -> Status:
        meters, stages = self.meters, self.pipeline.stages
        in_pipeline, totals = meters.values[metrics.RECORDS_IN_PIPELINE], totals_of(meters)
        names = {
            plan.group: {one.slot: one.name for one in plan.rubric.criteria} for plan in self.pools.plans
        }
        listed_at = meters.value(metrics.SOURCE_LISTED_TIMESTAMP_SECONDS)
        return Status(
            version=__version__,
            state=self.state,
            uptime_seconds=round(time.monotonic() - self._began, 3),
            read=self.account.read,
            outcomes={outcome.value: count for outcome, count in self.account.outcomes().items()},
            in_pipeline={stage: int(count) for (stage,), count in in_pipeline.items()},
            received=int(totals.received),
            objects_discovered=int(totals.discovered),
            objects_open=int(meters.value(metrics.SOURCE_OBJECTS_OPEN)),
            listed_seconds_ago=max(0.0, round(time.time() - listed_at, 3)) if listed_at else None,
            segments=int(meters.value(metrics.SINK_SEGMENTS)),
            rows=int(meters.value(metrics.SINK_ROWS)),
            backlog_rows=int(meters.value(metrics.SINK_BACKLOG_ROWS)),
            backlog_rows_limit=int(meters.value(metrics.SINK_BACKLOG_ROWS_LIMIT)),
            backlog_bytes=int(meters.value(metrics.SINK_BACKLOG_BYTES)),
            backlog_bytes_limit=int(meters.value(metrics.SINK_BACKLOG_BYTES_LIMIT)),
            prompt_tokens=int(totals.prompt_tokens),
            completion_tokens=int(totals.completion_tokens),
            loop_lag_seconds=round(meters.value(metrics.LOOP_LAG_SECONDS), 3),
            rates=rounded(self._pace.rates(time.monotonic(), totals)),
            history=history_of(self._pace),
            pools=[
                pool_status(pool, names.get(group, {}), meters) for group, pool in stages.dispatchers.items()
            ],
            reasons=reason_statuses(meters),
            letters=list(stages.committer.letters),
            scores=score_statuses(stages.scores),
            stopped_partitions=dict(islice(stages.committer.stopped.items(), _STOPPED_SHOWN)),
            config=self._config,
            words=WORDS,
            reload_refused=self.pools.refused,
        )

    @property
    def state(self) -> str:
        """`starting`, `running` or `draining`."""
        if self.pipeline.draining:
            return "draining"
        return "starting" if self.unready() else "running"
