"""Reads a replica's load from the Prometheus text of its `/metrics`, looking only at the dozen names that matter.

A page has about a thousand lines, nearly all of them histogram buckets. Finding our names in it takes a fraction of a
millisecond; a general parser, which makes an object of every line, takes fifty times as long and would stall
the loop on each scrape.
"""

import re
from collections.abc import Iterator

import msgspec

from mira_stream.core.usage import Load, LoadReport

# The sample's labels may hold quoted braces; what follows the value (a time stamp, an exemplar) is of no interest.
_SAMPLE = re.compile(r"(?:\{((?:[^\"{}\n]|\"(?:[^\"\\\n]|\\.)*+\")*+)\})?[ \t]++([^\s#]+)")
_ENGINE = re.compile(r"(?:^|,)\s*engine=\"((?:[^\"\\]|\\.)*+)\"")
_KV_TOKENS = re.compile(r"(?:^|,)\s*kv_cache_size_tokens=\"([0-9]{1,18})\"")
_BLOCKS = re.compile(r"(?:^|,)\s*num_gpu_blocks=\"([0-9]{1,18})\"")

# Newest name first; the first that the page has is used. vLLM renamed some of them between releases.
_RUNNING = ("vllm:num_requests_running",)
_WAITING = ("vllm:num_requests_waiting",)
_KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_PROMPT = ("vllm:prompt_tokens_total", "vllm:prompt_tokens")
_GENERATION = ("vllm:generation_tokens_total", "vllm:generation_tokens")
_PREEMPTIONS = ("vllm:num_preemptions_total", "vllm:num_preemptions")
_QUERIES = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_queries",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries",
)
_HITS = (
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits",
)
_PREFILL = ("vllm:request_prefill_time_seconds_sum",)
# Both are counted when a request ends, as its prefill time is; `prompt_tokens` is counted earlier, at the first token.
_PREFILLED = ("vllm:request_prefill_kv_computed_tokens_sum", "vllm:request_prompt_tokens_sum")
_START = ("process_start_time_seconds",)
_CACHE_CONFIG = ("vllm:cache_config_info",)


_VALUE_MAX = 1e15
"""No counter gets there in a hundred years; sums of what is below stay numbers that can be calculated with."""

REPORT_WANTED = {"endpoint-load-metrics-format": "JSON"}
"""Asks for a load report on the answer (ORCA)."""
REPORT_HEADER = "endpoint-load-metrics"


class _Named(msgspec.Struct):
    kv_cache_usage_perc: float | None = None
    num_requests_waiting: float | None = None


class _Report(msgspec.Struct):
    named_metrics: _Named


def parse_report(header: str | None) -> LoadReport | None:
    """The load that an answer's header reports, as vLLM writes it; None if there is none, or not that."""
    if header is None or not header.startswith("JSON "):
        return None
    try:
        told = msgspec.json.decode(header[5:], type=_Report).named_metrics
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    waiting = told.num_requests_waiting
    return LoadReport(told.kv_cache_usage_perc, None if waiting is None else max(0, round(waiting)))


def parse_load(page: str) -> Load | None:
    """The load that a `/metrics` page shows; None if it does not say how many requests run and wait.

    Counts and counters are summed over `engine` labels (data-parallel ranks); usage is their mean, with the maximum
    beside it. A value that is not a number from 0 up to what a counter can reach counts as absent, as does a usage
    above 1: it cannot be a share.
    """
    page = "\n" + page
    running, waiting = _values(page, _RUNNING), _values(page, _WAITING)
    if not running or not waiting:
        return None
    usage = [value for value in _values(page, _KV_USAGE) if value <= 1]
    start = _values(page, _START)
    return Load(
        running=round(sum(running)),
        waiting=round(sum(waiting)),
        kv_usage=sum(usage) / len(usage) if usage else None,
        kv_usage_max=max(usage, default=None),
        prompt_tokens=_total(page, _PROMPT),
        generation_tokens=_total(page, _GENERATION),
        preemptions=_total(page, _PREEMPTIONS),
        prefix_cache_queries=_total(page, _QUERIES),
        prefix_cache_hits=_total(page, _HITS),
        prefill_seconds=_total(page, _PREFILL),
        prefilled_tokens=_total(page, _PREFILLED),
        process_start_seconds=max(start, default=None),
        blocks=_cache_total(page, _BLOCKS),
        kv_tokens=_cache_total(page, _KV_TOKENS),
        engines=_engines(page),
    )


def _samples(page: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Labels and value of each sample of the first of `names` that the page has."""
    for name in names:
        # A longer name that only begins like this one has neither brace nor blank there, so it does not match.
        found = [match for at in _places(page, f"\n{name}") if (match := _SAMPLE.match(page, at))]
        if found:
            return [(match[1] or "", match[2]) for match in found]
    return []


def _places(page: str, wanted: str) -> Iterator[int]:
    """Where each occurrence of `wanted` ends."""
    at = page.find(wanted)
    while at >= 0:
        yield at + len(wanted)
        at = page.find(wanted, at + len(wanted))


def _values(page: str, names: tuple[str, ...]) -> list[float]:
    return [value for _, text in _samples(page, names) if (value := _number(text)) is not None]


def _total(page: str, names: tuple[str, ...]) -> float | None:
    values = _values(page, names)
    return sum(values) if values else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= _VALUE_MAX else None


def _cache_total(page: str, wanted: re.Pattern[str]) -> int | None:
    """A label of the cache configuration, summed over all engines; vLLM writes `None` until it has measured it."""
    counts = [
        int(match[1]) for labels, _ in _samples(page, _CACHE_CONFIG) if (match := wanted.search(labels))
    ]
    return sum(counts) if counts else None


def _engines(page: str) -> int:
    engines = {
        match[1] if (match := _ENGINE.search(labels)) else "" for labels, _ in _samples(page, _RUNNING)
    }
    return max(1, len(engines))
