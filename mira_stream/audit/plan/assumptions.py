"""Everything that a plan takes for granted: by name, each with where it comes from, and all of it can be replaced."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

import msgspec

from mira_stream.core.errors import Refusal

CARD, PUBLISHED, MAKER, ASSUMED, CONFIG, GIVEN = "card", "published", "maker", "assumed", "config", "given"


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """One number. `origin`: the model's card, published measurements or descriptions, the maker's data sheet, assumed
    by us, the configuration, or given by hand. `low` and `high`: where the truth may lie, if the result is to be told
    for both ends; `least` and `most`: what may be given.
    """

    name: str
    value: float
    unit: str
    origin: str
    why: str
    low: float | None = None
    high: float | None = None
    least: float = 0.0
    most: float = 1e15


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """What its maker says: memory in GB, bandwidths in GB/s, and bf16 arithmetic relative to an H200."""

    memory: float
    bandwidth: float
    arithmetic: float
    link: float


GPUS = {
    "h200": Gpu(memory=141, bandwidth=4800, arithmetic=1.0, link=450),
    "h100": Gpu(memory=80, bandwidth=3350, arithmetic=1.0, link=450),
    "a100": Gpu(memory=80, bandwidth=2040, arithmetic=0.315, link=300),
}
_USABLE_BANDWIDTH = 0.71
_USABLE_LINK = 0.5
_PREFILL = 35_000.0


class Assumptions:
    """All of them, looked up by name."""

    def __init__(self, items: Sequence[Assumption]) -> None:
        self._items = {one.name: one for one in items}

    def __getitem__(self, name: str) -> float:
        return self._items[name].value

    def __iter__(self) -> Iterator[Assumption]:
        return iter(self._items.values())

    def replaced(self, values: Mapping[str, float]) -> "Assumptions":
        """These with some others, given by hand. Raises Refusal for names and values that cannot be."""
        items = dict(self._items)
        for name, value in values.items():
            known = items.get(name)
            if known is None:
                raise Refusal(f"there is no assumption {name}", f"one of {', '.join(items)}")
            if not known.least <= value <= known.most:
                range_ = f"it goes from {known.least:g} to {known.most:g} {known.unit}".rstrip()
                raise Refusal(f"{name} cannot be {value:g}", range_)
            items[name] = msgspec.structs.replace(known, value=value, origin=GIVEN, low=None, high=None)
        return Assumptions(list(items.values()))


def gpu_named(name: str) -> Gpu:
    """Raises Refusal for one that is not known."""
    if name.lower() not in GPUS:
        raise Refusal(
            f"there is no GPU {name}",
            f"one of {', '.join(GPUS)}; for another one give gpu_memory_gb, memory_bandwidth_gb, link_bandwidth_gb "
            "and prefill_tokens_per_second with --set",
        )
    return GPUS[name.lower()]


def assumptions(gpu: Gpu, *, output_tokens: int) -> Assumptions:
    """What is assumed for that GPU; `output_tokens` as the configuration expects them."""
    return Assumptions([*_memory(gpu), *_model(), *_costs(gpu), *_parallel(gpu), *_load(output_tokens)])


def parse_values(given: Mapping[str, str]) -> dict[str, float]:
    """The values of `--set`. Raises Refusal for what is not a number."""
    return {name: _number(name, text) for name, text in given.items()}


def _number(name: str, text: str) -> float:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise Refusal(f"--set {name}={text} is not a number", "for example --set output_tokens=900")
    return value


def _one(name: str, value: float, unit: str, origin: str, why: str, **limits: float) -> Assumption:
    return Assumption(name=name, value=value, unit=unit, origin=origin, why=why, **limits)


def _memory(gpu: Gpu) -> list[Assumption]:
    of_step = "memory of a larger step, on each GPU"
    return [
        _one("gpu_memory_gb", gpu.memory, "GB", MAKER, "of one GPU", least=1),
        _one("memory_utilization", 0.9, "", CARD, "--gpu-memory-utilization", least=0.01, most=1),
        _one("weights_gb", 70, "GB", CARD, "35B parameters in bf16", least=0.01),
        _one("other_memory_gb", 3, "GB", ASSUMED, "graphs, libraries, buffers, on each GPU"),
        _one("activation_bytes_per_batched_token", 40_000, "B", ASSUMED, of_step),
        _one("kv_tokens", 0, "tokens", ASSUMED, "of one replica; 0: follows from the memory"),
    ]


def _model() -> list[Assumption]:
    state = "recurrent state of the other 30 layers: 32 × 128 × 128 numbers of 4 bytes each"
    return [
        _one("kv_layers", 10, "", PUBLISHED, "of 40 layers, those with full attention", least=1),
        _one("kv_heads", 2, "", PUBLISHED, "TP beyond that holds each head more than once", least=1),
        _one("kv_head_dim", 256, "", PUBLISHED, "size of a KV head", least=1),
        _one("kv_bytes", 2, "B", CARD, "bf16", least=0.5),
        _one("state_mb_per_request", 63, "MB", ASSUMED, state),
    ]


def _costs(gpu: Gpu) -> list[Assumption]:
    bandwidth, prefill = gpu.bandwidth * _USABLE_BANDWIDTH, _PREFILL * gpu.arithmetic
    of_peak = f"{100 * _USABLE_BANDWIDTH:.0f} % of {gpu.bandwidth:,.0f}"
    known = "one GPU, bf16; for an H200 with fp8 weights 45,000 to 56,000 were published"
    return [
        _one(
            "memory_bandwidth_gb",
            round(bandwidth),
            "GB/s",
            ASSUMED,
            of_peak,
            low=round(0.75 * bandwidth),
            high=round(1.2 * bandwidth),
            least=1,
        ),
        _one(
            "prefill_tokens_per_second",
            round(prefill),
            "tokens/s",
            ASSUMED,
            known,
            low=round(0.7 * prefill),
            high=round(1.4 * prefill),
            least=1,
        ),
        _one("step_overhead_seconds", 0.004, "s", ASSUMED, "scheduling and launching a step"),
    ]


def _parallel(gpu: Gpu) -> list[Assumption]:
    kept = (
        "arithmetic kept each time TP doubles; for a 27B model on B200, 8xTP1 was published as 3.4 times TP8"
    )
    of_peak = f"{100 * _USABLE_LINK:.0f} % of {gpu.link:,.0f} in one direction"
    return [
        _one("tp_doubling_efficiency", 0.8, "", ASSUMED, kept, low=0.7, high=0.95, least=0.1, most=1),
        _one("tp_sync_seconds", 0.0012, "s", ASSUMED, "a step's 80 all-reduces, 15 µs each"),
        _one("tp_exchange_bytes_per_token", 327_680, "B", PUBLISHED, "80 all-reduces of 2,048 numbers, bf16"),
        _one("link_bandwidth_gb", gpu.link * _USABLE_LINK, "GB/s", ASSUMED, of_peak, least=1),
    ]


def _load(output_tokens: int) -> list[Assumption]:
    low, high = max(1, round(0.6 * output_tokens)), round(1.7 * output_tokens)
    cached = "hybrid models often do not find a shared system prompt again"
    seats = "--max-num-seqs, and [admission] requests_max"
    played = "at most so many are played, and scaled up"
    return [
        _one(
            "output_tokens",
            output_tokens,
            "tokens",
            CONFIG,
            "of a reply; [admission] output_tokens",
            low=low,
            high=high,
            least=1,
        ),
        _one("output_spread", 0.2, "", ASSUMED, "standard deviation of that, relative", most=2),
        _one("running_max", 1024, "requests", ASSUMED, seats, least=1, most=65536),
        _one("prefix_cached", 0, "0 or 1", PUBLISHED, cached, most=1),
        _one(
            "count_error", 0.03, "", ASSUMED, "of the client's token estimate, standard deviation", most=0.3
        ),
        _one("network_seconds", 0.025, "s", ASSUMED, "to a replica, one way", most=10),
        _one("modelled_replicas", 2, "", ASSUMED, played, least=1, most=64),
    ]
