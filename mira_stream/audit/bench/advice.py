"""What the measured figures mean for a set-up: what limits it, what to set and what to leave alone, how much is needed."""

from collections.abc import Sequence
from math import ceil, hypot
from statistics import median

import msgspec

from mira_stream.audit.bench.figures import knee
from mira_stream.audit.bench.measure import Measured
from mira_stream.audit.bench.values import Point
from mira_stream.control.settings import AdmissionSettings

_FULL_USAGE = 0.75
"""A long prompt at the head of the queue waits for more than is free: a cache is as full as it gets well below 1."""
_WAITING = 0.5
_ROOM = 1.25
_OFF = 0.1
_INCOMPLETE_SHARE = 0.05


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica, one GPU and all of them reach: under our own admission, or else at the knee; per second."""

    records_per_second: float
    records_per_second_per_replica: float
    records_per_second_per_gpu: float
    prompt_tokens_per_second_per_gpu: float
    generation_tokens_per_second_per_gpu: float
    gpu_seconds_per_record: float


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """So many records: GPU-hours, and hours with the replicas that were measured."""

    records: int
    gpu_hours: float
    hours: float


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """So many records per second: the replicas and GPUs it takes."""

    records_per_second: float
    replicas: int
    gpus: int


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One key of `[admission]`; `value` None: leave it out. `why` is for people."""

    key: str
    value: int | float | None
    why: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The conclusions. `best` is of the sweep; `own_share` is our own goodput as a share of it, give or take
    `own_share_noise`. `capacity_tokens` is per replica, as its usage shows it; `engine_tokens` as it says itself."""

    knee: Point | None
    best: Point | None
    limited_by: str
    capacity_tokens: int | None
    engine_tokens: int | None
    decode_tokens_per_second: float | None
    own_share: float | None
    own_share_noise: float
    reach: Reach | None
    settings: Sequence[Setting]
    notes: Sequence[str]


def conclude(
    measured: Measured, *, replicas: int, gpus_per_replica: int, engine_tokens: int | None
) -> Verdict:
    """The conclusions from what was measured on so many replicas."""
    found = knee(measured.sweep)
    points = [*measured.sweep, *([measured.own] if measured.own else [])]
    best = max(measured.sweep, key=lambda point: point.records_per_second, default=None) if found else None
    own = measured.own
    # Not the best of all points: that one is partly luck.
    typical = own or found
    capacity = _capacity(points)
    return Verdict(
        knee=found,
        best=best,
        limited_by="" if measured.broken else limited_by(measured.sweep),
        capacity_tokens=capacity,
        engine_tokens=engine_tokens,
        decode_tokens_per_second=found.decode_tokens_per_second if found else None,
        own_share=own.records_per_second / best.records_per_second if own and best else None,
        own_share_noise=hypot(own.noise, best.noise) if own and best else 0.0,
        reach=_reach(typical, replicas, gpus_per_replica) if typical and typical.records_per_second else None,
        settings=[] if measured.broken else _settings(measured, found, capacity),
        notes=_notes(measured, points, capacity, engine_tokens),
    )


def _capacity(points: Sequence[Point]) -> int | None:
    """Of the points that filled the cache at least half as much as any: the fuller it is, the less single requests
    weigh."""
    fullest = max((point.kv_usage or 0.0 for point in points), default=0.0)
    found = [
        one.capacity_tokens for one in points if one.capacity_tokens and (one.kv_usage or 0.0) >= fullest / 2
    ]
    return round(median(found)) if found else None


def effort(reach: Reach, records: int) -> Effort:
    """What so many records take."""
    seconds = records * reach.gpu_seconds_per_record
    return Effort(records=records, gpu_hours=seconds / 3600, hours=records / reach.records_per_second / 3600)


def target(reach: Reach, records_per_second: float, *, gpus_per_replica: int) -> Target:
    """What it takes to reach a rate."""
    replicas = ceil(records_per_second / reach.records_per_second_per_replica)
    return Target(records_per_second=records_per_second, replicas=replicas, gpus=replicas * gpus_per_replica)


def limited_by(sweep: Sequence[Point]) -> str:
    """What keeps the engine from more at the end of the sweep, in words; empty where it cannot be told."""
    if not sweep or sweep[-1].running is None:
        return ""
    last = max(sweep, key=lambda point: point.concurrency)
    waiting, usage = last.waiting or 0.0, last.kv_usage
    if usage is not None and usage >= _FULL_USAGE:
        return "KV cache: it is full, and what is sent on top of that waits in the engine"
    if waiting > _WAITING * last.concurrency:
        return (
            f"the engine's own limit of requests that run at once (about {last.running:.0f}: --max-num-seqs)"
        )
    if waiting > 1:
        return "prefill: requests wait for their prompts to be computed while the KV cache has room"
    found = knee(sweep)
    if found is not None and found.concurrency < last.concurrency:
        return "compute: more requests in flight only share it"
    return "nothing yet: goodput still rose at the last point; try a higher --concurrency"


def _reach(point: Point, replicas: int, gpus_per_replica: int) -> Reach:
    gpus = replicas * gpus_per_replica
    return Reach(
        records_per_second=point.records_per_second,
        records_per_second_per_replica=point.records_per_second / replicas,
        records_per_second_per_gpu=point.records_per_second / gpus,
        prompt_tokens_per_second_per_gpu=point.prompt_tokens_per_second / gpus,
        generation_tokens_per_second_per_gpu=point.generation_tokens_per_second / gpus,
        gpu_seconds_per_record=gpus / point.records_per_second,
    )


def _settings(measured: Measured, found: Point | None, capacity: int | None) -> list[Setting]:
    defaults = AdmissionSettings()
    if found is None:
        return []
    seen = found.kv_usage is not None
    peak = max(found.concurrency, measured.own.concurrency if measured.own else 0.0)
    needed = ceil(_ROOM * peak)
    settings = [
        Setting(
            key="kv_tokens",
            value=None if seen else capacity,
            why="learned from the engine's own usage while it runs"
            if seen
            else "the replicas do not show their KV usage: requests_max has to do",
        )
    ]
    if needed > defaults.requests_max:
        why = f"the knee is at {found.concurrency:g}, above the default of {defaults.requests_max}"
        settings.append(Setting(key="requests_max", value=needed, why=why))
    elif not seen:
        why = "the knee, since without KV usage nothing else bounds what is in flight"
        settings.append(Setting(key="requests_max", value=ceil(found.concurrency), why=why))
    else:
        why = f"the default, {defaults.requests_max}, is above the knee ({found.concurrency:g}) and never reached"
        settings.append(Setting(key="requests_max", value=None, why=why))
    return settings + _rate_settings(measured, found, defaults)


def _rate_settings(measured: Measured, found: Point, defaults: AdmissionSettings) -> list[Setting]:
    settings = []
    prefill = measured.mix.prefill_tokens_per_second
    if prefill:
        why = f"learned; {prefill:,.0f} was measured alone"
        settings.append(Setting(key="prefill_tokens_per_second", value=None, why=why))
    settings.append(
        Setting(
            key="output_tokens", value=None, why=f"learned; {measured.mix.output_tokens:,.0f} were measured"
        )
    )
    decode = found.decode_tokens_per_second
    if decode and decode < 2 * defaults.decode_tokens_per_second:
        why = f"a request gets {decode:.1f} tokens/s at the knee: time-outs must allow for it"
        settings.append(Setting(key="decode_tokens_per_second", value=round(decode / 3, 2), why=why))
    elif decode:
        why = f"for time-outs only; the knee's {decode:.1f} is well above the default {defaults.decode_tokens_per_second:g}"
        settings.append(Setting(key="decode_tokens_per_second", value=None, why=why))
    return settings


def _notes(
    measured: Measured, points: Sequence[Point], capacity: int | None, engine_tokens: int | None
) -> list[str]:
    notes = []
    if measured.interrupted:
        notes.append("interrupted: the points that were finished are all there is")
    if measured.broken:
        notes.append(f"ended early: {measured.broken}")
    if any(point.foreign for point in points):
        notes.append("others used a replica meanwhile: these figures are what was left beside them")
    elif not all(point.counted for point in points):
        notes.append("the replicas' token counters could not be used: rates are told from the answers alone")
    unsettled = [point.name for point in points if not point.settled]
    if unsettled:
        notes.append(
            f"at {', '.join(unsettled)} the load had not settled: latencies there are too low; a longer --seconds helps"
        )
    answered = sum(point.answered for point in points)
    incomplete = sum(point.incomplete for point in points)
    if incomplete > _INCOMPLETE_SHARE * answered:
        notes.append(
            f"{incomplete} of {answered} replies were incomplete: mira-stream would ask again for each"
        )
    rates = [one.prefill_tokens_per_second for one in measured.alone if one.prefill_tokens_per_second]
    if rates and max(rates) > (1 + _OFF) * min(rates):
        notes.append(
            f"the replicas differ: they prefill {min(rates):,.0f} to {max(rates):,.0f} tokens/s alone"
        )
    if capacity and engine_tokens and abs(capacity / engine_tokens - 1) > _OFF:
        notes.append(
            f"a full cache holds {capacity:,} of our tokens, and {engine_tokens:,} by the engine's own word: shared "
            "prefixes and per-request state make the difference, and the first figure is the one that counts"
        )
    return notes
