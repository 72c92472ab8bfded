"""The tunables of admission and failure; one pool's decisions read nothing else."""

from typing import Annotated

import msgspec
from msgspec import Meta


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[admission]` of the configuration. Token counts are per replica (engine) unless said otherwise."""

    kv_tokens: Annotated[
        Annotated[int, Meta(ge=1024)] | None,
        Meta(description="Tokens a replica's KV cache holds; default: learned from the engine."),
    ] = None
    batched_tokens_max: Annotated[
        int, Meta(ge=1024, description="Tokens sent and not yet prefilled, per engine; never exceeded.")
    ] = 131_072
    requests_max: Annotated[int, Meta(ge=1, description="Requests in flight per replica.")] = 256
    window_records: Annotated[
        int, Meta(ge=1, le=1024, description="Records in the look-ahead window of a pool.")
    ] = 16
    passed_over_max: Annotated[
        int, Meta(ge=1, description="Times a record may be passed over before a replica is kept free for it.")
    ] = 32
    output_tokens: Annotated[
        int, Meta(ge=1, description="Tokens a reply is expected to have until replies were seen.")
    ] = 700
    prefill_tokens_per_second: Annotated[
        float, Meta(gt=0, description="Prefill rate assumed until the engine's is known.")
    ] = 20_000.0
    decode_tokens_per_second: Annotated[
        float, Meta(gt=0, description="Decode rate of one request on a full replica, for time-outs.")
    ] = 3.0
    timeout_seconds_min: Annotated[
        float, Meta(gt=0, description="Least time-out of a request; predicted work is added.")
    ] = 120.0
    scrape_seconds: Annotated[
        float, Meta(gt=0, description="Pause between two looks at a replica's metrics.")
    ] = 1.0
    scrape_seconds_min: Annotated[
        float, Meta(gt=0, description="The same where only a fresh look can let the next record go.")
    ] = 0.2
    hedge: Annotated[
        bool,
        Meta(description="At the end of a run, ask a second replica about a record that takes far too long."),
    ] = True
    breaker_failures: Annotated[
        int, Meta(ge=1, description="Failures in a row that open a replica's breaker.")
    ] = 3
    breaker_seconds_min: Annotated[float, Meta(gt=0, description="First pause of an open breaker.")] = 1.0
    breaker_seconds_max: Annotated[float, Meta(gt=0, description="Longest pause of an open breaker.")] = 30.0
    retry_budget_tokens: Annotated[
        int, Meta(ge=1, description="Tokens of a pool that may be sent again before successes earn more.")
    ] = 4_000_000
    retry_budget_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Share of the tokens answered that is earned back for retries.")
    ] = 0.2
