"""Which replica: the one that would drain first."""

_FULLEST = 0.98


def drain_seconds(
    *, unprefilled_tokens: float, prompt_tokens: int, prefill_tokens_per_second: float, filled_share: float
) -> float:
    """How long until a prompt sent now is worked off: its prefill behind what waits, and a term that grows without
    bound as the KV cache fills, in seconds of decoding that others feel."""
    assert prefill_tokens_per_second > 0
    share = min(_FULLEST, max(0.0, filled_share))
    return (unprefilled_tokens + prompt_tokens) / prefill_tokens_per_second + share / (1 - share)
