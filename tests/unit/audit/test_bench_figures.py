"""The bench's arithmetic: rates, capacity, the knee and what follows from it, without a loop or a clock."""

import random
from io import StringIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mira_stream.audit.bench.advice import conclude, effort, limited_by, target
from mira_stream.audit.bench.alone import rates
from mira_stream.audit.bench.figures import (
    answered_in,
    capacity_tokens,
    knee,
    next_doubling,
    noise,
    refinement,
    resident_tokens,
    slope,
    spread,
    work_share,
)
from mira_stream.audit.bench.measure import Measured
from mira_stream.audit.bench.report import Report, charts, tell
from mira_stream.audit.bench.sample import Reservoir
from mira_stream.audit.bench.steady import points_of
from mira_stream.audit.bench.values import Answer, Failure, Look, Mix, Point, Sampled, Spread, Window
from mira_stream.core.usage import Load

MIX = Mix(prompt_tokens=30_000, output_tokens=700, prefill_tokens_per_second=25_000)


def point(concurrency: float, rate: float, **known: object) -> Point:
    """A point of a sweep without failures."""
    fields: dict[str, object] = {
        "name": f"{concurrency:g}", "concurrency": concurrency, "seconds": 100.0, "answered": 50, "incomplete": 0,
        "records_per_second": rate, "noise": 0.0, "prompt_tokens_per_second": rate * 30_000,
        "generation_tokens_per_second": rate * 700, "latency": Spread(p50=1.0), "running": concurrency,
        "waiting": 0.0, "kv_usage": 0.5, "preemptions_per_100": 0.0, "decode_tokens_per_second": 15.0,
        "capacity_tokens": None, "failures": {}, "counted": True, "foreign": False, "settled": True,
    }  # fmt: skip
    return Point(**(fields | known))  # type: ignore[arg-type]


def measured(*sweep: Point, own: Point | None = None) -> Measured:
    """A run that ended as it should."""
    return Measured(
        alone=[], mix=MIX, sweep=sweep, own=own, snapshots=(), failures=(), interrupted=False, broken=""
    )


def answer(started: float, ended: float) -> Answer:
    return Answer(
        replica="r", started=started, ended=ended, prompt_tokens=30_000, completion_tokens=700, complete=True
    )


def test_percentiles_are_of_the_sample() -> None:
    """Each percentile is one of the values; an empty sample has none."""
    found = spread([float(n) for n in range(1, 101)])
    assert (found.p50, found.p95, found.max, found.mean) == (51.0, 96.0, 100.0, 50.5)
    assert spread([]) == Spread()


@given(st.floats(0.01, 1e4), st.integers(10, 200))
def test_a_steady_counter_has_its_slope_and_no_noise(rate: float, looks: int) -> None:
    """A counter that grows evenly shows its rate, however many looks there were."""
    seen = [(float(at), rate * at) for at in range(looks)]
    assert slope(seen) == pytest.approx(rate)
    assert noise(seen) == pytest.approx(0.0, abs=1e-9)


def test_the_slope_of_a_counter_in_steps_is_hardly_moved_by_the_window_s_edges() -> None:
    """Work that is booked at the end of long steps is measured within 1 %, wherever the window begins; two looks alone
    would be off by up to a step."""

    def counter(at: float) -> float:
        return 5 * (at // 5)

    for begin in range(10):
        seen = [(float(at), counter(at)) for at in range(begin, begin + 123)]
        assert slope(seen) == pytest.approx(1.0, rel=0.01)


def test_an_uneven_counter_is_noisy() -> None:
    """What differs from block to block shows as noise of the same size."""
    chance = random.Random(3)
    total, seen = 0.0, []
    for at in range(200):
        total += chance.choice((0.0, 2.0))
        seen.append((float(at), total))
    assert 0.01 < noise(seen) < 0.2
    assert noise(seen[:5]) == 0.0


def test_too_few_looks_have_no_slope() -> None:
    """Two looks are no measurement."""
    assert slope([(0.0, 0.0), (1.0, 1.0)]) is None


def test_work_in_progress_counts_by_its_share_in_the_window() -> None:
    """A request counts by the part of its life inside; one under way counts as the others took."""
    answers = [answer(-5, 5), answer(0, 10), answer(20, 30)]
    assert answered_in(answers, [], 0, 100) == pytest.approx(0.5 + 1 + 1)
    assert answered_in(answers, [95.0], 0, 100) == pytest.approx(3.0)
    assert answered_in([], [95.0], 0, 100) == 0


@given(st.integers(1, 20), st.floats(10, 40))
def test_a_closed_loop_is_counted_right_wherever_the_window_lies(clients: int, begin: float) -> None:
    """With `n` clients whose requests take 10 s, n ÷ 10 records a second are counted, though the window cuts lives."""
    answers, flights = [], []
    for client in range(clients):
        at = 10.0 * client / clients
        while at + 10 <= begin + 50:
            answers.append(answer(at, at + 10))
            at += 10
        flights.append(at)
    found = answered_in(answers, flights, begin, begin + 50) / 50
    assert found == pytest.approx(clients / 10, rel=0.02)


def test_the_share_of_prompts_in_a_replica_s_time() -> None:
    """30,000 tokens at 25,000 a second are 1.2 s: at 0.5 records a second, 0.6 of it. Unknown is a half."""
    assert work_share(30_000, 25_000, 0.5) == pytest.approx(0.6)
    assert work_share(30_000, 25_000, 5.0) == 1.0
    assert work_share(30_000, None, 0.5) == 0.5


@given(st.integers(10_000, 4_000_000), st.lists(st.floats(0.3, 0.95), min_size=10, max_size=60))
def test_capacity_is_tokens_over_usage(capacity: int, usages: list[float]) -> None:
    """The capacity comes out of the looks at any usage, and nearly empty ones do not spoil it."""
    samples = [(capacity * usage, usage) for usage in usages] + [(0.02 * capacity, 0.01)] * 5
    found = capacity_tokens(samples)
    assert found == pytest.approx(capacity, rel=0.01)


def test_capacity_needs_looks() -> None:
    """A few looks, or an unused cache, say nothing."""
    assert capacity_tokens([(100.0, 0.5)] * 7) is None
    assert capacity_tokens([(0.0, 0.0)] * 50) is None


def test_waiting_requests_hold_no_tokens() -> None:
    """The oldest requests run: they hold their prompts and what was said since; those that wait hold nothing."""
    look = Look(
        replica="r",
        at=100.0,
        load=Load(running=2, waiting=1, kv_usage=0.5),
        flights=((50.0, 1000), (90.0, 2000), (99.0, 4000)),
    )
    tokens = resident_tokens(look, delay=5.0, decode_rate=10.0, output_tokens=300)
    assert tokens == 1000 + 300 + 2000 + 50


def test_the_knee_is_the_least_that_is_as_good_as_the_best() -> None:
    """Within 1 % of the best is as good; more only if measuring errs, and never more than 3 %."""
    sweep = [point(8, 0.8), point(16, 0.965), point(24, 0.992), point(32, 1.0), point(64, 0.999)]
    assert knee(sweep) is sweep[2]
    noisy = [point(8, 0.8, noise=0.2), point(16, 0.975, noise=0.02), point(32, 1.0, noise=0.02)]
    assert knee(noisy) is noisy[1]
    assert knee([]) is None
    assert knee([point(1, 0.0)]) is None


def test_doubling_ends_when_it_brings_nothing_twice() -> None:
    """1, 2, 4, … until two points in a row rise less than 2 %."""
    sweep: list[Point] = []
    while (following := next_doubling(sweep)) is not None:
        sweep.append(point(following, min(following, 20) / 20))
    assert [one.concurrency for one in sweep] == [1, 2, 4, 8, 16, 32, 64, 128]


def test_doubling_ends_when_most_requests_only_wait() -> None:
    """A queue longer than what runs makes another doubling pointless."""
    sweep = [point(32, 1.0), point(64, 1.0, running=30.0, waiting=34.0)]
    assert next_doubling(sweep) is None


def test_a_gap_below_the_knee_is_looked_into() -> None:
    """Between the knee and the point below it one is worth measuring, unless they are close."""
    assert refinement([point(16, 0.8), point(32, 1.0), point(64, 1.0)]) == 24
    assert refinement([point(24, 0.9), point(32, 1.0)]) is None
    assert refinement([]) is None


def test_lone_requests_show_the_rates() -> None:
    """Prefill from how latency grows with the prompt, decode from what is left of a whole reply."""
    prefills = [(size, 1, 0.5 + size / 20_000) for size in (1_000, 10_000, 30_000)]
    found = rates("r", [*prefills, None], [(10_000, 701, 0.5 + 0.5 + 10.0)])
    assert found.prefill_tokens_per_second == pytest.approx(20_000)
    assert found.decode_tokens_per_second == pytest.approx(70)
    assert found.overhead_seconds == pytest.approx(0.5)


def test_prompts_of_one_length_show_no_prefill_rate() -> None:
    """Where nothing varies, nothing is told, and nothing is divided by zero."""
    assert rates("r", [(1_000, 1, 0.5)] * 5, []).prefill_tokens_per_second is None


def window(name: str, load: float, *, loads: bool = True, foreign: int = 0, failures: int = 0) -> Window:
    """One replica with `load` in flight that answers `load` ÷ 10 records a second for 100 s."""
    rate = load / 10
    looks = [
        Look(
            replica="r",
            at=float(at),
            load=Load(
                running=int(load) + foreign, waiting=0, kv_usage=0.4, prompt_tokens=30_000 * rate * at,
                generation_tokens=700 * rate * at, preemptions=0.0,
            ),
            flights=tuple((at - 5.0, 30_000) for _ in range(int(load))),
        )
        for at in range(101)
    ]  # fmt: skip
    return Window(
        name=name,
        concurrency=load,
        begin=0.0,
        end=100.0,
        settled=True,
        answers=[answer(10 * step - 10.0, 10.0 * step) for step in range(1, 11) for _ in range(int(load))],
        failures=[Failure(replica="r", at=1.0, reason="server (500)", message="")] * failures,
        looks={"r": looks if loads else []},
        flights=[],
    )


@pytest.mark.parametrize("loads", [True, False])
def test_replies_that_cost_nothing_still_make_a_point(loads: bool) -> None:
    """A server that says 0 tokens of its replies is measured all the same."""
    mix = Mix(prompt_tokens=30_000, output_tokens=0, prefill_tokens_per_second=None)
    (found,) = points_of([window("8", 8, loads=loads)], mix)
    assert found.records_per_second > 0


def test_an_own_load_never_seen_in_flight_is_left_out_of_the_charts() -> None:
    """Replicas that answer at once: on an axis of doublings there is no place for 0, and the report is whole."""
    found = measured(point(1, 100.0), point(2, 100.0), own=point(0, 100.0))
    report = Report(
        version="", ended="", group="agent/A", model="m", replicas=["r"], simulated=False, gpus_per_replica=1,
        seconds_per_point=1.0, time_scale=1.0, wall_seconds=1.0,
        corpus=Sampled(
            origin="", objects=1, listed=1, lines=1, records=1, prompt_tokens=spread([1.0]), truncated=0,
            left_out={}, whole=True,
        ),
        measured=found, verdict=conclude(found, replicas=1, gpus_per_replica=1, engine_tokens=None),
        effort=None, target=None,
    )  # fmt: skip
    told = StringIO()
    tell(Console(file=told, width=120), report)
    assert "mira-stream ▸" in told.getvalue()
    assert [one.name for one in charts(report)[0].series] == ["fixed concurrency"]


@pytest.mark.parametrize("loads", [True, False])
def test_a_point_is_the_same_from_counters_and_from_answers(loads: bool) -> None:
    """Goodput comes from the engine's counters where it has them, and else from the answers."""
    (found,) = points_of([window("8", 8, loads=loads, failures=3)], MIX)
    assert found.records_per_second == pytest.approx(0.8, rel=0.01)
    assert found.prompt_tokens_per_second == pytest.approx(24_000, rel=0.01)
    assert found.counted is loads
    assert (found.kv_usage, found.waiting) == ((0.4, 0.0) if loads else (None, None))
    assert found.failures == {"server (500)": 3}
    assert found.latency.p50 == 10.0


def test_the_load_of_others_is_noticed_and_left_out() -> None:
    """Counters that hold others' work are not used, and the point says so."""
    (found,) = points_of([window("8", 8, foreign=20)], MIX)
    assert (found.foreign, found.counted) == (True, False)
    assert found.capacity_tokens is None


def test_a_restarted_engine_s_counters_are_not_used() -> None:
    """A counter that went back says nothing about the window."""
    whole = window("8", 8)
    looks = whole.looks["r"]
    reset = Look(replica="r", at=50.5, load=Load(running=0, waiting=0, kv_usage=0.0, prompt_tokens=0.0,
                 generation_tokens=0.0), flights=())  # fmt: skip
    broken = Window(
        **{name: getattr(whole, name) for name in Window.__struct_fields__ if name != "looks"},
        looks={"r": [*looks[:51], reset, *looks[51:]]},
    )
    assert not points_of([broken], MIX)[0].counted


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (point(64, 1.0, running=30.0, waiting=34.0, kv_usage=0.97), "KV cache"),
        (point(64, 1.0, running=16.0, waiting=48.0, kv_usage=0.4), "--max-num-seqs"),
        (point(64, 1.0, running=60.0, waiting=4.0, kv_usage=0.4), "prefill"),
        (point(64, 1.0, running=64.0, waiting=0.0, kv_usage=0.4), "compute"),
        (point(64, 2.0, running=64.0, waiting=0.0, kv_usage=0.4), "higher --concurrency"),
        (point(64, 1.0, running=None, waiting=None), ""),
    ],
)
def test_what_limits_is_told_from_the_last_point(last: Point, word: str) -> None:
    """A full cache, a cap on running requests, prefill, compute, or nothing yet."""
    found = limited_by([point(32, 1.0), last])
    assert word in found
    assert bool(word) == bool(found)


def test_the_conclusions_say_what_to_set() -> None:
    """With usage to be seen nothing needs a value; without it, or above the default, the knee gives one."""
    plain = conclude(
        measured(point(16, 0.5), point(32, 1.0), own=point(30, 1.0)), replicas=2, gpus_per_replica=2, engine_tokens=None
    )  # fmt: skip
    assert {setting.value for setting in plain.settings} == {None}
    assert plain.reach is not None
    assert plain.reach.records_per_second_per_gpu == 0.25
    assert plain.own_share == 1.0
    blind = conclude(
        measured(point(32, 1.0, kv_usage=None)), replicas=1, gpus_per_replica=1, engine_tokens=None
    )
    assert next(one.value for one in blind.settings if one.key == "requests_max") == 32
    large = conclude(measured(point(400, 1.0)), replicas=1, gpus_per_replica=1, engine_tokens=None)
    assert next(one.value for one in large.settings if one.key == "requests_max") == 500


def test_slow_decoding_asks_for_longer_time_outs() -> None:
    """Where a request gets little more than the rate that time-outs assume, the setting is named."""
    slow = point(32, 1.0, decode_tokens_per_second=3.0)
    found = conclude(measured(slow), replicas=1, gpus_per_replica=1, engine_tokens=None)
    assert next(one.value for one in found.settings if one.key == "decode_tokens_per_second") == 1.0


def test_efforts_and_targets_follow_from_the_reach() -> None:
    """3,600 records at 0.5 a second on 2 × 2 GPUs: two hours, eight GPU-hours; 1.2 a second take five replicas."""
    found = conclude(measured(point(8, 0.5)), replicas=2, gpus_per_replica=2, engine_tokens=None)
    assert found.reach is not None
    assert (effort(found.reach, 3_600).hours, effort(found.reach, 3_600).gpu_hours) == (2.0, 8.0)
    assert (target(found.reach, 1.2, gpus_per_replica=2).replicas, target(found.reach, 1.2, gpus_per_replica=2).gpus) == (5, 10)  # fmt: skip


def test_notes_name_what_spoils_the_figures() -> None:
    """Foreign load, incomplete replies, unsettled loads and a capacity unlike the engine's word are said."""
    odd = point(
        8, 1.0, foreign=True, counted=False, incomplete=10, settled=False, capacity_tokens=1_300_000.0
    )
    notes = " ".join(conclude(measured(odd), replicas=1, gpus_per_replica=1, engine_tokens=1_000_000).notes)
    assert [word for word in ("others", "incomplete", "not settled", "1,300,000") if word not in notes] == []


@given(st.integers(1, 50), st.integers(0, 500))
def test_a_reservoir_keeps_what_it_may(size: int, shown: int) -> None:
    """It counts all, keeps at most its size, and nothing twice."""
    kept: Reservoir[int] = Reservoir(size, random.Random(1))
    for item in range(shown):
        kept.add(item)
    assert (kept.seen, len(kept.items)) == (shown, min(size, shown))
    assert len(set(kept.items)) == len(kept.items)


def test_a_reservoir_is_even() -> None:
    """Early and late items have the same chance, also where weight makes it shrink."""
    early = 0
    for seed in range(400):
        kept = Reservoir[int](20, random.Random(seed), weigh=lambda _: 10, weight_max=100)
        for item in range(200):
            kept.add(item)
        assert len(kept.items) == 10
        early += sum(item < 100 for item in kept.items)
    assert 0.45 < early / 4000 < 0.55


def test_a_run_that_broke_off_recommends_nothing() -> None:
    """What was measured while requests failed is no ground for settings."""
    broken = msgspec.structs.replace(measured(point(4, 0.2)), broken="most requests failed")
    found = conclude(broken, replicas=1, gpus_per_replica=1, engine_tokens=None)
    assert (found.settings, found.limited_by) == ([], "")
    assert any("most requests failed" in note for note in found.notes)
