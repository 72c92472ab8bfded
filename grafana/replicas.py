"""Each replica against what it can hold."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import (
    AMBER,
    GREEN,
    RED,
    Panels,
    Query,
    alarm_at,
    bars,
    dashboard_of,
    figure,
    heat,
    lines,
    states,
)
from grafana.words import TEXTS, factor_query

_I = 'instance=~"$instance"'
_R = f'{_I}, replica=~"$replica"'
_G = f'{_I}, group=~"$group"'
_NONE = f"0 * sum by (group) (mira_stream_pool_window_records{{{_G}}})"
"""Zero for each pool: what never happened has no series of its own."""


def _rate(metric: str) -> str:
    return f"rate(mira_stream_{metric}{{{_R}}}[$__rate_interval])"


def replicas() -> Dashboard:
    """Tokens in flight against learned capacity, latency, cache hits, waste."""
    return dashboard_of(
        "mira-stream-replicas",
        "mira-stream: replicas",
        "Is every replica full and none crowded? Tokens are ours, counted as the replicas count them.",
        ("instance", "group", "replica"),
        (
            ("At a glance", _glance()),
            ("What limits each, and by how much", _limits()),
            ("How they answer", _answers()),
            ("Their caches", _caches()),
            ("What was learned of them", _learned()),
        ),
    )


def _glance() -> Panels:
    return [
        figure(
            "Replicas that answer",
            Query(f"count(mira_stream_replica_breaker_open{{{_R}}} == 0) or vector(0)"),
            "Their breaker is closed.",
            steps=((None, RED), (1, GREEN)),
        ),
        figure(
            "Replicas that do not",
            Query(f"count(mira_stream_replica_breaker_open{{{_R}}} > 0) or vector(0)"),
            "Their breaker is open, or tries. Runbook: A replica is down.",
            steps=((None, GREEN), (1, RED)),
        ),
        figure(
            "Tokens per second",
            Query(f"sum(mira_stream:replica_tokens:rate5m{{{_R}}})"),
            "Prompts and replies, over five minutes.",
        ),
        figure(
            "Reserved of the limit",
            Query(
                f"sum(mira_stream_replica_reserved_tokens{{{_R}}}) / sum(mira_stream_replica_reserved_tokens_limit{{{_R}}})"
            ),
            "Tokens in flight against what fits, over all replicas.",
            unit="percentunit",
        ),
        figure(
            "Served from cache",
            Query(
                f"sum(rate(mira_stream_replica_cached_tokens_total{{{_R}}}[5m])) / sum(rate(mira_stream_replica_prompt_tokens_total{{{_R}}}[5m]))"
            ),
            "Share of the prompt tokens that the prefix caches held.",
            unit="percentunit",
        ),
        figure(
            "Requests that fail",
            Query(
                f"(sum(rate(mira_stream_replica_faults_total{{{_R}}}[5m])) or vector(0)) / (sum(rate(mira_stream_replica_answers_total{{{_R}}}[5m])) > 0)"
            ),
            "Faults for each answer. Runbook: A replica fails often.",
            unit="percentunit",
            steps=((None, GREEN), (0.02, AMBER), (0.1, RED)),
        ),
    ]


def _limits() -> Panels:
    return [
        states(
            "What keeps each replica from another record",
            Query(factor_query("mira_stream_replica_limiting_factor", _R, "replica"), "{{replica}}"),
            "Green: it is full. Blue: there is nothing to send it.",
            TEXTS,
            width=24,
        ),
        lines(
            "Tokens in flight",
            [
                Query(f"sum by (replica) (mira_stream_replica_reserved_tokens{{{_R}}})", "{{replica}}"),
                Query(
                    f"max by (replica) (mira_stream_replica_reserved_tokens_limit{{{_R}}})",
                    "{{replica}} fits",
                    limit=True,
                ),
            ],
            "What our permits hold in its KV cache, against what fits.",
        ),
        lines(
            "Tokens to prefill",
            [
                Query(f"sum by (replica) (mira_stream_replica_unprefilled_tokens{{{_R}}})", "{{replica}}"),
                Query(
                    f"sum by (replica) (mira_stream_replica_predicted_unprefilled_tokens{{{_R}}})",
                    "{{replica}} predicted",
                ),
                Query(
                    f"max by (replica) (mira_stream_replica_unprefilled_tokens_limit{{{_R}}})",
                    "{{replica}} budget",
                    limit=True,
                ),
            ],
            "Sent and not shown to be prefilled, against the batched-token budget of its engine: a hard bound.",
        ),
        lines(
            "Requests in flight",
            [
                Query(f"sum by (replica) (mira_stream_replica_requests{{{_R}}})", "{{replica}}"),
                Query(
                    f"max by (replica) (mira_stream_replica_requests_limit{{{_R}}})",
                    "{{replica}} limit",
                    limit=True,
                ),
            ],
            "Ours.",
        ),
    ]


def _answers() -> Panels:
    return [
        lines(
            "Answers per second",
            [Query(f"sum by (replica) ({_rate('replica_answers_total')})", "{{replica}}")],
            "Requests that got a 200.",
            stacked=True,
        ),
        lines(
            "Latency",
            [
                Query(
                    f"histogram_quantile({share}, sum by (le) (rate(mira_stream_replica_latency_seconds_bucket{{{_R}}}[$__rate_interval])))",
                    name,
                )
                for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ],
            "Of answers, over the replicas that are chosen.",
            unit="s",
        ),
        heat(
            "Latency, all of it",
            Query(
                f"sum by (le) (rate(mira_stream_replica_latency_seconds_bucket{{{_R}}}[$__rate_interval]))"
            ),
            "Two bands: hedged or preempted requests.",
            unit="s",
        ),
        lines(
            "Faults",
            [
                Query(
                    f"sum by (replica, reason) ({_rate('replica_faults_total')})",
                    "{{replica}} {{reason}}",
                )
            ],
            "Requests per second that failed, by kind.",
            stacked=True,
        ),
        states(
            "Breakers",
            Query(f"max by (replica) (mira_stream_replica_breaker_open{{{_R}}})", "{{replica}}"),
            "Open: it gets nothing. Half open: it gets one request, as a trial.",
            {"0": ("closed", GREEN), "0.5": ("half open", AMBER), "1": ("open", RED)},
            width=8,
        ),
        lines(
            "Tokens that brought nothing",
            [
                Query(
                    f"sum by (group, reason) (rate(mira_stream_pool_wasted_tokens_total{{{_G}}}[$__rate_interval]))",
                    "{{group}} {{reason}}",
                )
            ],
            "Tokens per second, by cause.",
            stacked=True,
        ),
    ]


def _caches() -> Panels:
    return [
        lines(
            "Prefix cache",
            [
                Query(f"max by (replica) (mira_stream_replica_prefix_hit_ratio{{{_R}}})", "{{replica}}"),
                Query(
                    f"max by (group) (mira_stream_pool_prefix_possible_ratio{{{_G}}})",
                    "{{group}} possible",
                    limit=True,
                ),
            ],
            "Share of the prompt tokens verified to be cached, against what all prompts have in common.",
            unit="percentunit",
        ).max(1),
        lines(
            "KV cache",
            [Query(f"max by (replica) (mira_stream_replica_kv_usage_ratio{{{_R}}})", "{{replica}}")],
            "Usage as the engine says.",
            unit="percentunit",
        ).max(1),
        lines(
            "The engine's requests",
            [
                Query(f"max by (replica) (mira_stream_replica_running_requests{{{_R}}})", "{{replica}} runs"),
                Query(
                    f"max by (replica) (mira_stream_replica_waiting_requests{{{_R}}})", "{{replica}} waits"
                ),
                Query(
                    f"max by (replica) (mira_stream_replica_foreign_requests{{{_R}}})",
                    "{{replica}} of others",
                ),
            ],
            "Everybody's. A queue there is what admission avoids. Runbook: Others use the replicas.",
        ),
    ]


def _learned() -> Panels:
    return [
        lines(
            "Capacity",
            [Query(f"max by (replica) (mira_stream_replica_capacity_tokens{{{_R}}})", "{{replica}}")],
            "Tokens of ours that its KV cache holds, as learned.",
        ),
        bars(
            "Where the capacity comes from",
            Query(f"count by (reason) (mira_stream_replica_capacity_origin{{{_R}}} == 1)", "{{reason}}"),
            "Replicas, by origin: learned from usage, told by the engine, or a prior.",
        ),
        lines(
            "Prefill rate",
            [
                Query(
                    f"max by (replica) (mira_stream_replica_prefill_tokens_per_second{{{_R}}})", "{{replica}}"
                )
            ],
            "Tokens per second, as learned.",
        ),
        lines(
            "Share of the capacity in use",
            [Query(f"max by (replica) (mira_stream_replica_capacity_share_ratio{{{_R}}})", "{{replica}}")],
            "Below 1 after cuts: others crowded the engine, or it preempted.",
            unit="percentunit",
        ).max(1),
        alarm_at(
            lines(
                "Age of telemetry",
                [
                    Query(
                        f"max by (replica) (mira_stream_replica_telemetry_age_seconds{{{_R}}})", "{{replica}}"
                    )
                ],
                "Since its metrics showed anything new. Runbook: Telemetry is stale.",
                unit="s",
            ),
            60,
        ),
        lines(
            "Exact counts that differ",
            [
                Query(
                    f"sum by (group) (rate(mira_stream_pool_miscounted_records_total{{{_G}}}[$__rate_interval])) or {_NONE}",
                    "{{group}} miscounted",
                ),
                Query(
                    f"sum by (group) (rate(mira_stream_prepare_counted_records_total{{{_G}}}[$__rate_interval])) or {_NONE}",
                    "{{group}} counted",
                ),
            ],
            "Prompts per second that were counted exactly, and those of them that the replica counts otherwise: a wrong tokenizer.",
        ),
        states(
            "Pools that are stopped",
            Query(f"max by (group) (mira_stream_pool_stopped{{{_G}}})", "{{group}}"),
            "By a configuration fault. Runbook: A pool is stopped.",
            {"0": ("runs", GREEN), "1": ("stopped", RED)},
            width=24,
        ),
    ]
