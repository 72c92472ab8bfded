"""From the lake and to it: lag, objects, segments, rows."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import AMBER, GREEN, RED, Panels, Query, dashboard_of, figure, heat, lines

_I = 'instance=~"$instance"'


def _rate(metric: str, by: str = "instance") -> str:
    return f"sum by ({by}) (rate(mira_stream_{metric}{{{_I}}}[$__rate_interval]))"


def lake() -> Dashboard:
    """What lands, what is read, and what is published."""
    return dashboard_of(
        "mira-stream-lake",
        "mira-stream: lake",
        "Does what lands come out again? The left is the source, the right the sink.",
        ("instance",),
        (
            ("At a glance", _glance()),
            ("The source", _source()),
            ("The sink", _sink()),
        ),
    )


def _glance() -> Panels:
    return [
        figure(
            "Lag",
            Query(f"max(mira_stream:source_lag:seconds{{{_I}}}) or vector(0)"),
            "Since the oldest object that is not read yet was written; 0 when all is read.",
            unit="s",
            steps=((None, GREEN), (3600, AMBER), (86400, RED)),
        ),
        figure(
            "Last listing",
            Query(f"max(time() - mira_stream_source_listed_timestamp_seconds{{{_I}}})"),
            "Since a listing of the source came to its end. Runbook: The source is not listed.",
            unit="s",
            steps=((None, GREEN), (600, AMBER), (1800, RED)),
        ),
        figure(
            "Objects put off",
            Query(f"sum(mira_stream_source_objects_put_off{{{_I}}})"),
            "They cannot be read though the source answers. Runbook: Objects cannot be read.",
            steps=((None, GREEN), (1, AMBER)),
        ),
        figure(
            "Partitions stopped",
            Query(f"sum(mira_stream_sink_partitions_stopped{{{_I}}})"),
            "Their chain is damaged. Runbook: A partition is stopped.",
            steps=((None, GREEN), (1, RED)),
        ),
        figure(
            "Segments of rivals",
            Query(f"sum(increase(mira_stream_sink_rival_segments_total{{{_I}}}[1h]))"),
            "Published in our chains by somebody else, in an hour. Runbook: A rival publishes in our chains.",
            steps=((None, GREEN), (1, RED)),
        ),
        figure(
            "Rows published in an hour",
            Query(f"sum(increase(mira_stream_sink_rows_total{{{_I}}}[1h]))"),
            "By us.",
        ),
    ]


def _source() -> Panels:
    return [
        lines(
            "Objects",
            [
                Query(_rate("source_objects_discovered_total"), "found {{instance}}"),
                Query(_rate("source_objects_ended_total"), "read {{instance}}"),
            ],
            "Per second. Found above read: the lag grows.",
        ),
        lines(
            "Lag",
            [
                Query(
                    f"mira_stream:source_lag:seconds{{{_I}}} or 0 * mira_stream_source_objects_open{{{_I}}}",
                    "{{instance}}",
                )
            ],
            "Runbook: The lag grows.",
            unit="s",
        ),
        lines(
            "Objects being read",
            [
                Query(f"mira_stream_source_objects_open{{{_I}}}", "{{instance}}"),
                Query(
                    f"mira_stream_source_objects_open_limit{{{_I}}}",
                    "{{instance}} limit of a pool",
                    limit=True,
                ),
            ],
            "At the limit with idle replicas: raise [source] open_objects_max.",
        ),
        lines(
            "Bytes read",
            [Query(_rate("source_line_bytes_total"), "{{instance}}")],
            "Per second, decompressed.",
            unit="Bps",
        ),
        lines(
            "Records read",
            [
                Query(_rate("records_read_total"), "read {{instance}}"),
                Query(_rate("records_replayed_total"), "for a replay {{instance}}"),
            ],
            "Per second.",
        ),
        lines(
            "How objects ended",
            [Query(_rate("source_objects_ended_total", "reason"), "{{reason}}")],
            "`none` is a clean end; the other reasons are in the runbook.",
            stacked=True,
        ),
        lines(
            "Trouble of the store",
            [
                Query(_rate("source_retries_total"), "tried again {{instance}}"),
                Query(_rate("source_objects_postponed_total"), "tails not settled {{instance}}"),
            ],
            "Per second. Tails that are not settled are objects still being written.",
        ),
        lines(
            "Names ignored",
            [Query(_rate("source_names_ignored_total", "reason"), "{{reason}}")],
            "Listed names per second that are no objects, by why.",
            stacked=True,
        ),
        lines(
            "Time of a listing",
            [Query(f"mira_stream_source_listing_seconds{{{_I}}}", "{{instance}}")],
            "It grows with the number of objects below the prefix.",
            unit="s",
        ),
    ]


def _sink() -> Panels:
    return [
        lines(
            "Rows published",
            [Query(_rate("sink_rows_total"), "{{instance}}")],
            "Per second, by us.",
        ),
        lines(
            "Segments published",
            [
                Query(_rate("sink_segments_total"), "segments {{instance}}"),
                Query(_rate("sink_checkpoints_total"), "checkpoints {{instance}}"),
            ],
            "Per second.",
        ),
        lines(
            "Rows of a segment",
            [
                Query(
                    f"sum(rate(mira_stream_sink_rows_total{{{_I}}}[$__rate_interval])) / sum(rate(mira_stream_sink_segments_total{{{_I}}}[$__rate_interval]))",
                    "mean",
                )
            ],
            "Small ones cost readers: raise [sink] roll_records and roll_seconds.",
        ),
        lines(
            "Rows that wait",
            [
                Query(f"mira_stream_sink_backlog_rows{{{_I}}}", "{{instance}}"),
                Query(f"mira_stream_sink_backlog_rows_limit{{{_I}}}", "{{instance}} limit", limit=True),
            ],
            "Received, durable in the ledger, not published.",
        ),
        lines(
            "Bytes that wait",
            [
                Query(f"mira_stream_sink_backlog_bytes{{{_I}}}", "{{instance}}"),
                Query(f"mira_stream_sink_backlog_bytes_limit{{{_I}}}", "{{instance}} limit", limit=True),
            ],
            "The same in bytes.",
            unit="bytes",
        ),
        heat(
            "Time to publish a segment",
            Query(f"sum by (le) (rate(mira_stream_sink_publish_seconds_bucket{{{_I}}}[$__rate_interval]))"),
            "Written, settled and confirmed.",
            unit="s",
        ),
        lines(
            "Publishing tried again",
            [Query(_rate("sink_retries_total"), "{{instance}}")],
            "Per second: the sink's store is slow, full or denies. Runbook: The sink is blocked.",
        ),
        lines(
            "Replays",
            [Query(f"mira_stream_source_replay_requests{{{_I}}}", "{{instance}}")],
            "Requests for replays that are not answered yet.",
        ),
    ]
