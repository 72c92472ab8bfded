"""The tunables of the sink: where segments go, when they roll, and how patient publishing is."""

from typing import Annotated, Literal

import msgspec

SEGMENT_BYTES_MAX = 64 << 20


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[sink]` of the configuration."""

    uri: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Where segments are published: s3://bucket/prefix, gs://, az:// or a folder.",
        ),
    ]
    format: Annotated[
        Literal["jsonl.zst"],
        msgspec.Meta(description="Form of the segments; frozen in the layout at first start."),
    ] = "jsonl.zst"
    shards: Annotated[
        int,
        msgspec.Meta(ge=1, le=4096, description="Chains per source; frozen in the layout at first start."),
    ] = 1
    roll_records: Annotated[
        int, msgspec.Meta(ge=1, le=200_000, description="Rows after which a segment is published.")
    ] = 10_000
    roll_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=SEGMENT_BYTES_MAX,
            description="Bytes of rows, uncompressed, after which a segment is published.",
        ),
    ] = 32 << 20
    roll_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="Age of the oldest row after which a segment is published.")
    ] = 60.0
    checkpoint_segments: Annotated[
        int,
        msgspec.Meta(ge=1, description="Segments of a chain after which a checkpoint of it is written."),
    ] = 1_000
    checkpoint_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="Age at which a segment is covered by a checkpoint; let none expire before several times that.",
        ),
    ] = 86_400.0
    compression_level: Annotated[
        int, msgspec.Meta(ge=1, le=19, description="zstd level of the segments, 1 (fast) to 19 (small).")
    ] = 3
    backlog_rows_max: Annotated[
        int,
        msgspec.Meta(ge=1, description="Rows received and not published above which dispatch waits."),
    ] = 100_000
    backlog_bytes_max: Annotated[
        int,
        msgspec.Meta(ge=1, description="Bytes received and not published above which dispatch waits."),
    ] = 1 << 30
    publishers_max: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="Partitions that publish at the same time.")
    ] = 4
    request_timeout_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, description="Time after which a call to the store counts as unanswered."),
    ] = 120.0
    retry_initial_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="Longest wait before the first retry of a store call.")
    ] = 0.2
    retry_max_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="Longest wait between two retries of a store call.")
    ] = 30.0
