"""Goodput and latency against concurrency, with the controller's and the oracle's points among them."""

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import matplotlib as mpl

if TYPE_CHECKING:
    from bench.macro.admission.goodput import Result

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter


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
        for kind, colour, mark, name in (
            (("oracle", 0), "#c2571a", "D", "oracle that knows C"),
            (("ours", 0), "#0a7d4f", "*", "mira_stream, nothing configured"),
        ):
            value = average(kind, field)
            axes.axhline(value, color=colour, linestyle=":", linewidth=1)
            size = 14 if mark == "*" else 6
            axes.plot([average(kind, "in_flight")], [value], mark, color=colour, markersize=size, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers], fontsize=7)
        axes.set_xlabel("requests in flight per replica")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    right.set_yscale("log")
    right.yaxis.set_major_formatter(ScalarFormatter())
    right.yaxis.set_minor_formatter(ScalarFormatter())
    left.legend(fontsize=8, loc="lower right")
    figure.suptitle(
        f"{setting.replicas} replica{'s' if setting.replicas > 1 else ''}, {setting.cost},"
        f" KV of {setting.kv} × 65,536 tokens"
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
