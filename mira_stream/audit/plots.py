"""Line charts of a few series: written as SVG, PNG or PDF where matplotlib is installed; `text_plots` has the others."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from math import floor, log10
from pathlib import Path
from typing import Any, Literal

import msgspec

from mira_stream.core.errors import Refusal

INSTALL_HINT = "pip install 'mira_stream[plots]'"
_COLOURS = ("#1f6f8b", "#c8553d", "#7a9e3a", "#8a6bbd", "#b08d1f", "#5b5b5b")
_MARK_COLOUR = "#222222"
_LINE = {"linestyle": "-", "marker": "o", "markersize": 4}
_MARKS = {"linestyle": "none", "marker": "*", "markersize": 14, "zorder": 3}
_TICKS_MAX = 16
_APART = 1.2
_ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Points in order of `x`, and how they are shown: joined by a line, or as marks alone."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "marks"] = "line"


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One pair of axes; y begins at 0. `doubling`: the x axis goes by factors of 2. `upright`: vertical lines, each an
    x and its label."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    doubling: bool = False
    upright: Sequence[tuple[float, str]] = ()

    @property
    def y_top(self) -> float:
        """Where the y axis ends: a round number a little above the highest point."""
        high = 1.05 * max((y for series in self.series for y in series.y), default=0.0)
        if high <= 0:
            return 1.0
        unit = 10.0 ** floor(log10(high))
        return next(step * unit for step in _ROUND if step * unit >= high)

    @property
    def x_ticks(self) -> list[float]:
        """Where the x axis is labelled: at the points of the lines, but for those that stand too close."""
        lines = [series for series in self.series if series.style == "line"] or self.series
        places = sorted({x for series in lines for x in series.x})
        if not places:
            return []
        room = (places[-1] - places[0]) / _TICKS_MAX
        kept = places[:1]
        for _, place in pairwise(places):
            if place >= _APART * kept[-1] if self.doubling else place - kept[-1] >= room:
                kept.append(place)
        return kept


def line_chart(path: Path, chart: Chart) -> None:
    """`write_charts` of one."""
    write_charts(path, [chart])


def write_charts(path: Path, charts: Sequence[Chart]) -> None:
    """Draw `charts`, one below the other, into `path`; its suffix decides the format (`.svg`, `.png`, `.pdf`).

    Raises Refusal if matplotlib is not installed, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise Refusal("matplotlib, which draws plots into files, is not installed", INSTALL_HINT)
    figures: Any = import_module("matplotlib.figure")
    matplotlib: Any = import_module("matplotlib")
    with matplotlib.rc_context({"svg.hashsalt": "mira-stream", "font.size": 10}):
        figure = figures.Figure(figsize=(8.4, 3.9 * len(charts)), layout="constrained")
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            _draw(axes, chart)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
        except OSError as error:
            raise Refusal(
                f"cannot write {path}: {error.strerror or error}", "choose another folder"
            ) from error


def _draw(
    axes: Any, chart: Chart
) -> None:  # axes are matplotlib's, which is optional: their type is not known here
    for number, series in enumerate(chart.series):
        look = _LINE if series.style == "line" else _MARKS
        colour = _COLOURS[number % len(_COLOURS)] if series.style == "line" else _MARK_COLOUR
        axes.plot(series.x, series.y, label=series.name, color=colour, **look)
    if chart.doubling:
        axes.set_xscale("log", base=2)
    for x, text in chart.upright:
        axes.axvline(x, color="#888888", linewidth=1, linestyle=":")
        place = {"xy": (x, 0.03), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(text, xytext=(4, 0), color="#555555", **place)
    axes.set_xticks(chart.x_ticks, [f"{tick:g}" for tick in chart.x_ticks])
    axes.minorticks_off()
    axes.set_ylim(0, chart.y_top)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
