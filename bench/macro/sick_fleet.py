"""Sixteen replicas over HTTP, five of them sick: how much of the others' work is lost, and that no record is.

The daemon is a process of its own, against simulated replicas in compressed time. The same run with all replicas
healthy says what one does in a second; what the sick fleet does is held against that, for those seconds in which its
replicas were well. So the yardstick is the fleet without its sick replicas, and it loses nothing by letting them go
and taking them back. Pauses that are constants of the product are not compressed: they weigh ten times as much here.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.macro.sick_play import NAMES, RECORDS, REPLICAS, SCALE, SETTING, SLOW, Run, Span, play, write_lake
from mira_stream.sim.request_log import RequestEntry


def measure(*, seeds: tuple[int, ...] = (11, 12)) -> dict[str, object]:
    """A healthy and a sick run for each seed; ratios are medians with their spread."""
    pairs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            write_lake(Path(folder) / "lake", seed)
            pairs.append((play(Path(folder), sick=False), play(Path(folder), sick=True)))
    return figures(pairs)


def figures(pairs: list[tuple[Run, Run]]) -> dict[str, object]:
    """What `measure` tells."""
    healthy = [_goodput(run, _whole(run)) / REPLICAS for run, _ in pairs]
    ratios = [_ratio(sick, rate) for rate, (_, sick) in zip(healthy, pairs, strict=True)]
    strict = [_ratio(sick, rate, sick_spans=False) for rate, (_, sick) in zip(healthy, pairs, strict=True)]
    runs, every = [sick for _, sick in pairs], [run for pair in pairs for run in pair]
    return {
        "replicas": REPLICAS,
        "time_scale": SCALE,
        "records": RECORDS,
        "healthy_goodput_per_replica": _spread(healthy),
        "ratio": _spread(ratios),
        "ratio_without_work_of_sick_spans": _spread(strict),
        "work_of_a_healthy_replica_while_well": _shares(runs[-1], _well(runs[-1]), healthy[-1]),
        "work_of_a_healthy_replica_while_sick": _shares(runs[-1], _ill(runs[-1]), healthy[-1]),
        "lost": sum(RECORDS - len(run.outcomes) for run in every),
        "doubled": sum(run.rows - len(run.outcomes) for run in every),
        "dead_letters": sum(end != "scored" for run in every for end in run.outcomes.values()),
        "audits_clean": sum(run.audit["found"] == {} and run.audit["pending"] == 0 for run in every),
        "attempts": _summed(run.attempts for run in runs),
        "wasted_tokens": _summed(run.wasted for run in runs),
        "faults": _summed(run.faults for run in runs),
        "cores_used": runs[-1].cores,
        "run_seconds": [round(run.seconds, 1) for run in every],
    }


def _summed(counts: Iterable[Mapping[Any, int]]) -> dict[str, int]:
    total: Counter[Any] = Counter()
    for one in counts:
        total.update(one)
    return {str(name): total[name] for name in sorted(total, key=str)}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


# Work.


def _whole(run: Run) -> list[list[Span]]:
    return [[run.steady]] * REPLICAS


def _well(run: Run) -> list[list[Span]]:
    """The parts of the steady span in which each replica was not sick."""
    return [list(_without(run.steady, spans)) for spans in run.sick]


def _ill(run: Run) -> list[list[Span]]:
    """The parts in which each was."""
    return [list(_without(run.steady, list(_without(run.steady, spans)))) for spans in run.sick]


def _without(whole: Span, holes: list[Span]) -> Iterator[Span]:
    since = whole.since
    for hole in sorted(holes):
        if hole.since > since:
            yield Span(since, min(hole.since, whole.until))
        since = max(since, hole.until)
    if since < whole.until:
        yield Span(since, whole.until)


def _work(entries: list[RequestEntry], spans: list[Span]) -> float:
    """Bound seconds of the requests, each spread evenly over its time, as far as it lies in the spans."""
    total = 0.0
    for one in entries:
        time_ = Span(one.arrived, one.arrived + max(one.seconds, 1e-6))
        share = sum(map(time_.overlap, spans)) / (time_.until - time_.since)
        total += share * SETTING.work(one.prompt_tokens, one.completion_tokens)
    return total


def _goodput(run: Run, spans: list[list[Span]]) -> float:
    """Work in `spans` per modelled second of the steady span."""
    work = sum(_work(entries, own) for entries, own in zip(run.answered, spans, strict=True))
    return work * SCALE / (run.steady.until - run.steady.since)


def _ratio(sick: Run, healthy: float, *, sick_spans: bool = True) -> float:
    """Goodput over that of healthy replicas in the seconds in which the replicas were well."""
    well = sum(span.until - span.since for spans in _well(sick) for span in spans)
    replicas = well / (sick.steady.until - sick.steady.since)
    return _goodput(sick, _whole(sick) if sick_spans else _well(sick)) / (healthy * replicas)


def _shares(run: Run, spans: list[list[Span]], healthy: float) -> dict[str, float]:
    """What each replica with a sickness did in its spans, and the others together in theirs, against a healthy one."""
    work = [_work(entries, own) for entries, own in zip(run.answered, spans, strict=True)]
    could = [sum(span.until - span.since for span in own) / SCALE * healthy for own in spans]
    shares = {name: work[number] / could[number] for number, name in NAMES.items() if could[number]}
    if sum(could[:SLOW]):
        shares["others"] = sum(work[:SLOW]) / sum(could[:SLOW])
    return {name: round(share, 3) for name, share in shares.items()}
