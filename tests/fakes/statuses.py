"""Statuses of a daemon that does not run, for what shows them."""

from collections.abc import Sequence

import msgspec

from mira_stream.control.pace import Totals
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.daemon.diagnosis import WORDS, diagnose
from mira_stream.daemon.status import (
    ConfigStatus,
    History,
    PoolStatus,
    ReasonStatus,
    ReplicaStatus,
    ScoreStatus,
    Status,
)
from mira_stream.pipeline.letters import LatestLetter

REPLICA = ReplicaStatus(
    name="http://one",
    breaker="closed",
    limiting_factor="kv",
    requests=3,
    requests_limit=256,
    reserved_tokens=200_000,
    reserved_tokens_limit=250_000,
    capacity_tokens=262_144,
    capacity_origin="learned",
    capacity_share=1.0,
    unprefilled_tokens=40_000,
    unprefilled_tokens_limit=131_072,
    prefill_tokens_per_second=24_000.0,
    foreign_requests=0,
    prefix_hit_ratio=0.1,
    telemetry_age_seconds=0.4,
    stale=False,
    leaving=False,
    running=3,
    waiting=0,
    kv_usage=0.8,
    answers=7,
    latency_seconds=(4.0, 9.0),
    faults={"reset": 2},
)
POOL = PoolStatus(
    group="agent/A",
    model="m",
    limiting_factor="kv",
    stopped=None,
    preparing_records=2,
    preparing_records_limit=64,
    window_records=16,
    window_records_limit=16,
    retry_budget_tokens=4_000_000,
    reasks=1,
    prefix_possible_ratio=0.12,
    count_error_ratio=0.02,
    wasted_tokens={"reset": 30_000},
    slots={"A1": "Goal Achievement", "A2": "Plan Quality / Reasoning Transparency"},
    replicas=[REPLICA],
)
LETTER = LatestLetter(
    record_id="0123456789abcdef0123456789abcdef",
    object="s3://lake/raw/claude_cli/a.jsonl",
    ordinal=7,
    source="claude_cli",
    group="agent/A",
    reason=Reason.MALFORMED_REPLY,
    replica="http://one",
    attempts=3,
    scored_at="2026-01-02T03:04:05.678Z",
    said="It is fine.",
)
SCORES = ScoreStatus(
    group="agent/A",
    source="claude_cli",
    replies=5,
    slots={"A1": [0] * 7 + [4, 1, 0, 0], "A2": [1] + [0] * 9 + [4]},
    overall=[0] * 7 + [5, 0, 0, 0],
    recommendations={"keep": 3, "downsample": 1, "drop": 1},
)
REASON = ReasonStatus(
    outcome=Outcome.DEAD_LETTERED,
    reason=Reason.MALFORMED_REPLY,
    records=1,
    meaning="the last reply lacked a required field",
    advice="look at the reply",
)
NO_RATES = Totals(**dict.fromkeys(Totals.__struct_fields__, 0.0))


def status(**changes: object) -> Status:
    """A daemon that is well and busy, but for `changes`, and what it says of itself."""
    whole = Status(
        version="1",
        state="running",
        uptime_seconds=1.0,
        read=10,
        outcomes={"scored": 4, "dead_lettered": 1, "skipped": 0},
        in_pipeline={"window": 3, "in_flight": 2},
        received=5,
        objects_discovered=2,
        objects_open=1,
        listed_seconds_ago=0.5,
        segments=2,
        rows=5,
        backlog_rows=0,
        backlog_rows_limit=100_000,
        backlog_bytes=0,
        backlog_bytes_limit=1 << 30,
        prompt_tokens=1,
        completion_tokens=1,
        loop_lag_seconds=0.01,
        rates=NO_RATES,
        history=History(seconds=5.0, records_per_second=[1.0, 2.0], tokens_per_second=[10.0, 20.0]),
        pools=[POOL],
        reasons=[REASON],
        letters=[LETTER],
        scores=[SCORES],
        stopped_partitions={},
        config=ConfigStatus(
            source="s3://lake/raw",
            sink="s3://lake/scores",
            ledger="l",
            format="jsonl.zst",
            mode="chat",
            once=False,
        ),
        words=WORDS,
    )
    changed = msgspec.structs.replace(whole, **changes)
    return msgspec.structs.replace(changed, diagnosis=diagnose(changed))


def pools(*changes: dict[str, object]) -> Sequence[PoolStatus]:
    """A pool for each of `changes`, named agent/A, agent/B, …"""
    return [
        msgspec.structs.replace(POOL, group=f"agent/{'ABCD'[number]}", **each)
        for number, each in enumerate(changes)
    ]
