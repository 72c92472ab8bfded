"""Is it healthy, and what limits it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import (
    AMBER,
    BLUE,
    GREEN,
    RED,
    Panels,
    Query,
    alarm_at,
    dashboard_of,
    figure,
    heat,
    lines,
    states,
)
from grafana.words import TEXTS, factor_query

_I = 'instance=~"$instance"'
_G = f'{_I}, group=~"$group"'


def service() -> Dashboard:
    """The first one to open, at night too."""
    return dashboard_of(
        "mira-stream-service",
        "mira-stream: service",
        "Is the daemon healthy, and what limits it? What each alert means and what to do: ops/runbook.md.",
        ("instance", "group"),
        (
            ("Is it healthy?", _health()),
            ("What limits it?", _limits()),
            ("What becomes of records", _records()),
            ("Preparing", _preparing()),
            ("The process and its machine", _process()),
        ),
    )


def _health() -> Panels:
    return [
        figure(
            "Daemons that answer",
            Query(f'sum(up{{job="mira-stream", {_I}}})'),
            "Scrapes that succeed now. Runbook: The daemon does not answer.",
            steps=((None, RED), (1, GREEN)),
        ),
        figure(
            "Alerts",
            Query('count(ALERTS{alertname=~"MiraStream.*", alertstate="firing"}) or vector(0)'),
            "Alerts that fire now; each has its section in the runbook.",
            steps=((None, GREEN), (1, AMBER), (3, RED)),
        ),
        figure(
            "Records per second",
            Query(f"sum(rate(mira_stream_records_received_total{{{_I}}}[5m]))"),
            "Outcomes made durable, over five minutes.",
        ),
        figure(
            "Lag",
            Query(f"max(mira_stream:source_lag:seconds{{{_I}}}) or vector(0)"),
            "Since the oldest object that is not read yet was written; 0 when all is read. Runbook: The lag grows.",
            unit="s",
            steps=((None, GREEN), (3600, AMBER), (86400, RED)),
        ),
        figure(
            "Dead letters",
            Query(f"max(mira_stream:records_dead_lettered:ratio15m{{{_I}}}) or vector(0)"),
            "Share of the records that ended in the last 15 minutes. Runbook: Many dead letters.",
            unit="percentunit",
            steps=((None, GREEN), (0.01, AMBER), (0.05, RED)),
        ),
        figure(
            "Records unaccounted for",
            Query(f"max(abs(mira_stream:records_unaccounted:sum{{{_I}}}))"),
            "Read, less ended, less in the pipeline: always 0. Runbook: The identity is broken.",
            steps=((None, GREEN), (1, RED)),
        ),
    ]


def _limits() -> Panels:
    return [
        states(
            "What keeps each pool from sending",
            Query(
                factor_query("mira_stream_pool_limiting_factor", _G, "instance, group"),
                "{{group}} {{instance}}",
            ),
            "Green: the replicas are full, all is well. Blue: nothing to send. Red: look into the runbook.",
            TEXTS,
        ),
        lines(
            "Records in the pipeline",
            [Query(f"sum by (stage) (mira_stream_records_in_pipeline{{{_I}}})", "{{stage}}")],
            "Where the records are that were read and are not published: the stage that grows is the one before what limits.",
            stacked=True,
        ).span(12),
        lines(
            "Tokens per second",
            [
                Query(
                    f"sum(rate(mira_stream_replica_prompt_tokens_total{{{_I}}}[$__rate_interval]))", "prompts"
                ),
                Query(
                    f"sum(rate(mira_stream_replica_completion_tokens_total{{{_I}}}[$__rate_interval]))",
                    "replies",
                ),
                Query(
                    f"sum(rate(mira_stream_replica_cached_tokens_total{{{_I}}}[$__rate_interval]))",
                    "of prompts, cached",
                ),
            ],
            "As the replicas count.",
        ),
        lines(
            "Look-ahead window",
            [
                Query(f"sum by (group) (mira_stream_pool_window_records{{{_G}}})", "{{group}}"),
                Query(
                    f"sum by (group) (mira_stream_pool_window_records_limit{{{_G}}})",
                    "{{group}} limit",
                    limit=True,
                ),
            ],
            "Records ready to be sent. Empty while replicas are free: reading or preparing limits.",
        ),
        lines(
            "Backlog of the sink",
            [
                Query(f"mira_stream_sink_backlog_rows{{{_I}}}", "rows {{instance}}"),
                Query(f"mira_stream_sink_backlog_rows_limit{{{_I}}}", "limit {{instance}}", limit=True),
            ],
            "Rows received and not published. At the limit dispatch stops. Runbook: The sink is blocked.",
        ),
    ]


def _records() -> Panels:
    return [
        lines(
            "Ended, by outcome",
            [
                Query(
                    f"sum by (outcome) (rate(mira_stream_records_ended_total{{{_I}}}[$__rate_interval]))",
                    "{{outcome}}",
                )
            ],
            "Records per second whose row is published.",
            stacked=True,
        ),
        lines(
            "Not scored, by reason",
            [
                Query(
                    f'sum by (reason) (increase(mira_stream_records_ended_total{{{_I}, outcome!="scored"}}[$__rate_interval])) > 0',
                    "{{reason}}",
                )
            ],
            "Dead letters and skipped records. Each reason has its section in the runbook.",
            stacked=True,
        ),
        lines(
            "Received, by source",
            [
                Query(
                    f"sum by (source) (rate(mira_stream_records_received_total{{{_I}}}[$__rate_interval]))",
                    "{{source}}",
                )
            ],
            "Outcomes per second, by where the records come from.",
            stacked=True,
        ),
        lines(
            "Tokens that brought nothing",
            [
                Query(
                    f"sum by (reason) (rate(mira_stream_pool_wasted_tokens_total{{{_G}}}[$__rate_interval])) > 0",
                    "{{reason}}",
                )
            ],
            "Tokens per second that were paid for twice, by cause.",
            stacked=True,
        ),
        lines(
            "Sent again",
            [
                Query(
                    f"sum by (reason) (rate(mira_stream_pool_retries_total{{{_G}}}[$__rate_interval]))",
                    "fault: {{reason}}",
                ),
                Query(
                    f"sum(rate(mira_stream_pool_reasks_total{{{_G}}}[$__rate_interval]))",
                    "reply lacked a field",
                ),
            ],
            "Requests per second that are another try.",
        ),
        lines(
            "Retry budget",
            [Query(f"sum by (group) (mira_stream_pool_retry_budget_tokens{{{_G}}})", "{{group}}")],
            "Tokens left for retries. At 0 retries wait.",
        ),
    ]


def _preparing() -> Panels:
    return [
        lines(
            "Waiting to be prepared",
            [
                Query(f"sum by (group) (mira_stream_prepare_channel_records{{{_G}}})", "{{group}}"),
                Query(
                    f"sum by (group) (mira_stream_prepare_channel_records_limit{{{_G}}})",
                    "{{group}} limit",
                    limit=True,
                ),
            ],
            "Records between reading and preparing.",
        ),
        lines(
            "Bytes waiting",
            [
                Query(f"sum by (group) (mira_stream_prepare_channel_bytes{{{_G}}})", "{{group}}"),
                Query(
                    f"sum by (group) (mira_stream_prepare_channel_bytes_limit{{{_G}}})",
                    "{{group}} limit",
                    limit=True,
                ),
            ],
            "The same in bytes: memory is bounded by this.",
            unit="bytes",
        ),
        heat(
            "Time to prepare a record",
            Query(f"sum by (le) (rate(mira_stream_prepare_seconds_bucket{{{_G}}}[$__rate_interval]))"),
            "Decode, render, count tokens, cut to fit.",
            unit="s",
        ),
        lines(
            "Cut and made harmless",
            [
                Query(
                    f"sum(rate(mira_stream_prepare_truncated_tokens_total{{{_I}}}[$__rate_interval]))",
                    "cut from the middle",
                ),
                Query(
                    f"sum(rate(mira_stream_prepare_neutralised_tokens_total{{{_I}}}[$__rate_interval]))",
                    "special tokens made harmless",
                ),
            ],
            "Prompt tokens per second.",
        ),
        lines(
            "Unknown shapes",
            [
                Query(
                    f"sum by (source) (rate(mira_stream_prepare_unknown_shape_records_total{{{_I}}}[$__rate_interval]))",
                    "{{source}}",
                )
            ],
            "Records per second that none of the known readers of traces understands: they are judged as plain text.",
        ),
        lines(
            "Counts of tokens",
            [
                Query(
                    f"sum(rate(mira_stream_pool_count_error_ratio_sum{{{_G}}}[$__rate_interval])) / sum(rate(mira_stream_pool_count_error_ratio_count{{{_G}}}[$__rate_interval]))",
                    "mean error of the count",
                ),
                Query(
                    f"histogram_quantile(0.95, sum by (le) (rate(mira_stream_pool_count_error_ratio_bucket{{{_G}}}[$__rate_interval])))",
                    "95 % are below",
                ),
            ],
            "Counted against what the replicas report. Admission rests on it.",
            unit="percentunit",
        ),
    ]


def _process() -> Panels:
    return [
        alarm_at(
            lines(
                "Lateness of the loop",
                [Query(f"mira_stream_loop_lag_seconds{{{_I}}}", "{{instance}}")],
                "How late the heartbeat came. Runbook: The event loop is late.",
                unit="s",
            ),
            1,
        ),
        lines(
            "Memory",
            [Query(f'process_resident_memory_bytes{{job="mira-stream", {_I}}}', "{{instance}}")],
            "Resident memory of the daemon.",
            unit="bytes",
        ),
        lines(
            "Processor",
            [
                Query(
                    f'rate(process_cpu_seconds_total{{job="mira-stream", {_I}}}[$__rate_interval])',
                    "{{instance}}",
                )
            ],
            "Cores in use. The loop has one; near 1 it limits.",
            unit="percentunit",
        ),
        lines(
            "Open descriptors",
            [
                Query(f'process_open_fds{{job="mira-stream", {_I}}}', "{{instance}}"),
                Query(f'process_max_fds{{job="mira-stream", {_I}}}', "{{instance}} limit", limit=True),
            ],
            "Files and connections.",
        ),
        lines(
            "The ledger's disk",
            [
                Query(f"mira_stream_ledger_file_bytes{{{_I}}}", "ledger {{instance}}"),
                Query(f"mira_stream_ledger_disk_free_bytes{{{_I}}}", "free {{instance}}"),
                Query(f"mira_stream_ledger_disk_bytes{{{_I}}}", "disk {{instance}}", limit=True),
            ],
            "Runbook: The ledger's disk is nearly full.",
            unit="bytes",
        ),
        heat(
            "Time to make an outcome durable",
            Query(f"sum by (le) (rate(mira_stream_ledger_receive_seconds_bucket{{{_I}}}[$__rate_interval]))"),
            "Group commits of the ledger, as an outcome sees them: a slow disk shows here first.",
            unit="s",
        ),
        figure(
            "Clock",
            Query(
                f"max(abs(timestamp(mira_stream_clock_timestamp_seconds{{{_I}}}) - mira_stream_clock_timestamp_seconds{{{_I}}}))"
            ),
            "How far the daemon's clock is off Prometheus'. Runbook: A clock is off.",
            unit="s",
            steps=((None, GREEN), (10, AMBER), (30, RED)),
        ),
        figure(
            "Up since",
            Query(f'min(time() - process_start_time_seconds{{job="mira-stream", {_I}}})'),
            "The youngest daemon.",
            unit="s",
            steps=((None, BLUE),),
        ),
        figure(
            "Reloads",
            Query(f"sum(mira_stream_config_reloads_total{{{_I}}}) or vector(0)"),
            "Times the configuration was read again, refused ones too.",
        ),
    ]
