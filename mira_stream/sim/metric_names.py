"""vLLM's metric families as they stand in 0.32: names, help, label values, bucket bounds."""

from typing import Literal

BucketForm = Literal["latency", "first_token", "token", "tokens", "step", "choices", "preemptions"]

COUNTERS = {
    "vllm:prompt_tokens": "Number of prefill tokens processed.",
    "vllm:generation_tokens": "Number of generation tokens processed.",
    "vllm:num_preemptions": "Cumulative number of preemption from the engine.",
    "vllm:prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
    "vllm:prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "vllm:prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "vllm:external_prefix_cache_queries": "External prefix cache queries, in terms of number of queried tokens.",
    "vllm:external_prefix_cache_hits": "External prefix cache hits, in terms of number of cached tokens.",
    "vllm:mm_cache_queries": "Multi-modal cache queries, in terms of number of queried items.",
    "vllm:mm_cache_hits": "Multi-modal cache hits, in terms of number of cached items.",
    "vllm:estimated_flops_per_gpu": "Estimated number of floating point operations per GPU.",
    "vllm:estimated_read_bytes_per_gpu": "Estimated number of bytes read from memory per GPU.",
    "vllm:estimated_write_bytes_per_gpu": "Estimated number of bytes written to memory per GPU.",
}
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
REJECTIONS = ("max_num_queued_reqs", "max_num_queued_tokens")
SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")
PROMPT_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
CACHE_TIERS = ("device", "host", "p2p", "disk", "external_unspecified")

OLD_NAMES = {
    "vllm:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc",
    "vllm:prefix_cache_queries": "vllm:gpu_prefix_cache_queries",
    "vllm:prefix_cache_hits": "vllm:gpu_prefix_cache_hits",
    "vllm:inter_token_latency_seconds": "vllm:time_per_output_token_seconds",
}
"""What older releases call some families."""
NEWER_NAMES = (
    "vllm:num_requests_waiting_by_reason",
    "vllm:engine_sleep_state",
    "vllm:prompt_tokens_cached",
    "vllm:prompt_tokens_by_source",
    "vllm:prompt_tokens_cached_by_source",
    "vllm:external_prefix_cache_queries",
    "vllm:external_prefix_cache_hits",
    "vllm:admission_rejections",
)
"""Families that older releases do not have."""

HISTOGRAMS: dict[str, tuple[BucketForm, str]] = {
    "vllm:request_prompt_tokens": ("tokens", "Number of prefill tokens processed."),
    "vllm:request_generation_tokens": ("tokens", "Number of generation tokens processed."),
    "vllm:iteration_tokens_total": ("step", "Histogram of number of tokens per engine_step."),
    "vllm:request_max_num_generation_tokens": (
        "tokens",
        "Histogram of maximum number of requested generation tokens.",
    ),
    "vllm:request_params_n": ("choices", "Histogram of the n request parameter."),
    "vllm:request_params_max_tokens": ("tokens", "Histogram of the max_tokens request parameter."),
    "vllm:time_to_first_token_seconds": ("first_token", "Histogram of time to first token in seconds."),
    "vllm:inter_token_latency_seconds": ("token", "Histogram of inter-token latency in seconds."),
    "vllm:request_time_per_output_token_seconds": (
        "token",
        "Histogram of time_per_output_token_seconds per request.",
    ),
    "vllm:e2e_request_latency_seconds": ("latency", "Histogram of e2e request latency in seconds."),
    "vllm:request_queue_time_seconds": ("latency", "Histogram of time spent in WAITING phase for request."),
    "vllm:request_inference_time_seconds": (
        "latency",
        "Histogram of time spent in RUNNING phase for request.",
    ),
    "vllm:request_prefill_time_seconds": ("latency", "Histogram of time spent in PREFILL phase for request."),
    "vllm:request_decode_time_seconds": ("latency", "Histogram of time spent in DECODE phase for request."),
    "vllm:request_num_preemptions": (
        "preemptions",
        "Histogram of the number of times a request was preempted.",
    ),
    "vllm:request_prefill_kv_computed_tokens": (
        "tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
    ),
}

# fmt: off
_BOUNDS: dict[BucketForm, tuple[float, ...]] = {
    "latency": (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680),
    "first_token": (
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
    ),
    "token": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
    "step": (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
    "choices": (1, 2, 5, 10, 20),
    "preemptions": (1, 2, 3, 4, 5, 10, 20),
}
# fmt: on

# The labels of `cache_config_info`, with a plain GPU server's values; the size is filled in.
CACHE_CONFIG = {
    "_block_size_resolved": "True",
    "block_size": "",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "effective_attention_block_size": "",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "enable_prefix_caching": "False",
    "engine": "",
    "gpu_memory_utilization": "0.9",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_max_concurrency": "",
    "kv_cache_memory_bytes": "None",
    "kv_cache_size_tokens": "",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "float32",
    "num_cpu_blocks": "None",
    "num_gpu_blocks": "",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}


def bounds_of(form: BucketForm, max_model_len: int) -> tuple[float, ...]:
    """Upper bounds of the buckets; those in tokens go 1, 2, 5, 10, … up to the context."""
    if form != "tokens":
        return _BOUNDS[form]
    steps = (mantissa * 10**exponent for exponent in range(12) for mantissa in (1, 2, 5))
    return tuple(float(step) for step in steps if step <= max_model_len)
