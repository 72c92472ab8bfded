"""Plays one setting in virtual time, with the daemon's own admission, until it is steady, and measures it then."""

from collections.abc import Iterator, Sequence
from random import Random
from statistics import mean
from typing import NamedTuple

import msgspec

from mira_stream.audit.bench.figures import spread
from mira_stream.audit.plan.assumptions import Assumptions
from mira_stream.audit.plan.costs import BLOCK_TOKENS, Layout, engine, kv_tokens, step_cost
from mira_stream.audit.plan.values import Played, Setting
from mira_stream.control.admission import PoolControl
from mira_stream.control.settings import AdmissionSettings
from mira_stream.sim.engine import StepCost
from mira_stream.sim.fleet import Fleet, ModelReplica, Timing, Work

_SLICE = 2.0
_WINDOW = 240.0
_WINDOWS_MAX = 24
_STEADY = 0.02
_LIVES = 3.0
_ALIKE = 2
"""Windows in a row that must be like the one before them."""
_SEED = 7


class Request(NamedTuple):
    """What all records have in common: the tokens of their shared beginning, the most that a reply may have, and how
    they are admitted."""

    shared_tokens: int
    output_tokens_max: int
    admission: AdmissionSettings


def play(
    layout: Layout, setting: Setting, prompts: Sequence[int], request: Request, given: Assumptions
) -> Played:
    """Endless records with the lengths `prompts`, which are not empty, on that layout. Deterministic.

    Raises Refusal if its engines could not start.
    """
    count = min(layout.replicas, int(given["modelled_replicas"]))
    replicas = [ModelReplica(f"r{number:02}", engine(layout, setting, given)) for number in range(count)]
    timing = Timing(network_seconds=given["network_seconds"], output_tokens_max=request.output_tokens_max)
    fleet = Fleet(replicas, timing)
    admission = msgspec.structs.replace(
        request.admission, requests_max=int(given["running_max"]), kv_tokens=None
    )
    shared = request.shared_tokens if given["prefix_cached"] else 0
    control = PoolControl(list(fleet.replicas), admission, shared_tokens=shared)
    fleet.join(control, _works(prompts, request, given))
    full = _Full(step_cost(layout, given), kv_tokens(layout, setting.batched_tokens, given))
    window, settled = _steady(fleet, full)
    return _played(window, full, layout.replicas, settled=settled, average=_average(prompts, request, given))


class _Full(NamedTuple):
    """What an engine with a full cache takes for a request: the weights of work in progress."""

    cost: StepCost
    kv: int

    def seconds(self, prompt: float, output: float) -> float:
        """Modelled seconds for so many tokens of one request."""
        in_kv = output * prompt + output * output / 2
        shared = self.cost.resident_token_seconds + self.cost.fixed_seconds / self.kv
        return self.cost.prefill_token_seconds * (prompt + output) + shared * in_kv


class _Moment(NamedTuple):
    """All that was done up to some moment."""

    work: float
    prompt: float
    output: float
    answered: int
    waited: float
    preemptions: int


class _Window(NamedTuple):
    """What was done between two moments, and the states that were seen in between."""

    fleet: Fleet
    before: _Moment
    after: _Moment
    seconds: float
    fill: list[float]
    running: list[float]

    @property
    def rate(self) -> float:
        return (self.after.work - self.before.work) / self.seconds

    @property
    def latencies(self) -> list[float]:
        answered = self.fleet.answered[self.before.answered : self.after.answered]
        return [one.answered_at - one.sent_at for one in answered]


def _works(prompts: Sequence[int], request: Request, given: Assumptions) -> Iterator[Work]:
    chance = Random(_SEED)  # noqa: S311 - the same records each time
    mid, spread_ = given["output_tokens"], given["output_spread"] * given["output_tokens"]
    keys = tuple(range(request.shared_tokens // BLOCK_TOKENS)) if given["prefix_cached"] else ()
    while True:
        prompt = chance.choice(prompts)
        counted = max(1, round(prompt * chance.gauss(1.0, given["count_error"])))
        output = min(request.output_tokens_max, max(1, round(chance.gauss(mid, spread_))))
        yield Work(prompt, counted, output, keys[: max(0, prompt - 1) // BLOCK_TOKENS])


def _average(prompts: Sequence[int], request: Request, given: Assumptions) -> tuple[float, float]:
    return mean(prompts), min(request.output_tokens_max, given["output_tokens"])


def _steady(fleet: Fleet, full: _Full) -> tuple[_Window, bool]:
    """Windows, each of some lives of a request, until two in a row do as much as the one before them, with as many
    running; the last one, and whether it came to that."""
    last, alike = _watch(fleet, full, _WINDOW), 0
    for _ in range(_WINDOWS_MAX):
        lives = _LIVES * spread(last.latencies).p50
        window = _watch(fleet, full, max(_WINDOW, lives))
        alike = alike + 1 if last.latencies and _alike(last, window) else 0
        last = window
        if alike == _ALIKE:
            return last, True
    return last, False


def _alike(one: _Window, other: _Window) -> bool:
    near = abs(other.rate - one.rate) <= _STEADY * other.rate
    return near and abs(mean(other.running) - mean(one.running)) <= 2 * _STEADY * mean(other.running)


def _watch(fleet: Fleet, full: _Full, seconds: float) -> _Window:
    before, began = _moment(fleet, full), fleet.now
    fill: list[float] = []
    running: list[float] = []
    while fleet.now < began + seconds:
        fleet.run(fleet.now + _SLICE)
        stats = [one.engine.stats for one in fleet.replicas.values()]
        fill.append(mean(one.kv_usage for one in stats))
        running.append(mean(one.running for one in stats))
    return _Window(fleet, before, _moment(fleet, full), fleet.now - began, fill, running)


def _moment(fleet: Fleet, full: _Full) -> _Moment:
    done = [(one.work.prompt_tokens, one.work.output_tokens) for one in fleet.answered]
    done += [(min(one.computed, one.prompt_tokens), one.generated) for one in fleet.in_flight()]
    replicas = fleet.replicas.values()
    return _Moment(
        work=sum(full.seconds(prompt, output) for prompt, output in done),
        prompt=sum(prompt for prompt, _ in done),
        output=sum(output for _, output in done),
        answered=len(fleet.answered),
        waited=sum(one.waiting_seconds for one in replicas),
        preemptions=sum(one.engine.preemptions for one in replicas),
    )


def _played(
    window: _Window, full: _Full, replicas: int, *, settled: bool, average: tuple[float, float]
) -> Played:
    before, after, count = window.before, window.after, len(window.fleet.replicas)
    scale = replicas / count / window.seconds
    answered = after.answered - before.answered
    seen = spread(window.latencies)
    prompt, output = (after.prompt - before.prompt) * scale, (after.output - before.output) * scale
    return Played(
        records_per_second=_records(prompt, output, full, average),
        prompt_tokens_per_second=prompt,
        output_tokens_per_second=output,
        kv_fill=mean(window.fill),
        running=mean(window.running),
        waiting=(after.waited - before.waited) / window.seconds / count,
        p50=seen.p50,
        p95=seen.p95,
        preemptions_per_100=100 * (after.preemptions - before.preemptions) / max(1, answered),
        settled=settled,
    )


def _records(prompt: float, output: float, full: _Full, average: tuple[float, float]) -> float:
    """Records per second that such rates of tokens amount to, each kind weighed by the time it takes."""
    mean_prompt, mean_output = average
    per_prompt = full.seconds(mean_prompt, 0)
    per_output = full.seconds(mean_prompt, mean_output) - per_prompt
    done = per_prompt * prompt / mean_prompt + per_output * output / mean_output
    return done / (per_prompt + per_output)
