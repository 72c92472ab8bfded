"""How a measurement goes, for people: a bar on a terminal, and everywhere a line for each point that is done."""

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mira_stream.audit.bench.measure import ALONE
from mira_stream.audit.bench.values import Point

_ALONE_PART = 0.3
"""What the probing of lone requests takes, in points."""


class Bar:
    """`measure.Watcher` that draws on `console`; `points` are those expected, and may turn out to be more."""

    def __init__(self, console: Console, points: int) -> None:
        columns = (
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        self._console = console
        self._points = points
        self._told = 0
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID = self._progress.add_task("", total=points + _ALONE_PART)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, what: str, *, share: float, points: Sequence[Point]) -> None:
        """See `measure.Watcher`."""
        for point in points[self._told :]:
            told = f"{point.records_per_second:.3g} records/s, p50 {point.latency.p50:.0f} s"
            failed = sum(point.failures.values())
            self._console.print(
                f"  {point.name:>4} in flight per replica: {told}" + (f", {failed} failed" if failed else "")
            )
        self._told = max(self._told, len(points))
        is_alone = not points and what == ALONE
        done = share * _ALONE_PART if is_alone else _ALONE_PART + len(points) + min(1.0, share)
        total = max(self._points, len(points) + 1) + _ALONE_PART
        self._progress.update(self._task, description=what, completed=done, total=total)
