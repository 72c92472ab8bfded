"""The tunables of a simulated replica: what it serves, how big and how quick it is, and how it misbehaves."""

from typing import Annotated, Literal

import msgspec

from mira_stream.core.errors import Refusal

BLOCK_TOKENS = 16
"""Tokens in one KV block, as vLLM has it on GPUs."""


class SimSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated replica. The defaults resemble one GPU that serves the model of group `agent/A`."""

    host: Annotated[str, msgspec.Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="Port to listen on; 0 is any free one.")
    ] = 0
    model: Annotated[str, msgspec.Meta(min_length=1, description="Name under which the model is served.")] = (
        "whw06/MIRA-Agent-Group1"
    )
    api_key: Annotated[
        str | None, msgspec.Meta(description="Key that `/v1/*` asks for; null asks for none.")
    ] = None
    max_model_len: Annotated[
        int, msgspec.Meta(ge=16, description="Longest prompt plus completion, in tokens.")
    ] = 65_536
    max_num_batched_tokens: Annotated[
        int, msgspec.Meta(ge=16, description="Tokens that one scheduling step computes at most.")
    ] = 131_072
    max_num_seqs: Annotated[int, msgspec.Meta(ge=1, description="Requests that run at once at most.")] = 256
    kv_capacity_tokens: Annotated[
        int,
        msgspec.Meta(
            ge=16, description="Tokens that the KV cache of each engine holds; must hold one longest request."
        ),
    ] = 1_048_576
    engines: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="Data-parallel engines, each with its own KV and queue.")
    ] = 1
    reserve_full_isl: Annotated[
        bool,
        msgspec.Meta(
            description="Whether a request is admitted only if its whole prompt fits the KV, not just a chunk."
        ),
    ] = True
    watermark: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="Share of the KV blocks that admission leaves free.")
    ] = 0.0
    prefix_cache: Annotated[
        Literal["blocks", "hybrid", "off"],
        msgspec.Meta(
            description="Prefix cache: `blocks` as for plain attention, `hybrid` as for models with a recurrent state,"
            " where it hits only where a prefill has ended, `off`."
        ),
    ] = "blocks"
    prefix_cache_tokens_max: Annotated[
        int,
        msgspec.Meta(ge=0, description="Tokens at the start of a prompt that the prefix cache looks at."),
    ] = 8_192
    hybrid_block_tokens: Annotated[
        int, msgspec.Meta(ge=16, description="Tokens in one KV block with `prefix_cache` hybrid.")
    ] = 1_056
    state_tokens_per_request: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="KV that each running request takes beside its tokens, in tokens, as recurrent states do.",
        ),
    ] = 0
    enable_prompt_tokens_details: Annotated[
        bool, msgspec.Meta(description="Whether `usage` says how many prompt tokens were cached.")
    ] = False
    metric_names: Annotated[
        Literal["new", "old"],
        msgspec.Meta(description="Whether `/metrics` has today's names or those of older releases."),
    ] = "new"
    max_num_queued_reqs: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="Requests running or waiting above which a new one gets a 503; null: any."),
    ] = None
    step_seconds: Annotated[
        float, msgspec.Meta(ge=0, description="Modelled time that every step takes, in seconds.")
    ] = 0.015
    prefill_token_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, description="Modelled time that each prefilled token adds to a step, in seconds."),
    ] = 40e-6
    decode_token_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, description="Modelled time that each decoded token adds to a step, in seconds."),
    ] = 40e-6
    resident_token_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, description="Modelled time that each token in KV adds to a step, in seconds."),
    ] = 15e-9
    time_scale: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="Wall seconds per modelled second: 1 is real time, 0.01 is 100 times faster, 0 answers at once.",
        ),
    ] = 1.0
    damage_share: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="Share of the replies that are damaged.")
    ] = 0.0
    damage_kinds: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Kinds of damage to choose from; empty means all. See the reference of the simulator."
        ),
    ] = ()
    faults: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Planned faults, for example `500@10-12`. See the reference of the simulator."
        ),
    ] = ()
    seed: Annotated[
        int, msgspec.Meta(ge=0, lt=1 << 62, description="Seed of the damage and of faults that hit a share.")
    ] = 0
    shutdown_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="Time that requests in flight get at shutdown, in seconds; 0 fails them at once.",
        ),
    ] = 0.0
    keepalive_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="Time after which an idle connection is closed, in seconds.")
    ] = 5.0
    body_bytes_max: Annotated[
        int, msgspec.Meta(ge=1024, description="Longest request body that is read, in bytes.")
    ] = 256 << 20
    request_log: Annotated[
        str | None,
        msgspec.Meta(description="File that gets one JSON line per generation request; null writes none."),
    ] = None


def block_tokens(settings: SimSettings) -> int:
    """Tokens in one KV block."""
    return settings.hybrid_block_tokens if settings.prefix_cache == "hybrid" else BLOCK_TOKENS


def kv_blocks(settings: SimSettings) -> int:
    """KV blocks of one engine."""
    return settings.kv_capacity_tokens // block_tokens(settings)


def state_blocks(settings: SimSettings) -> int:
    """KV blocks that each running request holds beside its tokens."""
    return -(-settings.state_tokens_per_request // block_tokens(settings))


def check_sizes(settings: SimSettings) -> None:
    """Raises Refusal where vLLM too would refuse to start: sizes that no longest request, or no step, can fit."""
    size = block_tokens(settings)
    if kv_blocks(settings) < -(-settings.max_model_len // size) + state_blocks(settings):
        raise Refusal(
            f"kv_capacity_tokens is {settings.kv_capacity_tokens}, less than one request of"
            f" max_model_len {settings.max_model_len} in blocks of {size}",
            "raise kv_capacity_tokens, or lower max_model_len",
        )
    if settings.prefix_cache == "hybrid" and settings.max_num_batched_tokens < size:
        raise Refusal(
            f"max_num_batched_tokens is {settings.max_num_batched_tokens}, less than hybrid_block_tokens {size}",
            "raise max_num_batched_tokens, or lower hybrid_block_tokens",
        )
