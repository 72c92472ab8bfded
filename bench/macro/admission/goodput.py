"""Goodput and latency against every fixed concurrency, an oracle, and the habits of peers."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import msgspec

from bench.macro.admission import habits
from bench.macro.admission.model import COSTS, Figures, Setting, learned_ratio, ours, run
from mira_stream.sim.fleet import Policy

FIXED = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SEEDS = (11, 12, 13)
KV = (4, 16, 32)

Kind = tuple[str, int]
"""A policy's name and its concurrency, 0 if it has none."""

POLICIES: dict[str, Callable[[list[str], Setting, int], Policy]] = {
    "ours": lambda names, setting, _: ours(names, setting),
    "oracle": lambda names, setting, _: habits.Oracle(names, setting.kv_tokens, setting.prefill_rate),
    "fixed": lambda names, _, number: habits.Fixed(names, number),
    "round robin": lambda names, _, number: habits.RoundRobin(names, number),
    "AIMD on 429": lambda names, _, __: habits.AimdOnRejections(names),
    "AIMD on waiting": lambda names, _, __: habits.AimdOnWaiting(names),
}
PEERS: tuple[Kind, ...] = (
    ("round robin", 8),
    ("round robin", 64),
    ("round robin", 500),
    ("fixed", 16),
    ("fixed", 64),
    ("AIMD on 429", 0),
    ("AIMD on waiting", 0),
)


class Result(msgspec.Struct, frozen=True):
    """One run; `learned` is learned capacity ÷ true capacity, for our own controller."""

    kind: Kind
    setting: Setting
    figures: Figures
    learned: float | None


def play(task: tuple[Kind, Setting]) -> Result:
    """One run, in whichever process."""
    (name, number), setting = task
    figures, policy, model = run(setting, lambda names, one: POLICIES[name](names, one, number))
    learned = learned_ratio(policy, model, setting) if name == "ours" else None  # type: ignore[arg-type]
    return Result((name, number), setting, figures, learned)


def settings(replicas: int, *, seeds: tuple[int, ...] = SEEDS, seconds: float = 2000.0) -> list[Setting]:
    """All costs and capacities."""
    return [
        Setting(cost=cost, kv=kv, replicas=replicas, seed=seed, seconds=seconds)
        for cost in COSTS
        for kv in KV
        for seed in seeds
    ]


def measure(plots: Path | None = None) -> dict[str, object]:
    """Sweeps on one and on eight replicas; the peers' habits on eight."""
    one = settings(1)
    eight = settings(8, seconds=400.0)
    kinds: list[Kind] = [("ours", 0), ("oracle", 0), *(("fixed", number) for number in FIXED)]
    base = [setting for setting in eight if setting.cost == "base"]
    tasks = [(kind, setting) for setting in [*eight, *one] for kind in kinds]
    tasks += [(kind, setting) for setting in base for kind in PEERS if kind not in kinds]
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(play, tasks, chunksize=4))
    figures: dict[str, object] = {}
    for replicas in (1, 8):
        for cost in COSTS:
            for kv in KV:
                chosen = [
                    one
                    for one in results
                    if (one.setting.replicas, one.setting.cost, one.setting.kv) == (replicas, cost, kv)
                ]
                figures[f"{replicas} × {cost} {kv}×"] = against_fixed(chosen)
                if plots is not None:
                    from bench.macro.admission.plot import curve

                    curve(chosen, plots / f"goodput-{replicas}x-{cost}-{kv}.svg")
    for kv in KV:
        chosen = [
            one
            for one in results
            if one.setting.replicas == 8 and one.setting.cost == "base" and one.setting.kv == kv
        ]
        figures |= {
            f"8 × base {kv}× against {name} {number or ''}".strip(): against(chosen, (name, number))
            for name, number in PEERS
        }
    return figures


def against_fixed(results: list[Result]) -> dict[str, object]:
    """Per seed: ours ÷ the best fixed concurrency of that seed, and our latency ÷ the oracle's."""
    goodput, latency, waiting, learned, best = [], [], [], [], []
    for seed in SEEDS:
        runs = {one.kind: one for one in results if one.setting.seed == seed}
        mine, oracle = runs["ours", 0], runs["oracle", 0]
        fixed = {number: runs["fixed", number].figures.goodput for number in FIXED}
        best.append(max(fixed, key=fixed.__getitem__))
        goodput.append(mine.figures.goodput / max(fixed.values()))
        latency.append(mine.figures.p50 / oracle.figures.p50)
        waiting.append(mine.figures.waiting)
        learned.append(mine.learned)
    replies = min(one.figures.replies for one in results if one.kind == ("ours", 0))
    return {
        "goodput ÷ best fixed": spread(goodput),
        "p50 ÷ oracle": spread(latency),
        "waiting": spread(waiting),
        "learned C ÷ true": spread(learned),
        "best fixed": best,
        "replies at least": replies,
    }


def against(results: list[Result], kind: Kind) -> dict[str, object]:
    """Ours ÷ theirs in goodput, theirs ÷ ours in p99 latency."""
    goodput, latency = [], []
    for seed in SEEDS:
        runs = {one.kind: one.figures for one in results if one.setting.seed == seed}
        goodput.append(runs["ours", 0].goodput / runs[kind].goodput)
        latency.append(runs[kind].p99 / runs["ours", 0].p99)
    return {"goodput ours ÷ theirs": spread(goodput), "p99 theirs ÷ ours": spread(latency)}


def spread(values: list[float]) -> str:
    """`median [least..most]`."""
    return f"{median(values):.3f} [{min(values):.3f}..{max(values):.3f}]"
