"""The charts of `plots` in characters, for a terminal or a log: braille dots for lines, a mark of its own per series."""

from collections.abc import Sequence
from itertools import pairwise
from math import log2

from mira_stream.audit.plots import Chart, Series

_MARKS = "●◆▲■✚×"
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LABEL_ROWS = 3


def text_chart(chart: Chart, *, width: int = 100, height: int = 16) -> str:
    """The chart as lines of at most `width` columns, with `height` rows between title and x axis."""
    labels = _y_labels(chart, height)
    margin = max(map(len, labels)) + 1
    canvas = _Canvas(chart, columns=max(20, width - margin - 2), rows=height)
    for x, _ in chart.upright:
        canvas.upright(x)
    for series in chart.series:
        if series.style == "line":
            canvas.line(series)
    for number, series in enumerate(chart.series):
        canvas.marks(series, _MARKS[number % len(_MARKS)])
    lines = [f"{chart.title}  [{chart.y_label}]".center(width).rstrip()]
    for label, row in zip(labels, canvas.lines(), strict=True):
        lines.append(f"{label:>{margin}} {'┤' if label else '│'}{row}".rstrip())
    lines += _x_axis(chart, canvas, margin)
    lines.append(" " * (margin + 2) + "   ".join(_legend(chart)))
    return "\n".join(lines)


class _Canvas:
    """A grid of characters over the chart's area; row 0 is the top."""

    def __init__(self, chart: Chart, *, columns: int, rows: int) -> None:
        self.columns = columns
        self._rows = rows
        self._top = chart.y_top
        self._doubling = chart.doubling
        xs = [x for series in chart.series for x in series.x] + [x for x, _ in chart.upright]
        self._left = self._scaled(min(xs, default=1.0))
        self._span = max(self._scaled(max(xs, default=1.0)) - self._left, 1e-9)
        self._dots = [[0] * columns for _ in range(rows)]
        self._text = [[" "] * columns for _ in range(rows)]

    def column(self, x: float, *, parts: int = 1) -> int:
        """Where `x` is, in columns or in so many parts of them."""
        return round((self._scaled(x) - self._left) / self._span * (self.columns * parts - 1))

    def upright(self, x: float) -> None:
        for row in self._text:
            row[self.column(x)] = "┊"

    def line(self, series: Series) -> None:
        places = [(self.column(x, parts=2), self._row(y, parts=4)) for x, y in _points(series)]
        for (x0, y0), (x1, y1) in pairwise(places):
            steps = max(abs(x1 - x0), abs(y1 - y0), 1)
            for step in range(steps + 1):
                x, y = x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)
                self._dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    def marks(self, series: Series, mark: str) -> None:
        for x, y in _points(series):
            self._text[self._row(y)][self.column(x)] = mark

    def lines(self) -> list[str]:
        return [
            "".join(
                chr(_BRAILLE | dots) if dots and text in " ┊" else text
                for text, dots in zip(*row, strict=True)
            )
            for row in zip(self._text, self._dots, strict=True)
        ]

    def _row(self, y: float, *, parts: int = 1) -> int:
        last = self._rows * parts - 1
        return last - min(last, max(0, round(y / self._top * last)))

    def _scaled(self, x: float) -> float:
        return log2(x) if self._doubling else x


def _points(series: Series) -> list[tuple[float, float]]:
    return list(zip(series.x, series.y, strict=True))


def _y_labels(chart: Chart, rows: int) -> list[str]:
    """What the rows stand for, from the top; only some are labelled, the lowest among them."""
    levels = [(row, chart.y_top * row / (rows - 1)) for row in range(rows - 1, -1, -1)]
    return [f"{level:.3g}" if row % _LABEL_ROWS == 0 else "" for row, level in levels]


def _x_axis(chart: Chart, canvas: _Canvas, margin: int) -> list[str]:
    axis, labels = ["─"] * canvas.columns, [" "] * canvas.columns
    free = 0
    for tick in chart.x_ticks:
        at, text = canvas.column(tick), f"{tick:g}"
        axis[at] = "┬"
        at = min(at, canvas.columns - len(text))
        if at >= free:
            labels[at : at + len(text)] = text
            free = at + len(text) + 1
    indent = " " * (margin + 1)
    return [
        f"{indent}└{''.join(axis)}",
        f"{indent} {''.join(labels).rstrip()}",
        f"{chart.x_label:^{margin + canvas.columns}}",
    ]


def _legend(chart: Chart) -> Sequence[str]:
    names = [f"{_MARKS[number % len(_MARKS)]} {series.name}" for number, series in enumerate(chart.series)]
    return [*names, *(f"┊ {text}" for _, text in chart.upright)]
