"""Scores as small bars and the latest dead letters, for a terminal."""

from collections.abc import Iterable

from rich.columns import Columns
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mira_stream.core.visible import shown
from mira_stream.daemon.status import ReasonStatus, ScoreStatus, Status
from mira_stream.pipeline.letters import LatestLetter

_LEVELS = " ▁▂▃▄▅▆▇█"
_NAME_CHARS = 18
_LETTERS = 5
_MIX = {"keep": "green", "downsample": "yellow", "drop": "red"}


def scores(status: Status) -> list[RenderableType]:
    """A histogram for each slot of each group, over all its sources; nothing before the first score."""
    parts: list[RenderableType] = []
    for pool in status.pools:
        found = [one for one in status.scores if one.group == pool.group]
        if found:
            parts += [Text(""), _mix(pool.group, found), _slots(pool.slots, found)]
    return parts


def bars(counts: Iterable[int]) -> str:
    """A character for each count, the highest is full; what is not zero can be seen."""
    values = list(counts)
    top = max(values, default=0)
    return "".join(_LEVELS[0 if not value else max(1, round(8 * value / top))] for value in values)


def _added(lists: Iterable[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*lists, strict=True)]


def _median(counts: list[int]) -> int:
    below, total = 0, sum(counts)
    for points, count in enumerate(counts):
        below += count
        if 2 * below >= total:
            return points
    return 0


def _mix(group: str, found: list[ScoreStatus]) -> Text:
    replies, overall = sum(one.replies for one in found), _added(one.overall for one in found)
    text = Text(f"scores of {group}", style="bold")
    text.append(f"  {replies:,} replies", style="not bold dim")
    text.append("  overall ", style="not bold")
    text.append(f"▕{bars(overall)}▏", style="cyan not bold")
    text.append(f" median {10 * _median(overall)}\n", style="not bold")
    for name, style in _MIX.items():
        share = sum(one.recommendations.get(name, 0) for one in found) / max(1, replies)
        text.append(f"{share:4.0%} {name}  ", style=f"not bold {style}")
    return text


def _slots(names: dict[str, str], found: list[ScoreStatus]) -> Columns:
    cells = []
    for slot in found[0].slots:
        counts = _added(one.slots[slot] for one in found)
        name = shown(names.get(slot, ""))
        name = name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 1]}…"
        cell = Text(f"{slot:>3} ", style="bold")
        cell.append(f"▕{bars(counts)}▏", style="cyan not bold")
        cell.append(f"{_median(counts):>3} ", style="not bold")
        cells.append(cell.append(f"{name:<{_NAME_CHARS}}", style="dim not bold"))
    return Columns(cells, padding=(0, 2))


def letters(status: Status) -> list[RenderableType]:
    """Why records were not scored, and the latest dead letters; nothing where there are none."""
    if not status.reasons:
        return []
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("records", justify="right")
    table.add_column("reason", no_wrap=True)
    table.add_column("advice", overflow="fold")
    for one in status.reasons:
        table.add_row(f"{one.records:,}", one.reason.value, _meaning(one))
    parts: list[RenderableType] = [Text("\nnot scored", style="bold"), table]
    latest = list(status.letters)[:_LETTERS]
    if latest:
        parts.append(Text("\nlatest dead letters", style="bold"))
        parts += [_letter(one) for one in latest]
        parts.append(
            Text(f"  mira-stream dead-letters explain {latest[0].record_id} --config …", style="dim")
        )
    return parts


def _meaning(one: ReasonStatus) -> Text:
    text = Text(f"{one.meaning} → ", style="dim")
    return text.append(one.advice, style="not dim")


def _letter(one: LatestLetter) -> Text:
    text = Text(f"  {one.scored_at[11:19]} ", style="dim")
    text.append(one.reason.value, style="not dim yellow")
    text.append(f" {one.record_id} ", style="dim")
    text.append(f"{shown(one.object.rpartition('/')[2])}, line {one.ordinal}", style="not dim")
    return text
