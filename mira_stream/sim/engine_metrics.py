"""What one engine of a simulated replica counts, under vLLM's names. Durations are wall seconds."""

from bisect import bisect_left

from mira_stream.sim.engine import Engine, EngineStats, StepEnd
from mira_stream.sim.metric_names import FINISHED_REASONS, HISTOGRAMS, bounds_of
from mira_stream.sim.sequence import Sequence


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


class EngineMetrics:
    """The counters of one engine. `time_scale` turns its modelled seconds into wall seconds.

    What the engine itself counts is as of the end of its last step, as in vLLM.
    """

    def __init__(self, *, time_scale: float, max_model_len: int) -> None:
        self._scale = time_scale
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.prefix_queried_tokens = 0
        self.prefix_hit_tokens = 0
        self.finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.histograms = {
            name: Histogram(bounds_of(form, max_model_len)) for name, (form, _) in HISTOGRAMS.items()
        }
        self.stats = EngineStats()

    def look(self, engine: Engine) -> None:
        """Take over what the engine says of itself."""
        self.stats = engine.stats
        self.preemptions = engine.preemptions
        self.prefix_queried_tokens = engine.prefix_queried_tokens
        self.prefix_hit_tokens = engine.prefix_hit_tokens

    def count_step(self, end: StepEnd) -> None:
        """A step has ended."""
        step = end.step
        self.generation_tokens += end.advanced
        self.histograms["vllm:iteration_tokens_total"].observe(step.prefill_tokens + step.decode_tokens)
        self.histograms["vllm:inter_token_latency_seconds"].observe(
            (step.ended - step.started) * self._scale, times=end.advanced - len(end.started)
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
        self.cached_tokens += sequence.cached_tokens
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
        computed = sequence.prompt_tokens - sequence.cached_tokens
        observations = (
            ("vllm:request_prompt_tokens", sequence.prompt_tokens),
            ("vllm:request_prefill_kv_computed_tokens", computed),
            ("vllm:request_generation_tokens", sequence.output_tokens),
            ("vllm:request_max_num_generation_tokens", sequence.output_tokens),
            ("vllm:request_params_n", 1),
            ("vllm:request_params_max_tokens", sequence.output_tokens_max),
            ("vllm:request_num_preemptions", sequence.preemptions),
            ("vllm:request_queue_time_seconds", queued),
            ("vllm:request_prefill_time_seconds", prefill),
            ("vllm:request_decode_time_seconds", decode),
            ("vllm:request_inference_time_seconds", prefill + decode),
            ("vllm:e2e_request_latency_seconds", queued + prefill + decode),
            ("vllm:request_time_per_output_token_seconds", decode / gaps if gaps else 0.0),
        )
        for name, value in observations:
            self.histograms[name].observe(value)
