"""`/metrics` of the simulated replica: vLLM's families under vLLM's names; what is not modelled stays zero.

Durations are wall seconds, also with compressed time: that is what a client sees.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from mira_stream.sim.engine import EngineStats, StepEnd
from mira_stream.sim.metric_names import (
    CACHE_CONFIG,
    CACHE_TIERS,
    COUNTERS,
    FINISHED_REASONS,
    HISTOGRAMS,
    PROMPT_SOURCES,
    REJECTIONS,
    SLEEP_STATES,
    bounds_of,
)
from mira_stream.sim.sequence import Sequence
from mira_stream.sim.settings import BLOCK_TOKENS, SimSettings

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily
_ENGINE = ("engine", "model_name")


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Metrics:
    """The counters of one replica. `time_scale` turns the engine's modelled seconds into wall seconds."""

    def __init__(self, settings: SimSettings, *, started: float) -> None:
        self._settings = settings
        self._started = started
        self._scale = settings.time_scale
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.rejections = dict.fromkeys(REJECTIONS, 0)
        self.histograms = {
            name: Histogram(bounds_of(form, settings.max_model_len)) for name, (form, _) in HISTOGRAMS.items()
        }
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self))
        self.stats = EngineStats()

    def count_step(self, end: StepEnd) -> None:
        """A step has ended."""
        step = end.step
        self.generation_tokens += len(end.advanced)
        self.histograms["vllm:iteration_tokens_total"].observe(step.prefill_tokens + step.decode_tokens)
        gaps = len(end.advanced) - len(end.started)
        self.histograms["vllm:inter_token_latency_seconds"].observe(
            (step.ended - step.started) * self._scale, times=gaps
        )
        for sequence in end.started:
            self.count_started(sequence)

    def count_at_once(self, sequence: Sequence, finish_reason: str) -> None:
        """A completion that took no time and no step."""
        self.generation_tokens += sequence.output_tokens
        self.count_started(sequence)
        self.count_finished(sequence, finish_reason)

    def count_started(self, sequence: Sequence) -> None:
        """A prompt is prefilled and has its first token."""
        self.prompt_tokens += sequence.prompt_tokens
        wait = (sequence.first_token - sequence.arrived) * self._scale
        self.histograms["vllm:time_to_first_token_seconds"].observe(wait)

    def count_finished(self, sequence: Sequence, finish_reason: str) -> None:
        """A completion is whole; call it after `count_started`, with all its times set."""
        self.finished[finish_reason] += 1
        scale = self._scale
        decode = (sequence.finished - sequence.first_token) * scale
        prefill = (sequence.first_token - sequence.scheduled) * scale
        queued = (sequence.scheduled - sequence.arrived) * scale
        gaps = sequence.output_tokens - 1
        observations = (
            ("vllm:request_prompt_tokens", sequence.prompt_tokens),
            ("vllm:request_prefill_kv_computed_tokens", sequence.prompt_tokens),
            ("vllm:request_generation_tokens", sequence.output_tokens),
            ("vllm:request_max_num_generation_tokens", sequence.output_tokens),
            ("vllm:request_params_n", 1),
            ("vllm:request_params_max_tokens", sequence.output_tokens_max),
            ("vllm:request_num_preemptions", 0),
            ("vllm:request_queue_time_seconds", queued),
            ("vllm:request_prefill_time_seconds", prefill),
            ("vllm:request_decode_time_seconds", decode),
            ("vllm:request_inference_time_seconds", prefill + decode),
            ("vllm:e2e_request_latency_seconds", queued + prefill + decode),
            ("vllm:request_time_per_output_token_seconds", decode / gaps if gaps else 0.0),
        )
        for name, value in observations:
            self.histograms[name].observe(value)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Family]:
        """All families as they stand now."""
        yield _plain_gauge("process_start_time_seconds", "Start time of the process.", self._started)
        yield from self._gauges()
        yield from self._counters()
        yield self._reasons()
        yield self._rejections()
        for name, (_, text) in HISTOGRAMS.items():
            yield self._histogram(name, text)
        yield self._cache_config()

    @property
    def _labels(self) -> tuple[str, str]:
        return ("0", self._settings.model)

    def _gauges(self) -> Iterator[Family]:
        stats = self.stats
        gauges = (
            ("vllm:num_requests_running", "Number of requests in model execution batches.", stats.running),
            ("vllm:num_requests_waiting", "Number of requests waiting to be processed.", stats.waiting),
            ("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", stats.kv_usage),
        )
        for name, text, value in gauges:
            family = GaugeMetricFamily(name, text, labels=_ENGINE)
            family.add_metric(self._labels, value)
            yield family
        waiting = {"capacity": stats.waiting, "deferred": 0}
        text = "Number of waiting requests by reason."
        yield self._split(
            GaugeMetricFamily("vllm:num_requests_waiting_by_reason", text, labels=(*_ENGINE, "reason")),
            waiting,
        )
        states = dict.fromkeys(SLEEP_STATES, 0) | {"awake": 1}
        yield self._split(
            GaugeMetricFamily(
                "vllm:engine_sleep_state", "Engine sleep state.", labels=(*_ENGINE, "sleep_state")
            ),
            states,
        )

    def _counters(self) -> Iterator[Family]:
        known = {
            "vllm:prompt_tokens": self.prompt_tokens,
            "vllm:generation_tokens": self.generation_tokens,
        }
        for name, text in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=_ENGINE)
            family.add_metric(self._labels, known.get(name, 0), created=self._started)
            yield family
        sources = dict.fromkeys(PROMPT_SOURCES, 0) | {"local_compute": self.prompt_tokens}
        text = "Number of prompt tokens by source."
        yield self._split(
            CounterMetricFamily("vllm:prompt_tokens_by_source", text, labels=(*_ENGINE, "source")), sources
        )
        text = "Prefix-cache hit tokens by the cache tier that supplied them."
        yield self._split(
            CounterMetricFamily("vllm:prompt_tokens_cached_by_source", text, labels=(*_ENGINE, "source")),
            dict.fromkeys(CACHE_TIERS, 0),
        )

    def _reasons(self) -> Family:
        text = "Count of successfully processed requests."
        labels = (*_ENGINE, "finished_reason")
        return self._split(CounterMetricFamily("vllm:request_success", text, labels=labels), self.finished)

    def _rejections(self) -> Family:
        text = "Number of admission attempts rejected by a queue limit, by reason."
        family = CounterMetricFamily("vllm:admission_rejections", text, labels=("model_name", "reason"))
        for reason, value in self.rejections.items():
            family.add_metric((self._settings.model, reason), value, created=self._started)
        return family

    def _split(self, family: CounterMetricFamily | GaugeMetricFamily, values: dict[str, int]) -> Family:
        """`family` with one series per key of `values`."""
        for label, value in values.items():
            if isinstance(family, CounterMetricFamily):
                family.add_metric((*self._labels, label), value, created=self._started)
            else:
                family.add_metric((*self._labels, label), value)
        return family

    def _histogram(self, name: str, text: str) -> Family:
        histogram = self.histograms[name]
        family = HistogramMetricFamily(name, text, labels=_ENGINE)
        ends = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
        counts = map(float, accumulate(histogram.counts))
        family.add_metric(
            self._labels, buckets=list(zip(ends, counts, strict=True)), sum_value=histogram.total
        )
        labels = dict(zip(_ENGINE, self._labels, strict=True))
        family.add_sample(f"{name}_created", labels, self._started)
        return family

    def _cache_config(self) -> Family:
        blocks = self._settings.kv_capacity_tokens // BLOCK_TOKENS
        own = {
            "block_size": str(BLOCK_TOKENS),
            "effective_attention_block_size": str(BLOCK_TOKENS),
            "num_gpu_blocks": str(blocks),
            "kv_cache_size_tokens": str(blocks * BLOCK_TOKENS),
            "kv_cache_max_concurrency": str(round(blocks * BLOCK_TOKENS / self._settings.max_model_len, 2)),
        }
        labels = {**CACHE_CONFIG, **own, "engine": "0"}
        family = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=list(labels)
        )
        family.add_metric(list(labels.values()), 1)
        return family


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        return self._metrics.families()


def _plain_gauge(name: str, text: str, value: float) -> Family:
    family = GaugeMetricFamily(name, text)
    family.add_metric((), value)
    return family
