"""The parts of a status, each from what runs: pools and replicas, scores, reasons, rates."""

from mira_stream.control.pace import SAMPLE_SECONDS, Pace, Totals
from mira_stream.control.score_counts import ScoreCounts
from mira_stream.control.snapshot import ReplicaSnapshot
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.reasons import MEANING
from mira_stream.daemon.config import Config
from mira_stream.daemon.status import (
    ConfigStatus,
    History,
    PoolStatus,
    ReasonStatus,
    ReplicaStatus,
    ScoreStatus,
)
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters
from mira_stream.telemetry.registry import Metric

_HALF, _MOST = 0.5, 0.95


def totals_of(meters: Meters) -> Totals:
    """What was done since the start."""
    ended = meters.values.get(metrics.RECORDS_ENDED, {})
    dead = sum(count for (outcome, _), count in ended.items() if outcome == Outcome.DEAD_LETTERED)
    return Totals(
        discovered=meters.value(metrics.SOURCE_OBJECTS_DISCOVERED),
        read=meters.value(metrics.RECORDS_READ),
        answered=meters.sum(metrics.REPLICA_ANSWERS),
        received=meters.sum(metrics.RECORDS_RECEIVED),
        published=sum(ended.values()),
        dead_lettered=dead,
        prompt_tokens=meters.sum(metrics.REPLICA_PROMPT_TOKENS),
        completion_tokens=meters.sum(metrics.REPLICA_COMPLETION_TOKENS),
    )


def rounded(rates: Totals) -> Totals:
    """Rates with as many digits as mean anything."""
    return Totals(**{name: round(getattr(rates, name), 3) for name in rates.__struct_fields__})


def history_of(pace: Pace) -> History:
    """The last ten minutes."""
    rates = pace.history()
    return History(
        seconds=SAMPLE_SECONDS,
        records_per_second=[round(one.published, 2) for one in rates],
        tokens_per_second=[round(one.prompt_tokens + one.completion_tokens, 1) for one in rates],
    )


def pool_status(pool: Dispatcher, slots: dict[str, str], meters: Meters) -> PoolStatus:
    """One pool; `slots` are the names of what it scores."""
    group, factor = pool.pool.group, pool.factor
    return PoolStatus(
        group=group,
        model=pool.pool.model,
        limiting_factor=factor.value if factor else None,
        stopped=pool.control.stopped,
        preparing_records=int(meters.value(metrics.PREPARE_CHANNEL_RECORDS, (group,))),
        preparing_records_limit=int(meters.value(metrics.PREPARE_CHANNEL_RECORDS_LIMIT, (group,))),
        window_records=len(pool.control.window),
        window_records_limit=pool.control.window.places,
        retry_budget_tokens=int(meters.value(metrics.POOL_RETRY_BUDGET_TOKENS, (group,))),
        reasks=int(meters.value(metrics.POOL_REASKS, (group,))),
        prefix_possible_ratio=round(pool.control.prefix_possible_ratio, 4),
        count_error_ratio=meters.mean(metrics.POOL_COUNT_ERROR_RATIO, (group,)),
        wasted_tokens=_by_second_label(meters, metrics.POOL_WASTED_TOKENS, group),
        slots=slots,
        replicas=[_replica_status(one, meters) for one in pool.snapshot()],
    )


def _by_second_label(meters: Meters, metric: Metric, first: str) -> dict[str, int]:
    return {
        second: int(count)
        for (owner, second), count in meters.values.get(metric, {}).items()
        if owner == first
    }


def _replica_status(one: ReplicaSnapshot, meters: Meters) -> ReplicaStatus:
    load = one.load
    half = meters.quantile(metrics.REPLICA_LATENCY_SECONDS, (one.name,), _HALF)
    most = meters.quantile(metrics.REPLICA_LATENCY_SECONDS, (one.name,), _MOST)
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
        answers=int(meters.value(metrics.REPLICA_ANSWERS, (one.name,))),
        latency_seconds=None if half is None or most is None else (round(half, 3), round(most, 3)),
        faults=_by_second_label(meters, metrics.REPLICA_FAULTS, one.name),
    )


def score_statuses(scores: ScoreCounts) -> list[ScoreStatus]:
    """A distribution for each group and source."""
    return [
        ScoreStatus(
            group=group,
            source=source,
            replies=found.replies,
            slots=found.slots,
            overall=found.overall,
            recommendations=found.recommendations,
        )
        for group, source, found in scores
    ]


def reason_statuses(meters: Meters) -> list[ReasonStatus]:
    """Why records were not scored, the most frequent reason first."""
    counted = [
        ReasonStatus(
            outcome=Outcome(outcome),
            reason=Reason(reason),
            records=int(records),
            meaning=MEANING[Reason(reason)][0],
            advice=MEANING[Reason(reason)][1],
        )
        for (outcome, reason), records in meters.values.get(metrics.RECORDS_ENDED, {}).items()
        if outcome != Outcome.SCORED
    ]
    return sorted(counted, key=lambda one: (-one.records, one.reason))


def config_status(config: Config, *, once: bool) -> ConfigStatus:
    """The parts of the configuration that explain what the daemon does."""
    return ConfigStatus(
        source=config.source.uri,
        sink=config.sink.uri,
        ledger=config.ledger.path,
        format=config.sink.format,
        mode=config.request.mode,
        once=once,
    )
