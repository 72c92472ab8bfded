"""What a request was expected to cost and what it did cost, in tokens."""

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the replica reported them. `cached_tokens` is None where the server does not say (not 0).

    `estimated`: a streamed reply came without its cost; `completion_tokens` are a guess, `prompt_tokens` are 0.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    estimated: bool = False


class LoadReport(msgspec.Struct, frozen=True):
    """What a server says of its load on an answer itself (ORCA); None where it does not say."""

    kv_usage: float | None = None
    waiting: int | None = None


class Reply(msgspec.Struct, frozen=True):
    """A 200 answer: the text, why it ended (`stop`, `length`, …), its usage, the model that answered, and the time.

    `stopped_early`: why we left before its end, if we did: it repeated itself, or all that was asked for was there.
    """

    text: str
    finish_reason: str | None
    usage: Usage
    model: str
    latency_seconds: float
    stopped_early: str | None = None
    load: LoadReport | None = None


def with_expected(reply: Reply, prompt_tokens: int) -> Reply:
    """`reply`; where its server did not say what it cost, with the `prompt_tokens` that were expected."""
    if not reply.usage.estimated:
        return reply
    usage = msgspec.structs.replace(reply.usage, prompt_tokens=prompt_tokens)
    return msgspec.structs.replace(reply, usage=usage)


def believable(usage: Usage, max_tokens: int) -> Usage:
    """`usage`, with no longer a reply than was asked for: one server that counts wrong must not make a pool expect
    replies that fit nowhere."""
    if usage.completion_tokens <= max_tokens:
        return usage
    return msgspec.structs.replace(usage, completion_tokens=max_tokens)


class ServedModel(msgspec.Struct, frozen=True):
    """One entry of `/v1/models`."""

    model: str
    max_model_len: int | None


class Load(msgspec.Struct, frozen=True):
    """One look at a replica's `/metrics`: counts and counters are sums over its engines, usage is their mean.

    None where the server does not export the metric. Ratios are 0…1, times are seconds. `prefilled_tokens` are those of
    the requests whose prefill took `prefill_seconds`; `kv_tokens` is what the server says its cache holds.
    """

    running: int
    waiting: int
    kv_usage: float | None
    kv_usage_max: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None
    prefix_cache_queries: float | None = None
    prefix_cache_hits: float | None = None
    prefill_seconds: float | None = None
    prefilled_tokens: float | None = None
    process_start_seconds: float | None = None
    blocks: int | None = None
    kv_tokens: int | None = None
    engines: int = 1
