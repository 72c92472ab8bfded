"""Goodput and latency against concurrency, with the controller's and the oracle's points among them."""

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import matplotlib as mpl

if TYPE_CHECKING:
    from bench.macro.admission.goodput import Result

mpl.use("svg")
import matplotlib.pyplot as plt


def curve(results: "list[Result]", path: Path) -> None:
    """One picture of one setting: every seed is averaged."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    setting = results[0].setting
    numbers = sorted({one.kind[1] for one in results if one.kind[0] == "fixed"})

    def average(kind: tuple[str, int], field: str) -> float:
        return mean(getattr(one.figures, field) for one in results if one.kind == kind)

    for axes, field, label in (
        (left, "goodput", "goodput (useful work per second)"),
        (right, "p50", "median latency, s"),
    ):
        axes.plot(
            numbers,
            [average(("fixed", number), field) for number in numbers],
            "o-",
            color="#8a8f98",
            markersize=4,
            label="fixed concurrency per replica",
        )
        axes.axhline(average(("ours", 0), field), color="#0a7d4f", label="mira_stream, nothing configured")
        axes.axhline(
            average(("oracle", 0), field), color="#c2571a", linestyle=":", label="oracle that knows C"
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers], fontsize=7)
        axes.set_xlabel("requests in flight per replica")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    right.set_yscale("log")
    left.legend(fontsize=8, loc="lower right")
    figure.suptitle(
        f"{setting.replicas} replica{'s' if setting.replicas > 1 else ''}, {setting.cost},"
        f" KV of {setting.kv} × 65,536 tokens"
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
