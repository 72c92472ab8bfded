"""The arithmetic of a plan: memory, costs, samples, the choice of the best; and the modelled replicas, played."""

from collections.abc import Sequence
from random import Random

import pytest

from mira_stream.audit.bench.sample import Part, Sample
from mira_stream.audit.plan.assumptions import GPUS, Assumptions, assumptions, gpu_named, parse_values
from mira_stream.audit.plan.cases import Load, best, best_by_layout, gpu_hours, uncertain
from mira_stream.audit.plan.cases import outcome as played_outcome
from mira_stream.audit.plan.corpus import ContextLimits, corpus_figures, interval, lines_of, notes
from mira_stream.audit.plan.costs import (
    kv_bytes_per_token,
    kv_tokens,
    parse_layout,
    refuse_unfit,
    state_tokens,
    step_cost,
)
from mira_stream.audit.plan.lengths import prompts_within
from mira_stream.audit.plan.play import Request, play
from mira_stream.audit.plan.values import Interval, Length, Outcome, Played, Setting
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import Refusal
from mira_stream.core.record import ObjectVersion

ONE, EIGHT = parse_layout("8xtp1"), parse_layout("1xTP8")
LIMITS = ContextLimits([32_768], [30_720], cut=True)


def given(**values: float) -> Assumptions:
    """Those of an H200, and some others."""
    return assumptions(GPUS["h200"], output_tokens=700).replaced(values)


def bare(**values: float) -> Assumptions:
    """Nothing but weights and KV in the memory."""
    return given(other_memory_gb=0, activation_bytes_per_batched_token=0, **values)


def test_kv_by_hand() -> None:
    """10 layers × 2 × 2 heads × 256 × 2 bytes a token; TP8 holds each of the two heads four times."""
    assert kv_bytes_per_token(ONE, bare()) == 20_480
    assert kv_bytes_per_token(parse_layout("4xtp2"), bare()) == 10_240
    assert kv_bytes_per_token(EIGHT, bare()) == 10_240
    assert kv_tokens(ONE, 131_072, bare()) == int((0.9 * 141 - 70) * 1e9 / 20_480)
    assert kv_tokens(EIGHT, 131_072, bare()) == int((0.9 * 141 - 70 / 8) * 1e9 / 10_240)
    # A node of eight: 22 million tokens against 11.5 million.
    assert round(8 * kv_tokens(ONE, 0, bare()) / 1e6, 1) == 22.2
    assert round(kv_tokens(EIGHT, 0, bare()) / 1e6, 1) == 11.5


def test_larger_steps_and_states_take_kv() -> None:
    """40,000 bytes for each token of a step; the state of a request is shared out, its KV is not."""
    lost = kv_tokens(ONE, 16_384, given()) - kv_tokens(ONE, 131_072, given())
    assert abs(lost - 114_688 * 40_000 / 20_480) <= 1
    assert state_tokens(ONE, given()) == round(63e6 / 20_480)
    assert state_tokens(EIGHT, given()) == round(63e6 / 8 / 10_240)
    assert kv_tokens(ONE, 131_072, given(kv_tokens=5_000_000)) == 5_000_000


def test_step_costs_by_hand() -> None:
    """All weights are read in every step; TP8 keeps 0.8³ of the arithmetic and pays for each exchange."""
    alone, together = step_cost(ONE, given()), step_cost(EIGHT, given())
    assert alone.fixed_seconds == pytest.approx(0.004 + 70 / 3408)
    assert alone.prefill_token_seconds == pytest.approx(1 / 35_000)
    assert alone.resident_token_seconds == pytest.approx(20_480 / 3408e9)
    assert together.fixed_seconds == pytest.approx(0.004 + 70 / 8 / 3408 + 0.0012)
    exchange = 2 * 7 / 8 * 327_680 / 225e9
    assert together.prefill_token_seconds == pytest.approx(1 / (8 * 35_000 * 0.8**3) + exchange)


@pytest.mark.parametrize("text", ["8", "tp8", "0xtp8", "8xtp0", "8 x tp 1", "axtpb", ""])
def test_other_words_are_no_layout(text: str) -> None:
    """The refusal shows how one is written."""
    with pytest.raises(Refusal) as refusal:
        parse_layout(text)
    assert "8xtp1" in refusal.value.hint


def test_what_no_engine_could_start_with_is_refused() -> None:
    """The weights fill an 80 GB GPU: said in GB, with what to change."""
    small = assumptions(gpu_named("H100"), output_tokens=700)
    setting = Setting(layout="8xtp1", context=65_536, batched_tokens=131_072)
    with pytest.raises(Refusal, match=r"-6\.2 GB are left for KV") as refusal:
        refuse_unfit(ONE, setting, small)
    assert "GPUs per replica" in refusal.value.hint
    refuse_unfit(EIGHT, setting, small)


def test_assumptions_can_be_replaced_and_only_by_what_can_be() -> None:
    """A value given by hand has that origin, and no range any more; others are refused with what there is."""
    replaced = given(**parse_values({"prefill_tokens_per_second": "24_004"}))
    one = next(one for one in replaced if one.name == "prefill_tokens_per_second")
    assert (one.value, one.origin, one.low) == (24_004, "given", None)
    assert all(one.origin and one.why for one in replaced)
    assert "prefill_tokens_per_second" not in {one.name for one in uncertain(replaced, ONE)}
    assert "tp_doubling_efficiency" not in {one.name for one in uncertain(given(), ONE)}
    assert "tp_doubling_efficiency" in {one.name for one in uncertain(given(), EIGHT)}
    for wrong in (
        {"weights": "70"},
        {"weights_gb": "many"},
        {"weights_gb": "nan"},
        {"memory_utilization": "1.1"},
    ):
        with pytest.raises(Refusal):
            given(**parse_values(wrong))
    with pytest.raises(Refusal, match="no GPU b300"):
        gpu_named("b300")


# The sample.


def part(
    number: int, *, size: int = 1000, read: int = 1000, lines: int = 10, whole: bool = True, end: str = ""
) -> Part:
    """One object that was read."""
    version = ObjectVersion(f"file:///lake/{number}.jsonl{end}", "e")
    return Part(version=version, size=size, read=read, lines=lines, whole=whole)


def sampled(parts: Sequence[Part], *, listed: int, listed_bytes: int) -> Sample:
    """A sample of such objects."""
    whole = listed == len(parts) and all(one.whole for one in parts)
    lines = sum(one.lines for one in parts)
    return Sample(
        records=(),
        listed=listed,
        objects=len(parts),
        lines=lines,
        whole=whole,
        listed_bytes=listed_bytes,
        parts=tuple(parts),
    )


def test_totals_of_a_corpus_that_was_read_whole() -> None:
    """Nothing is left to chance, so there is no interval; what cannot be scored is counted by reason."""
    found = [Length(part=0, source="a", tokens=tokens) for tokens in (10_000, 20_000, 40_000)]
    found.append(Length(part=0, source="b", reason="not_json"))
    sample = sampled([part(0, lines=4)], listed=1, listed_bytes=1000)
    figures = corpus_figures("lake", sample, found, limits=LIMITS, random=Random(1))
    assert figures.exact
    assert figures.lines == Interval(value=4, low=4, high=4)
    assert figures.records == Interval(value=3, low=3, high=3)
    assert figures.tokens.value == pytest.approx(70_000)
    assert figures.unscorable == {"not_json": 0.25}
    over = figures.over[0]
    assert over.share.value == pytest.approx(1 / 3)
    assert over.lost_share == pytest.approx(9_280 / 70_000)
    assert over.sent_tokens.value == pytest.approx(60_720)
    assert [(one.source, one.records, one.unscorable) for one in figures.sources] == [
        ("a", 3, 0),
        ("b", 1, 1),
    ]
    assert "only 4 records" in notes(figures, names_max=1000)[0]


def test_totals_from_some_objects() -> None:
    """Lines per byte of the objects read, times the bytes of all; of a head, by its bytes; unpacked if compressed."""
    assert lines_of(part(0, size=1000, read=500, lines=10, whole=False), 5.0) == 20
    assert lines_of(part(0, size=1000, read=500, lines=10, whole=False, end=".zst"), 5.0) == 100
    assert lines_of(part(0, size=1000, read=3000, lines=10, end=".zst"), 5.0) == 10
    found = [Length(part=number, source="a", tokens=1000) for number in (0, 1) for _ in range(20)]
    sample = sampled([part(0), part(1, size=3000, lines=30)], listed=10, listed_bytes=40_000)
    figures = corpus_figures("lake", sample, found, limits=LIMITS, random=Random(1))
    assert figures.lines.value == pytest.approx(400)
    assert figures.tokens.value == pytest.approx(400_000)


def planted(chance: Random, objects: int) -> list[list[int]]:
    """The lengths of the records of each object: objects differ, and so do records."""
    corpus = []
    for _ in range(objects):
        mid = chance.lognormvariate(10.0, 0.3)
        corpus.append([round(chance.lognormvariate(0.0, 0.7) * mid) for _ in range(chance.randrange(20, 80))])
    return corpus


def test_planted_totals_lie_in_the_interval() -> None:
    """Of 30 samples of corpora of known size, at least 26 intervals hold the tokens that there are."""
    chance, hits = Random(11), 0
    for _ in range(30):
        corpus = planted(chance, 200)
        chosen = chance.sample(range(200), 40)
        # About as many bytes as tokens, but not quite: what a real object has besides.
        sizes = [round(sum(one) * chance.uniform(2.9, 3.9)) for one in corpus]
        parts = [part(at, size=sizes[at], lines=len(corpus[at])) for at in chosen]
        pooled = [Length(part=n, source="a", tokens=t) for n, at in enumerate(chosen) for t in corpus[at]]
        found = chance.sample(pooled, 200)
        sample = sampled(parts, listed=200, listed_bytes=sum(sizes))
        figures = corpus_figures("lake", sample, found, limits=LIMITS, random=Random(1))
        hits += figures.tokens.low <= sum(map(sum, corpus)) <= figures.tokens.high
    assert hits >= 26


def test_one_object_says_nothing_of_others() -> None:
    """It is said where an interval cannot know."""
    found = [Length(part=0, source="a", tokens=1000 + number) for number in range(40)]
    sample = sampled([part(0, lines=40)], listed=9, listed_bytes=9000)
    figures = corpus_figures("lake", sample, found, limits=LIMITS, random=Random(1))
    assert "one object of 9" in notes(figures, names_max=1000)[0]
    assert "broken off" in notes(figures, names_max=9)[-1]


def test_an_interval_holds_its_value() -> None:
    """Its ends leave out 2.5 of 100 on each side, but never the value."""
    assert interval(50, [float(number) for number in range(1000)]) == Interval(value=50, low=25, high=974)
    assert interval(2000, [1.0, 2.0]).high == 2000
    assert interval(3, []) == Interval(value=3, low=3, high=3)


def test_long_prompts_are_cut_or_left_out() -> None:
    """As the configuration says."""
    found = [Length(part=0, source="a", tokens=tokens) for tokens in (10, 30)]
    found.append(Length(part=0, source="a", reason="not_json"))
    assert prompts_within(found, 20, cut=True) == [10, 20]
    assert prompts_within(found, 20, cut=False) == [10]


# The outcomes.


def outcome(name: str, context: int, rate: float, p95: float) -> Outcome:
    """A setting that did so many records per second."""
    played = Played(
        records_per_second=rate,
        prompt_tokens_per_second=0,
        output_tokens_per_second=0,
        kv_fill=1,
        running=1,
        waiting=0,
        p50=p95,
        p95=p95,
        preemptions_per_100=0,
        settled=True,
    )
    return Outcome(
        setting=Setting(layout=name, context=context, batched_tokens=1),
        gpus=parse_layout(name).gpus,
        kv_tokens=1,
        played=played,
        scored_share=1,
        gpu_hours=Interval(value=1, low=1, high=1),
    )


def test_the_best_is_of_the_largest_context_and_per_gpu() -> None:
    """A smaller context does more records by cutting them; a larger layout by having more GPUs; near ones by p95."""
    outcomes = [
        outcome("8xtp1", 32_768, 20, 10),
        outcome("8xtp1", 65_536, 8.0, 90),
        outcome("4xtp1", 65_536, 3.98, 60),
        outcome("1xtp8", 65_536, 3.0, 50),
    ]
    assert best(outcomes) is outcomes[2]
    assert [one.setting.layout for one in best_by_layout(outcomes)] == ["8xtp1", "4xtp1", "1xtp8"]


def test_gpu_hours_by_hand() -> None:
    """3,600 records, 2 a second on 8 GPUs: half an hour of 8; the ends as those of the tokens that are sent."""
    found = [Length(part=number % 40, source="a", tokens=900 + 5 * number) for number in range(40)]
    parts = [part(number) for number in range(40)]
    sample = sampled(parts, listed=360, listed_bytes=360_000)
    figures = corpus_figures("lake", sample, found, limits=LIMITS, random=Random(1))
    hours = gpu_hours(figures, 32_768, 8, 2.0)
    assert hours.value == pytest.approx(4.0)
    tokens = figures.over[0].sent_tokens
    assert hours.low == pytest.approx(4.0 * tokens.low / tokens.value)
    assert hours.low < 4.0 < hours.high


def test_a_play_in_which_nothing_is_done_is_refused() -> None:
    """With steps that take longer than the play there is no rate to divide by: said, with where to look."""
    found = [Length(part=0, source="a", tokens=4_000)]
    sample = sampled([part(0)], listed=1, listed_bytes=1_000)
    figures = corpus_figures("lake", sample, found, limits=LIMITS, random=Random(1))
    load = Load(found=found, corpus=figures, request=Request(500, 2048, AdmissionSettings()), cut=True)
    setting = Setting(layout="8xtp1", context=32_768, batched_tokens=16_384)
    with pytest.raises(Refusal, match="nothing at all") as refusal:
        played_outcome(ONE, setting, load, given(step_overhead_seconds=1e6, modelled_replicas=1))
    assert "--set" in refusal.value.hint


def test_a_play_is_the_same_each_time_and_obeys_the_arithmetic() -> None:
    """No faster than prefill alone would be, with the KV full of what is there, and twice the same."""
    setting = Setting(layout="8xtp1", context=16_384, batched_tokens=131_072)
    small = given(kv_tokens=200_000, modelled_replicas=1, output_tokens=100)
    request = Request(500, 2048, AdmissionSettings())
    prompts = [4_000, 8_000, 12_000]
    one, again = (play(ONE, setting, prompts, request, small) for _ in range(2))
    assert one == again
    assert one.settled
    assert 0.5 < one.kv_fill <= 1
    assert one.prompt_tokens_per_second < 8 * 35_000
    assert one.records_per_second == pytest.approx(one.prompt_tokens_per_second / 8_000, rel=0.05)
    assert one.p50 <= one.p95
    # Each replica does what it does, whatever their number.
    two = play(parse_layout("2xtp1"), setting, prompts, request, small)
    assert two.records_per_second == pytest.approx(one.records_per_second / 4)


def test_a_cached_system_prompt_makes_it_quicker() -> None:
    """Half of each prompt is shared: with a cache that holds it nearly twice the records."""
    setting = Setting(layout="1xtp1", context=16_384, batched_tokens=131_072)
    request = Request(4_000, 2048, AdmissionSettings())
    rates = []
    for cached in (0, 1):
        slow = given(prefill_tokens_per_second=5_000, memory_bandwidth_gb=1_000, output_tokens=20)
        small = slow.replaced({"kv_tokens": 100_000, "prefix_cached": cached})
        rates.append(play(parse_layout("1xtp1"), setting, [8_000], request, small).records_per_second)
    assert 1.5 < rates[1] / rates[0] < 2.1
