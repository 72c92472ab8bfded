"""What the daemon says about itself: one snapshot for `/status.json`, the status line and the demo."""

from collections.abc import Sequence

import msgspec


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica: what is in flight, what would fit, and what keeps it from another record."""

    name: str
    breaker: str
    limiting_factor: str | None
    requests: int
    requests_limit: int
    reserved_tokens: int
    reserved_tokens_limit: int
    capacity_tokens: int
    capacity_origin: str
    capacity_share: float
    unprefilled_tokens: int
    unprefilled_tokens_limit: int
    prefill_tokens_per_second: float
    foreign_requests: int
    prefix_hit_ratio: float | None
    telemetry_age_seconds: float | None
    stale: bool
    leaving: bool
    running: int | None
    waiting: int | None
    kv_usage: float | None
    answers: int


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pool. `stopped` is the configuration fault that stops it, if one does.

    `count_error_ratio` is the mean distance of counted from reported prompt tokens; `wasted_tokens` are by cause.
    """

    group: str
    model: str
    limiting_factor: str | None
    stopped: str | None
    window_records: int
    prefix_possible_ratio: float
    count_error_ratio: float | None
    wasted_tokens: dict[str, int]
    replicas: Sequence[ReplicaStatus]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole daemon. `read = sum(outcomes) + sum(in_pipeline)`; rates are over the time since the start.

    `reload_refused` is why the last reload changed nothing, if it was refused.
    """

    version: str
    state: str
    uptime_seconds: float
    read: int
    outcomes: dict[str, int]
    in_pipeline: dict[str, int]
    objects_open: int
    segments: int
    rows: int
    backlog_rows: int
    prompt_tokens: int
    completion_tokens: int
    pools: Sequence[PoolStatus]
    reload_refused: str | None = None

    def line(self) -> str:
        """One line for an operator."""
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.items())
        limits = "; ".join(
            f"{pool.group}: {pool.stopped or pool.limiting_factor or 'sending'}" for pool in self.pools
        )
        refused = f"; reload refused: {self.reload_refused}" if self.reload_refused else ""
        under_way = sum(self.in_pipeline.values())
        return f"{self.state}: {self.read} read, {ended}, {under_way} under way; {limits}{refused}"
