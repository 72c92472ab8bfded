"""Histograms as Prometheus text. They are nine tenths of a page, and a general writer takes ten times as long."""

from itertools import accumulate

from mira_stream.sim.engine_metrics import Histogram


class HistogramText:
    """One family; what does not change of its lines is written once.

    `labels` has one text `name="value",…` per engine.
    """

    def __init__(
        self, name: str, text: str, *, bounds: tuple[float, ...], labels: list[str], created: float
    ) -> None:
        ends = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._head = f"# HELP {name} {text}\n# TYPE {name} histogram\n"
        self._lines = [
            (
                [f'{name}_bucket{{{own},le="{end}"}} ' for end in ends],
                f"{name}_count{{{own}}} ",
                f"{name}_sum{{{own}}} ",
            )
            for own in labels
        ]
        self._tail = f"# HELP {name}_created {text}\n# TYPE {name}_created gauge\n" + "".join(
            f"{name}_created{{{own}}} {created!r}\n" for own in labels
        )

    def render(self, histograms: list[Histogram]) -> str:
        """The family with these values, one histogram per engine."""
        parts = [self._head]
        for (buckets, count, total), histogram in zip(self._lines, histograms, strict=True):
            seen = 0
            for line, seen in zip(buckets, accumulate(histogram.counts), strict=True):
                parts.append(f"{line}{seen}.0\n")
            parts.append(f"{count}{seen}.0\n{total}{float(histogram.total)!r}\n")
        parts.append(self._tail)
        return "".join(parts)


def label_text(labels: dict[str, str]) -> str:
    """Labels as they stand between the braces."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
