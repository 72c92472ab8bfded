"""From a layout and the assumptions to the engine of one replica: what its KV holds, what a step of it costs."""

import re
from math import log2

import msgspec

from mira_stream.audit.plan.assumptions import Assumptions
from mira_stream.audit.plan.values import Setting
from mira_stream.core.errors import Refusal
from mira_stream.sim.engine import Engine, EngineLimits, StepCost

BLOCK_TOKENS = 16
_LAYOUT = re.compile(r"([1-9]\d{0,2})xtp([1-9]\d{0,2})")
_GIGA = 1e9


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """So many replicas of `tp` GPUs each."""

    replicas: int
    tp: int

    @property
    def name(self) -> str:
        """As it is written: 8xtp1."""
        return f"{self.replicas}xtp{self.tp}"

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return self.replicas * self.tp


def parse_layout(text: str) -> Layout:
    """`8xtp1` or `1xTP8`. Raises Refusal."""
    found = _LAYOUT.fullmatch(text.strip().lower())
    if found is None:
        raise Refusal(f"{text} is not a layout", "write replicas x tp, such as 8xtp1 or 1xtp8")
    return Layout(replicas=int(found[1]), tp=int(found[2]))


def kv_bytes_per_token(layout: Layout, given: Assumptions) -> float:
    """Bytes that a token takes on each GPU of a replica: a KV head cannot be split, so more GPUs than heads share
    out none of it."""
    heads = max(1.0, given["kv_heads"] / layout.tp)
    return 2 * given["kv_layers"] * heads * given["kv_head_dim"] * given["kv_bytes"]


def kv_memory(layout: Layout, batched_tokens: int, given: Assumptions) -> float:
    """GB left for KV on each GPU; negative if the weights do not even fit."""
    activations = given["activation_bytes_per_batched_token"] * batched_tokens / _GIGA
    usable = given["gpu_memory_gb"] * given["memory_utilization"]
    return usable - given["weights_gb"] / layout.tp - given["other_memory_gb"] - activations


def kv_tokens(layout: Layout, batched_tokens: int, given: Assumptions) -> int:
    """Tokens that one replica's KV holds."""
    if given["kv_tokens"]:
        return int(given["kv_tokens"])
    return int(kv_memory(layout, batched_tokens, given) * _GIGA / kv_bytes_per_token(layout, given))


def state_tokens(layout: Layout, given: Assumptions) -> int:
    """What the recurrent state of a running request takes of the KV, in tokens."""
    state = given["state_mb_per_request"] * 1e6 / layout.tp
    return round(state / kv_bytes_per_token(layout, given))


def step_cost(layout: Layout, given: Assumptions) -> StepCost:
    """A step reads all weights, reads the KV of all that run, and computes its tokens; TP shares all of that out, but
    must exchange what its parts computed."""
    tp, bandwidth = layout.tp, given["memory_bandwidth_gb"] * _GIGA
    rate = given["prefill_tokens_per_second"] * tp * given["tp_doubling_efficiency"] ** log2(tp)
    exchanged = 2 * (tp - 1) / tp * given["tp_exchange_bytes_per_token"]
    token = 1 / rate + exchanged / (given["link_bandwidth_gb"] * _GIGA)
    weights = given["weights_gb"] * _GIGA / tp / bandwidth
    return StepCost(
        fixed_seconds=given["step_overhead_seconds"]
        + weights
        + (given["tp_sync_seconds"] if tp > 1 else 0.0),
        prefill_token_seconds=token,
        decode_token_seconds=token,
        resident_token_seconds=kv_bytes_per_token(layout, given) / bandwidth,
    )


def refuse_unfit(layout: Layout, setting: Setting, given: Assumptions) -> None:
    """Raises Refusal where the engine could not start: its KV would not hold one longest request."""
    holds = kv_tokens(layout, setting.batched_tokens, given)
    if holds >= setting.context + state_tokens(layout, given) + 2 * BLOCK_TOKENS:
        return
    left = kv_memory(layout, setting.batched_tokens, given)
    raise Refusal(
        f"{layout.name} with --batched-tokens {setting.batched_tokens} has no room for one request of "
        f"{setting.context} tokens: {left:.1f} GB are left for KV on each GPU, {max(0, holds):,} tokens",
        "choose a layout with more GPUs per replica, a lower --context or --batched-tokens, or another --gpu",
    )


def engine(layout: Layout, setting: Setting, given: Assumptions) -> Engine:
    """One replica with nothing in it. Raises Refusal if it could not start."""
    refuse_unfit(layout, setting, given)
    limits = EngineLimits(
        batched_tokens_max=setting.batched_tokens,
        running_max=int(given["running_max"]),
        kv_blocks=kv_tokens(layout, setting.batched_tokens, given) // BLOCK_TOKENS,
        block_tokens=BLOCK_TOKENS,
        prefix_cache=bool(given["prefix_cached"]),
        state_blocks=-(-state_tokens(layout, given) // BLOCK_TOKENS),
    )
    return Engine(limits, step_cost(layout, given))
