"""The tunables of the source: what is followed, how often it is listed, and which bytes are refused."""

from typing import Annotated, Literal

import msgspec

DEFAULT_INCLUDE = tuple(
    f"*.{kind}{codec}" for kind in ("jsonl", "ndjson") for codec in ("", ".zst", ".zstd", ".gz")
)


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[source]` of the configuration."""

    uri: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="What is followed: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or a folder;"
            " frozen in the layout of the sink at first start.",
        ),
    ]
    list_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="Pause between two listings, in seconds.")
    ] = 10.0
    full_list_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="Seconds between two full listings; those between only ask for keys after the newest known.",
        ),
    ] = 300.0
    grow_settle_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0, description="Seconds without a change after which a torn tail of a local file is final."
        ),
    ] = 60.0
    on_overwrite: Annotated[
        Literal["first", "each_version"],
        msgspec.Meta(description="Whether an overwritten object's later versions are refused or scored too."),
    ] = "first"
    include: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            min_length=1,
            description="Globs of the names that are objects, on the last part of the key, or on all of it if with `/`.",
        ),
    ] = DEFAULT_INCLUDE
    name_from: Annotated[
        str,
        msgspec.Meta(
            description="Name of the source: empty (first part of the key), key:<pattern> or field:<dotted.path>."
        ),
    ] = ""
    line_bytes_max: Annotated[
        int, msgspec.Meta(ge=1024, le=1 << 30, description="Longest line in bytes; a longer one is skipped.")
    ] = 64 << 20
    window_log_max: Annotated[
        int,
        msgspec.Meta(ge=10, le=31, description="Largest zstd window read, as log2 of bytes."),
    ] = 27
    open_objects_max: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="Objects of one pool read at the same time.")
    ] = 4
