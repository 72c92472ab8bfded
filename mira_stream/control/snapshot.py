"""One replica as admission sees it, for metrics, the status page and people."""

import msgspec

from mira_stream.control.capacity import CapacityOrigin
from mira_stream.control.health import BreakerState
from mira_stream.control.lane import Lane
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load


class ReplicaSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides whether another record goes there. `factor` None: another one could be sent.

    `reserved_tokens_limit` is the capacity after all deductions: ramp, stale telemetry, foreign requests, cuts.
    `unprefilled_tokens` falls by evidence, `predicted_unprefilled_tokens` by time. `cached_ratio` is the verified share
    of prompt tokens that the prefix cache holds.
    """

    name: str
    breaker: BreakerState
    factor: LimitingFactor | None
    requests: int
    requests_limit: int
    reserved_tokens: int
    reserved_tokens_limit: int
    capacity_tokens: int
    capacity_origin: CapacityOrigin
    capacity_share: float
    unprefilled_tokens: int
    unprefilled_tokens_limit: int
    predicted_unprefilled_tokens: int
    prefill_tokens_per_second: float
    foreign_requests: int
    cached_ratio: float | None
    telemetry_age_seconds: float | None
    stale: bool
    leaving: bool
    load: Load | None


def snapshot_of(
    lane: Lane, factor: LimitingFactor | None, settings: AdmissionSettings, now: float
) -> ReplicaSnapshot:
    """The replica of `lane` as of now."""
    return ReplicaSnapshot(
        name=lane.name,
        breaker=lane.breaker.state,
        factor=factor,
        requests=len(lane.holdings),
        requests_limit=settings.requests_max,
        reserved_tokens=lane.holdings.tokens,
        reserved_tokens_limit=lane.limit_tokens(now),
        capacity_tokens=lane.capacity.tokens,
        capacity_origin=lane.capacity.origin,
        capacity_share=lane.capacity.share,
        unprefilled_tokens=lane.holdings.unprefilled_tokens,
        unprefilled_tokens_limit=lane.batched_tokens_max,
        predicted_unprefilled_tokens=round(lane.prefill.tokens(now)),
        prefill_tokens_per_second=lane.prefill.tokens_per_second,
        foreign_requests=lane.looks.foreign_requests,
        cached_ratio=lane.cached_ratio,
        telemetry_age_seconds=lane.looks.age_seconds(now),
        stale=lane.is_stale(now),
        leaving=lane.leaving,
        load=lane.looks.load,
    )
