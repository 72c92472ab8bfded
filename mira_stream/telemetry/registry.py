"""Every metric, declared once: name, kind, labels and help. Nothing is emitted that is not declared here.

Names are `mira_stream_<part>_<noun>_<unit>[_total]`. Labels come from enums or config only, so their number is bounded.
"""

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(msgspec.Struct, frozen=True, eq=False):
    """One declared metric; `buckets` are upper bounds, for histograms."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


LABELS = frozenset(
    {"replica", "reason", "outcome", "stage", "group", "slot", "factor", "source", "recommendation"}
)
REGISTRY: dict[str, Metric] = {}

_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_RATIOS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
_FAST_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_SCORES = tuple(float(n) for n in range(11))
_OVERALL_SCORES = tuple(float(n) for n in range(0, 101, 10))


def _declare(metric: Metric) -> Metric:
    assert metric.name not in REGISTRY, f"{metric.name} is declared twice"
    assert set(metric.labels) <= LABELS, f"{metric.name} has a label that is not agreed"
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
    REGISTRY[metric.name] = metric
    return metric


def _counter(name: str, help: str, *labels: str) -> Metric:  # noqa: A002 - Prometheus' own word
    return _declare(Metric(f"mira_stream_{name}_total", Kind.COUNTER, help, labels))


def _gauge(name: str, help: str, *labels: str) -> Metric:  # noqa: A002
    return _declare(Metric(f"mira_stream_{name}", Kind.GAUGE, help, labels))


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Metric:  # noqa: A002
    return _declare(Metric(f"mira_stream_{name}", Kind.HISTOGRAM, help, labels, buckets))


# The identity: read = ended (scored + dead_lettered + skipped) + in the pipeline, at every instant.
RECORDS_READ = _counter("records_read", "Records that entered the pipeline, recovered ones included.")
RECORDS_ENDED = _counter("records_ended", "Records whose outcome is published.", "outcome", "reason")
RECORDS_IN_PIPELINE = _gauge("records_in_pipeline", "Records between reading and publishing.", "stage")
RECORDS_REPLAYED = _counter("records_replayed", "Records read again because a replay asked for them.")
RECORDS_RECEIVED = _counter("records_received", "Outcomes made durable in the ledger.", "source", "outcome")

SOURCE_OBJECTS_DISCOVERED = _counter("source_objects_discovered", "Object versions seen for the first time.")
SOURCE_OBJECTS_ENDED = _counter(
    "source_objects_ended", "Objects read to their end; reason `none` is a clean end.", "reason"
)
SOURCE_OBJECTS_OPEN = _gauge("source_objects_open", "Objects being read now.")
SOURCE_OBJECTS_OPEN_LIMIT = _gauge("source_objects_open_limit", "Most objects of one pool read at once.")
SOURCE_OBJECTS_POSTPONED = _counter("source_objects_postponed", "Reads that stopped at an unsettled tail.")
SOURCE_OBJECTS_PUT_OFF = _gauge(
    "source_objects_put_off",
    "Objects that cannot be read though their source answers; tried again with growing waits.",
)
SOURCE_NAMES_IGNORED = _counter("source_names_ignored", "Listed names that are no objects.", "reason")
SOURCE_LINE_BYTES = _counter("source_line_bytes", "Decompressed bytes of the lines read.")
SOURCE_OLDEST_OBJECT_TIMESTAMP_SECONDS = _gauge(
    "source_oldest_object_timestamp_seconds",
    "When the oldest object that is read or is next to be was written, seconds since the epoch; 0 if all is read.",
)
SOURCE_LISTING_SECONDS = _gauge("source_listing_seconds", "How long the last listing took.")
SOURCE_LISTED_TIMESTAMP_SECONDS = _gauge(
    "source_listed_timestamp_seconds", "When the last listing ended, seconds since the epoch."
)
SOURCE_RETRIES = _counter("source_retries", "Listings and reads tried again after trouble of the store.")

SOURCE_REPLAY_REQUESTS = _gauge("source_replay_requests", "Requests for replays that are not answered yet.")

PREPARE_CHANNEL_RECORDS = _gauge("prepare_channel_records", "Records waiting to be prepared.", "group")
PREPARE_CHANNEL_RECORDS_LIMIT = _gauge("prepare_channel_records_limit", "Bound of that channel.", "group")
PREPARE_CHANNEL_BYTES = _gauge("prepare_channel_bytes", "Bytes waiting to be prepared.", "group")
PREPARE_CHANNEL_BYTES_LIMIT = _gauge("prepare_channel_bytes_limit", "Bound of that channel.", "group")
PREPARE_SECONDS = _histogram("prepare_seconds", "Time to prepare a record.", _FAST_SECONDS, "group")
PREPARE_UNKNOWN_SHAPE = _counter("prepare_unknown_shape_records", "Records of an unknown shape.", "source")
PREPARE_TRUNCATED = _counter("prepare_truncated_tokens", "Prompt tokens left out of the middle.", "source")
PREPARE_NEUTRALISED = _counter("prepare_neutralised_tokens", "Special tokens made harmless.", "source")
PREPARE_COUNTED = _counter("prepare_counted_records", "Records near the limit, counted exactly.", "group")

POOL_WINDOW_RECORDS = _gauge("pool_window_records", "Records in the look-ahead window.", "group")
POOL_WINDOW_RECORDS_LIMIT = _gauge("pool_window_records_limit", "Bound of the window.", "group")
POOL_LIMITING_FACTOR = _gauge(
    "pool_limiting_factor", "1 for what keeps the pool from dispatching.", "group", "factor"
)
POOL_STOPPED = _gauge("pool_stopped", "1 while a configuration fault stops the pool.", "group")
POOL_RETRY_BUDGET_TOKENS = _gauge("pool_retry_budget_tokens", "Tokens left for retries.", "group")
POOL_MISCOUNTED = _counter(
    "pool_miscounted_records", "Prompts whose exact count is not what the replica reported.", "group"
)
POOL_WASTED_TOKENS = _counter(
    "pool_wasted_tokens", "Tokens sent that brought no outcome, by cause.", "group", "reason"
)
POOL_COUNT_ERROR_RATIO = _histogram(
    "pool_count_error_ratio", "Counted prompt tokens off from what the replica reports.", _RATIOS, "group"
)
POOL_PREFIX_POSSIBLE_RATIO = _gauge(
    "pool_prefix_possible_ratio", "Share of the prompt tokens that all prompts have in common.", "group"
)
POOL_REASKS = _counter("pool_reasks", "Replies that lacked a required field and were asked again.", "group")
POOL_RETRIES = _counter("pool_retries", "Requests sent again after a fault.", "group", "reason")

REPLICA_REQUESTS = _gauge("replica_requests", "Our requests in flight.", "replica")
REPLICA_REQUESTS_LIMIT = _gauge("replica_requests_limit", "Most requests in flight.", "replica")
REPLICA_UNPREFILLED_TOKENS_LIMIT = _gauge(
    "replica_unprefilled_tokens_limit", "The batched-token budget of an engine.", "replica"
)
REPLICA_RESERVED_TOKENS = _gauge("replica_reserved_tokens", "Tokens our permits hold.", "replica")
REPLICA_RESERVED_TOKENS_LIMIT = _gauge("replica_reserved_tokens_limit", "Tokens that fit.", "replica")
REPLICA_UNPREFILLED_TOKENS = _gauge(
    "replica_unprefilled_tokens", "Tokens sent, not shown to be prefilled.", "replica"
)
REPLICA_PREDICTED_UNPREFILLED_TOKENS = _gauge(
    "replica_predicted_unprefilled_tokens", "Tokens sent, not yet prefilled by prediction.", "replica"
)
REPLICA_CAPACITY_TOKENS = _gauge(
    "replica_capacity_tokens", "What its KV cache holds in our tokens.", "replica"
)
REPLICA_CAPACITY_ORIGIN = _gauge(
    "replica_capacity_origin", "1 for where the capacity comes from.", "replica", "reason"
)
REPLICA_CAPACITY_SHARE_RATIO = _gauge(
    "replica_capacity_share_ratio", "Share of the capacity in use after cuts for crowding.", "replica"
)
REPLICA_PREFILL_TOKENS_PER_SECOND = _gauge(
    "replica_prefill_tokens_per_second", "Its prefill rate, learned.", "replica"
)
REPLICA_FOREIGN_REQUESTS = _gauge("replica_foreign_requests", "Requests of others there.", "replica")
REPLICA_TELEMETRY_AGE_SECONDS = _gauge(
    "replica_telemetry_age_seconds", "Time since its metrics showed anything new.", "replica"
)
REPLICA_PREFIX_HIT_RATIO = _gauge(
    "replica_prefix_hit_ratio", "Share of the prompt tokens verified to be cached.", "replica"
)
REPLICA_LIMITING_FACTOR = _gauge(
    "replica_limiting_factor", "1 for what keeps the replica from another record.", "replica", "factor"
)
REPLICA_BREAKER_OPEN = _gauge("replica_breaker_open", "1 open, 0.5 half open, 0 closed.", "replica")
REPLICA_ANSWERS = _counter("replica_answers", "Requests that got a 200.", "replica")
REPLICA_FAULTS = _counter("replica_faults", "Requests that failed, by fault.", "replica", "reason")
REPLICA_PROMPT_TOKENS = _counter("replica_prompt_tokens", "Prompt tokens as the replica counts.", "replica")
REPLICA_COMPLETION_TOKENS = _counter("replica_completion_tokens", "Completion tokens.", "replica")
REPLICA_CACHED_TOKENS = _counter(
    "replica_cached_tokens", "Prompt tokens served from prefix cache.", "replica"
)
REPLICA_LATENCY_SECONDS = _histogram("replica_latency_seconds", "Time of an answer.", _SECONDS, "replica")
REPLICA_KV_USAGE_RATIO = _gauge("replica_kv_usage_ratio", "KV cache usage as the replica says.", "replica")
REPLICA_WAITING_REQUESTS = _gauge("replica_waiting_requests", "Its queue, everybody's requests.", "replica")
REPLICA_RUNNING_REQUESTS = _gauge("replica_running_requests", "Its running requests.", "replica")

REPLY_SCORE_POINTS = _histogram(
    "reply_score_points", "Scores given, 0 to 10.", _SCORES, "group", "source", "slot"
)
REPLY_OVERALL_POINTS = _histogram(
    "reply_overall_points", "Overall grades given, 0 to 100.", _OVERALL_SCORES, "group", "source"
)
REPLY_RECOMMENDATIONS = _counter(
    "reply_recommendations", "Complete replies, by what they recommend.", "group", "source", "recommendation"
)

LEDGER_FILE_BYTES = _gauge("ledger_file_bytes", "Size of the ledger and of its log.")
LEDGER_DISK_BYTES = _gauge("ledger_disk_bytes", "Size of the file system that the ledger lies on.")
LEDGER_DISK_FREE_BYTES = _gauge("ledger_disk_free_bytes", "What is free there for the daemon.")
LEDGER_RECEIVE_SECONDS = _histogram(
    "ledger_receive_seconds", "Time to make an outcome durable.", _FAST_SECONDS
)
SINK_BACKLOG_ROWS = _gauge("sink_backlog_rows", "Rows received and not published.")
SINK_BACKLOG_ROWS_LIMIT = _gauge("sink_backlog_rows_limit", "Above this, dispatch waits (sink_blocked).")
SINK_BACKLOG_BYTES = _gauge("sink_backlog_bytes", "Bytes received and not published.")
SINK_BACKLOG_BYTES_LIMIT = _gauge("sink_backlog_bytes_limit", "Above this, dispatch waits (sink_blocked).")
SINK_SEGMENTS = _counter("sink_segments", "Segments published by us.")
SINK_ROWS = _counter("sink_rows", "Rows published by us.")
SINK_PUBLISH_SECONDS = _histogram("sink_publish_seconds", "Time to publish and confirm.", _SECONDS)
SINK_RIVAL_SEGMENTS = _counter("sink_rival_segments", "Segments that somebody else published in our chains.")
SINK_PARTITIONS_STOPPED = _gauge(
    "sink_partitions_stopped", "Partitions whose chain is damaged: nothing more of them is read or published."
)
SINK_CHECKPOINTS = _counter("sink_checkpoints", "Checkpoints of chains written by us.")
SINK_RETRIES = _counter("sink_retries", "Publishing tried again after trouble of the store.")

CONFIG_RELOADS = _counter("config_reloads", "Times the configuration was read again.", "outcome")

CLOCK_TIMESTAMP_SECONDS = _gauge(
    "clock_timestamp_seconds", "The daemon's clock when it was asked, seconds since the epoch."
)
LOOP_LAG_SECONDS = _gauge("loop_lag_seconds", "How late the event loop's last heartbeat was.")
