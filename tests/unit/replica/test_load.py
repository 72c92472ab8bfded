"""Reading a replica's load from the text of `/metrics`: recorded pages, renamed metrics, several engines, damage."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mira_stream.core.usage import Load, LoadReport
from mira_stream.replica.load import parse_load, parse_report

CAPTURES = Path(__file__).parents[4] / "shared" / "facts" / "vllm-captures"
PAGES = sorted(CAPTURES.glob("metrics_*.txt"))
NEEDS_CAPTURES = pytest.mark.skipif(
    not PAGES, reason=f"RECORDED VLLM METRICS ABSENT: {CAPTURES} is not there; no real page was read"
)

NOW = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="mira"} 12.0
vllm:num_requests_waiting{engine="0",model_name="mira"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="mira",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="mira"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="mira"} 1000.0
vllm:prefix_cache_queries_created{engine="0",model_name="mira"} 1.79e+09
vllm:external_prefix_cache_queries_total{engine="0",model_name="mira"} 77.0
vllm:prefix_cache_hits_total{engine="0",model_name="mira"} 400.0
vllm:num_preemptions_total{engine="0",model_name="mira"} 2.0
vllm:prompt_tokens_total{engine="0",model_name="mira"} 1.2345e+06
vllm:prompt_tokens_cached_total{engine="0",model_name="mira"} 5.0
vllm:generation_tokens_total{engine="0",model_name="mira"} 54321.0
vllm:request_prefill_time_seconds_bucket{engine="0",le="0.3",model_name="mira"} 4.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="mira"} 17.5
vllm:request_prefill_time_seconds_count{engine="0",model_name="mira"} 40.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="32768",num_gpu_blocks_override="None"} 1.0
process_start_time_seconds 1.7954176003e+09
"""
LOADED = Load(
    running=12,
    waiting=3,
    kv_usage=0.25,
    kv_usage_max=0.25,
    prompt_tokens=1234500.0,
    generation_tokens=54321.0,
    preemptions=2.0,
    prefix_cache_queries=1000.0,
    prefix_cache_hits=400.0,
    prefill_seconds=17.5,
    process_start_seconds=1795417600.3,
    blocks=32768,
    engines=1,
)


def test_todays_names_are_read() -> None:
    """Every field comes from its own metric; longer names that begin alike are left alone."""
    assert parse_load(NOW) == LOADED


def test_older_names_are_read() -> None:
    """The names of earlier releases, with and without `_total`, give the same load."""
    older = (
        NOW.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
        .replace("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
        .replace("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits")
        .replace("vllm:num_preemptions_total", "vllm:num_preemptions")
    )
    assert parse_load(older) == LOADED


def test_the_newer_name_wins_where_a_server_exports_both() -> None:
    """A release that exports a metric under both names is not counted twice."""
    both = (
        NOW + 'vllm:gpu_cache_usage_perc{engine="0"} 0.75\nvllm:gpu_prefix_cache_hits_total{engine="0"} 9.0\n'
    )
    assert parse_load(both) == LOADED


def test_engines_are_summed_and_usage_is_averaged() -> None:
    """Counts and counters of data-parallel ranks add up; usage is their mean, with the fullest one beside it."""
    second = (
        NOW.replace('engine="0"', 'engine="1"')
        .replace("} 0.25", "} 0.75")
        .replace("process_start", "other_start")
    )
    load = parse_load(NOW + second)
    assert load is not None
    assert (load.running, load.waiting, load.engines, load.blocks) == (24, 6, 2, 65536)
    assert (load.kv_usage, load.kv_usage_max) == (0.5, 0.75)
    assert (load.prompt_tokens, load.prefill_seconds) == (2469000.0, 35.0)
    assert load.process_start_seconds == LOADED.process_start_seconds


def test_what_a_server_does_not_export_is_none() -> None:
    """Only the two counts are needed; absent metrics are None, not 0."""
    load = parse_load("vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n")
    assert load == Load(running=1, waiting=0, kv_usage=None)


@pytest.mark.parametrize(
    "page", ["", "\n", "<html>", "vllm:num_requests_running 1", "up 1\n", "vllm:num_requests_waiting"]
)
def test_a_page_without_the_counts_is_no_load(page: str) -> None:
    """A page that does not say what runs and waits is not read as an idle server."""
    assert parse_load(page) is None


def test_label_values_may_hold_anything() -> None:
    """Braces, quotes, commas and blanks inside a label's value do not shift the sample's value."""
    tricky = r'{engine="0",model_name="a} 9 \"b\", engine=\"7\" {\\"}'
    load = parse_load(
        f"vllm:num_requests_running{tricky} 5.0 1795417600000\nvllm:num_requests_waiting{tricky} 1.0\n"
    )
    assert load is not None
    assert (load.running, load.waiting, load.engines) == (5, 1, 1)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1.0", "many", "1e999", "1e300", "1e19", ""])
def test_values_that_are_no_amounts_count_as_absent(value: str) -> None:
    """NaN, infinity, negative numbers, words and what no counter reaches are not load."""
    load = parse_load(NOW.replace("} 0.25", f"}} {value}").replace("} 17.5", f"}} {value}"))
    assert load is not None
    assert (load.kv_usage, load.kv_usage_max, load.prefill_seconds) == (None, None, None)
    assert load.running == 12


def test_a_usage_above_one_is_no_share() -> None:
    """Taken for one, it would teach that next to nothing fits."""
    load = parse_load(NOW.replace("} 0.25", "} 55.0"))
    assert load is not None
    assert (load.kv_usage, load.kv_usage_max) == (None, None)


def test_blocks_that_are_not_known_yet_are_none() -> None:
    """vLLM writes `None` until it has measured how many blocks fit."""
    load = parse_load(NOW.replace('num_gpu_blocks="32768"', 'num_gpu_blocks="None"'))
    assert load is not None
    assert load.blocks is None


@given(st.text() | st.lists(st.sampled_from([*NOW.split("\n"), "{", '"', "\n", " ", "}"])).map("".join))
def test_any_page_is_read_without_an_error(page: str) -> None:
    """No page raises."""
    parse_load(page)


def test_a_hostile_page_is_read_in_linear_time() -> None:
    """Megabytes of half a label end in a moment."""
    started = time.process_time()
    for piece in (
        'vllm:num_requests_running{a="',
        'vllm:num_requests_running{"\\',
        "\nvllm:num_requests_running{",
    ):
        parse_load(piece * (4_000_000 // len(piece)))
    parse_load('vllm:num_requests_running{engine="' + "\\" * 4_000_000)
    assert time.process_time() - started < 10


@NEEDS_CAPTURES
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_recorded_pages_agree_with_a_general_parser(path: Path) -> None:
    """On pages of a real vLLM our reading equals that of prometheus-client, which parses every line."""
    page = path.read_text(encoding="utf-8")
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == name)

    config = next(sample.labels for sample in samples if sample.name == "vllm:cache_config_info")
    assert parse_load(page) == Load(
        running=round(total("vllm:num_requests_running")),
        waiting=round(total("vllm:num_requests_waiting")),
        kv_usage=total("vllm:kv_cache_usage_perc"),
        kv_usage_max=total("vllm:kv_cache_usage_perc"),
        prompt_tokens=total("vllm:prompt_tokens_total"),
        generation_tokens=total("vllm:generation_tokens_total"),
        preemptions=total("vllm:num_preemptions_total"),
        prefix_cache_queries=total("vllm:prefix_cache_queries_total"),
        prefix_cache_hits=total("vllm:prefix_cache_hits_total"),
        prefill_seconds=total("vllm:request_prefill_time_seconds_sum"),
        prefilled_tokens=total("vllm:request_prefill_kv_computed_tokens_sum"),
        process_start_seconds=total("process_start_time_seconds"),
        blocks=int(config["num_gpu_blocks"]),
        kv_tokens=int(config["kv_cache_size_tokens"]),
    )


@pytest.mark.parametrize(
    ("header", "report"),
    [
        (None, None),
        (
            'JSON {"named_metrics": {"kv_cache_usage_perc": 0.5, "num_requests_waiting": 3}}',
            LoadReport(0.5, 3),
        ),
        ('JSON {"named_metrics": {"kv_cache_usage_perc": 0.5}}', LoadReport(0.5, None)),
        ("TEXT named_metrics.kv_cache_usage_perc=0.5", None),
        ("JSON {", None),
        ('JSON {"named_metrics": 7}', None),
    ],
)
def test_a_load_report_on_an_answer_is_read(header: str | None, report: LoadReport | None) -> None:
    """As vLLM writes it; anything else is no report."""
    assert parse_report(header) == report
