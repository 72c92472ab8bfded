"""What the daemon says about itself: one snapshot for `/status.json`, the page, the terminal and the demo."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from mira_stream.control.pace import Totals
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.pipeline.letters import LatestLetter


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica: what is in flight, what would fit, and what keeps it from another record.

    `latency_seconds` are the median and the 95th percentile of its answers, roughly; `faults` are by kind.
    """

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
    latency_seconds: tuple[float, float] | None
    faults: dict[str, int]


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pool. `stopped` is the configuration fault that stops it, if one does.

    `count_error_ratio` is the mean distance of counted from reported prompt tokens; `wasted_tokens` are by cause;
    `slots` are the names of what is scored, by slot.
    """

    group: str
    model: str
    limiting_factor: str | None
    stopped: str | None
    preparing_records: int
    preparing_records_limit: int
    window_records: int
    window_records_limit: int
    retry_budget_tokens: int
    reasks: int
    prefix_possible_ratio: float
    count_error_ratio: float | None
    wasted_tokens: dict[str, int]
    slots: dict[str, str]
    replicas: Sequence[ReplicaStatus]


class ScoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the complete replies to one source were scored, since the start.

    Counts are by points: the first is of 0, number n of what is above n - 1 and at most n; a tenth of `overall`.
    """

    group: str
    source: str
    replies: int
    slots: dict[str, list[int]]
    overall: list[int]
    recommendations: dict[str, int]


class ReasonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were not scored for one reason, what that means, and what to do."""

    outcome: Outcome
    reason: Reason
    records: int
    meaning: str
    advice: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the last ten minutes, each over `seconds`, the oldest first: records published, tokens answered."""

    seconds: float
    records_per_second: list[float]
    tokens_per_second: list[float]


class ConfigStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon was told, as far as it explains what it does. No secret stands there."""

    source: str
    sink: str
    ledger: str
    format: str
    mode: str
    once: bool


class Health(StrEnum):
    """What a person at night wants to know first."""

    WELL = "well"
    LOOK = "look"
    WRONG = "wrong"


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be, and what to do; `runbook` is the section that says more, if one does."""

    health: Health
    says: str
    do: str
    runbook: str | None = None


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Is it healthy, what limits it, what is to be done; the worst comes first. `stage` is where it is limited."""

    health: Health = Health.WELL
    says: str = ""
    limit: str = ""
    stage: str | None = None
    advice: Sequence[Advice] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole daemon. `read = sum(outcomes) + sum(in_pipeline)`; counts are since the start, `rates` a second over
    the last minute.

    `reload_refused` is why the last reload changed nothing, if it was refused. `words` say each limiting factor.
    """

    version: str
    state: str
    uptime_seconds: float
    read: int
    outcomes: dict[str, int]
    in_pipeline: dict[str, int]
    received: int
    objects_discovered: int
    objects_open: int
    listed_seconds_ago: float | None
    segments: int
    rows: int
    backlog_rows: int
    backlog_rows_limit: int
    backlog_bytes: int
    backlog_bytes_limit: int
    prompt_tokens: int
    completion_tokens: int
    loop_lag_seconds: float
    rates: Totals
    history: History
    pools: Sequence[PoolStatus]
    reasons: Sequence[ReasonStatus]
    letters: Sequence[LatestLetter]
    scores: Sequence[ScoreStatus]
    stopped_partitions: dict[str, str]
    config: ConfigStatus
    words: dict[str, str]
    diagnosis: Diagnosis = Diagnosis()
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
