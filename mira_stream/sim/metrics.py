"""`/metrics` of the simulated replica: vLLM's families under vLLM's names, an `engine` label for each data-parallel rank.

What is not modelled stays zero. Durations are wall seconds, also with compressed time: that is what a client sees.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mira_stream.sim.engine_metrics import EngineMetrics
from mira_stream.sim.histogram_text import HistogramText, label_text
from mira_stream.sim.metric_names import (
    CACHE_CONFIG,
    CACHE_TIERS,
    COUNTERS,
    HISTOGRAMS,
    NEWER_NAMES,
    OLD_NAMES,
    PROMPT_SOURCES,
    REJECTIONS,
    SLEEP_STATES,
    BucketForm,
    bounds_of,
)
from mira_stream.sim.settings import SimSettings, block_tokens, kv_blocks

Family = CounterMetricFamily | GaugeMetricFamily
_ENGINE = ("engine", "model_name")
_Values = Callable[[EngineMetrics], Mapping[str, int]]


class Metrics:
    """The counters of one replica, by engine, and the page that shows them."""

    def __init__(self, settings: SimSettings, *, started: float) -> None:
        self._settings = settings
        self._started = started
        self.engines = tuple(
            EngineMetrics(time_scale=settings.time_scale, max_model_len=settings.max_model_len)
            for _ in range(settings.engines)
        )
        self.rejections = dict.fromkeys(REJECTIONS, 0)
        self._old = settings.metric_names == "old"
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self))
        self._histograms = {
            name: self._histogram(name, form, text) for name, (form, text) in HISTOGRAMS.items()
        }
        self._frozen_page: bytes | None = None

    def page(self, *, frozen: bool = False) -> bytes:
        """The page in the Prometheus text format; a `frozen` one stays as it was when it was first asked for."""
        if not frozen:
            self._frozen_page = None
            return self._page()
        if self._frozen_page is None:
            self._frozen_page = self._page()
        return self._frozen_page

    def _page(self) -> bytes:
        histograms = (
            text.render([engine.histograms[name] for engine in self.engines])
            for name, text in self._histograms.items()
        )
        return generate_latest(self._registry) + "".join(histograms).encode()

    def families(self) -> Iterator[Family]:
        """All families but the histograms, as they stand now."""
        start = GaugeMetricFamily("process_start_time_seconds", "Start time of the process.")
        start.add_metric((), self._started)
        yield start
        for family in self._all():
            if not self._old:
                yield family
            elif family.name not in NEWER_NAMES:
                yield _renamed(family)

    def _all(self) -> Iterator[Family]:
        yield from self._gauges()
        yield from self._counters()
        text = "Count of successfully processed requests."
        yield self._by_engine(
            CounterMetricFamily("vllm:request_success", text, labels=(*_ENGINE, "finished_reason")),
            lambda engine: engine.finished,
        )
        yield self._rejections()
        yield self._cache_config()

    def _labels(self, engine: int) -> tuple[str, str]:
        return (str(engine), self._settings.model)

    def _gauges(self) -> Iterator[Family]:
        for name, text, values in _GAUGES:
            yield self._by_engine(GaugeMetricFamily(name, text, labels=_ENGINE), values)
        text = "Number of waiting requests by reason."
        yield self._by_engine(
            GaugeMetricFamily("vllm:num_requests_waiting_by_reason", text, labels=(*_ENGINE, "reason")),
            lambda engine: {"capacity": engine.stats.waiting, "deferred": 0},
        )
        states = dict.fromkeys(SLEEP_STATES, 0) | {"awake": 1}
        yield self._by_engine(
            GaugeMetricFamily(
                "vllm:engine_sleep_state", "Engine sleep state.", labels=(*_ENGINE, "sleep_state")
            ),
            lambda _: states,
        )

    def _counters(self) -> Iterator[Family]:
        for name, text in COUNTERS.items():
            yield self._by_engine(
                CounterMetricFamily(name, text, labels=_ENGINE), _COUNTED.get(name, lambda _: {"": 0})
            )
        text = "Number of prompt tokens by source."
        yield self._by_engine(
            CounterMetricFamily("vllm:prompt_tokens_by_source", text, labels=(*_ENGINE, "source")), _sources
        )
        text = "Prefix-cache hit tokens by the cache tier that supplied them."
        yield self._by_engine(
            CounterMetricFamily("vllm:prompt_tokens_cached_by_source", text, labels=(*_ENGINE, "source")),
            lambda engine: dict.fromkeys(CACHE_TIERS, 0) | {"device": engine.prefix_hit_tokens},
        )

    def _by_engine(
        self,
        family: CounterMetricFamily | GaugeMetricFamily,
        values: Callable[[EngineMetrics], Mapping[str, float]],
    ) -> Family:
        """`family` with one series per engine and label that `values` gives; the label "" is none."""
        for number, engine in enumerate(self.engines):
            for label, value in values(engine).items():
                labels = (*self._labels(number), label) if label else self._labels(number)
                if isinstance(family, CounterMetricFamily):
                    family.add_metric(labels, value, created=self._started)
                else:
                    family.add_metric(labels, value)
        return family

    def _rejections(self) -> Family:
        text = "Number of admission attempts rejected by a queue limit, by reason."
        family = CounterMetricFamily("vllm:admission_rejections", text, labels=("model_name", "reason"))
        for reason, value in self.rejections.items():
            family.add_metric((self._settings.model, reason), value, created=self._started)
        return family

    def _histogram(self, name: str, form: BucketForm, text: str) -> HistogramText:
        labels = [
            label_text(dict(zip(_ENGINE, self._labels(number), strict=True)))
            for number in range(len(self.engines))
        ]
        bounds = bounds_of(form, self._settings.max_model_len)
        name = OLD_NAMES.get(name, name) if self._old else name
        return HistogramText(name, text, bounds=bounds, labels=labels, created=self._started)

    def _cache_config(self) -> Family:
        settings = self._settings
        size, blocks = block_tokens(settings), kv_blocks(settings)
        hybrid = settings.prefix_cache == "hybrid"
        own = {
            "block_size": str(size),
            "effective_attention_block_size": str(size),
            "enable_prefix_caching": str(settings.prefix_cache != "off"),
            "mamba_block_size": str(size) if hybrid else "None",
            "mamba_cache_mode": "align" if hybrid else "none",
            "num_gpu_blocks": str(blocks),
            "kv_cache_size_tokens": str(blocks * size),
            "kv_cache_max_concurrency": str(round(blocks * size / settings.max_model_len, 2)),
        }
        labels = {**CACHE_CONFIG, **own}
        family = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=list(labels)
        )
        for number in range(len(self.engines)):
            family.add_metric(list({**labels, "engine": str(number)}.values()), 1)
        return family


_GAUGES: tuple[tuple[str, str, Callable[[EngineMetrics], Mapping[str, float]]], ...] = (
    (
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        lambda engine: {"": engine.stats.running},
    ),
    (
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        lambda engine: {"": engine.stats.waiting},
    ),
    (
        "vllm:kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        lambda engine: {"": engine.stats.kv_usage},
    ),
)
_COUNTED: dict[str, _Values] = {
    "vllm:prompt_tokens": lambda engine: {"": engine.prompt_tokens},
    "vllm:generation_tokens": lambda engine: {"": engine.generation_tokens},
    "vllm:num_preemptions": lambda engine: {"": engine.preemptions},
    "vllm:prompt_tokens_cached": lambda engine: {"": engine.cached_tokens},
    "vllm:prefix_cache_queries": lambda engine: {"": engine.prefix_queried_tokens},
    "vllm:prefix_cache_hits": lambda engine: {"": engine.prefix_hit_tokens},
}


def _sources(engine: EngineMetrics) -> dict[str, int]:
    computed = engine.prompt_tokens - engine.cached_tokens
    return dict.fromkeys(PROMPT_SOURCES, 0) | {
        "local_compute": computed,
        "local_cache_hit": engine.cached_tokens,
    }


def _renamed(family: Family) -> Family:
    """The family under the name that older releases gave it."""
    old = OLD_NAMES.get(family.name)
    if old is not None:
        family.samples = [
            sample._replace(name=old + sample.name.removeprefix(family.name)) for sample in family.samples
        ]
        family.name = old
    return family


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        return self._metrics.families()
