"""What the demo shows: a live table on a terminal, a line now and then elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mira_stream.daemon.status import Status

_PLAIN_SECONDS = 2.0


class View:
    """Writes to one stream; `live` draws in place only on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live: Live | None = None
        self._last_plain = -_PLAIN_SECONDS
        self._last: tuple[float, int] = (0.0, 0)
        self._tokens_per_second = 0.0

    def say(self, text: str) -> None:
        """Text that stays."""
        self._console.print(text, soft_wrap=True, markup=False)

    def row(self, row: dict[str, object]) -> None:
        """One row of the sink, a column a line, with the first rationale only."""
        for name, value in row.items():
            if name == "rationales" and isinstance(value, dict):
                shown = f"A1: {value.get('A1')} … and 14 more"
            elif name == "scores" and isinstance(value, dict):
                shown = "  ".join(f"{slot} {score:g}" for slot, score in value.items())
            elif value in (None, []):
                continue
            else:
                shown = str(value)
            self.say(f"  {name:<24} {shown}")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Inside, `show` draws."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8) as self._live:
            yield
        self._live = None

    def show(self, status: Status, *, landed: int, lines: int, elapsed_seconds: float) -> None:
        """The state of the daemon now; `lines` have landed in `landed` rounds so far."""
        self._measure(status, elapsed_seconds)
        if self._live is not None:
            self._live.update(self._picture(status, landed=landed, lines=lines))
        elif elapsed_seconds - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = elapsed_seconds
            self.say(self._sentence(status, lines=lines, elapsed_seconds=elapsed_seconds))

    def _measure(self, status: Status, elapsed_seconds: float) -> None:
        tokens = status.prompt_tokens + status.completion_tokens
        then, before = self._last
        if elapsed_seconds - then >= 1.0:
            self._tokens_per_second = (tokens - before) / (elapsed_seconds - then)
            self._last = (elapsed_seconds, tokens)

    def _sentence(self, status: Status, *, lines: int, elapsed_seconds: float) -> str:
        ended = sum(status.outcomes.values())
        replicas = [replica for pool in status.pools for replica in pool.replicas]
        flight = ", ".join(f"{replica.reserved_tokens:,}" for replica in replicas)
        factor = next((pool.limiting_factor or "sending" for pool in status.pools), "")
        return (
            f"{elapsed_seconds:5.1f} s  landed {lines}  read {status.read}  published {ended}  "
            f"{self._tokens_per_second:,.0f} tokens/s  in flight {flight} tokens  limited by {factor}"
        )

    def _picture(self, status: Status, *, landed: int, lines: int) -> Group:
        ended = sum(status.outcomes.values())
        table = Table(box=None, pad_edge=False)
        for column in ("replica", "requests", "tokens in flight", "of", "limited by", "answers"):
            table.add_column(column, justify="left" if column in ("replica", "limited by") else "right")
        for pool in status.pools:
            for replica in pool.replicas:
                table.add_row(
                    replica.name,
                    str(replica.requests),
                    f"{replica.reserved_tokens:,}",
                    f"{replica.reserved_tokens_limit:,}",
                    replica.limiting_factor or "open for more",
                    str(replica.answers),
                )
        factor = ", ".join(f"{pool.group}: {pool.limiting_factor or 'sending'}" for pool in status.pools)
        stages = "  ".join(f"{stage} {count}" for stage, count in status.in_pipeline.items())
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=max(lines, 1), completed=ended, width=60), f"{ended} of {lines} published"
        )
        return Group(
            bar,
            Text(f"{landed} rounds landed   {status.read} read   {self._tokens_per_second:,.0f} tokens/s"),
            Text(f"limited by {factor}"),
            Text(f"in the pipeline: {stages}"),
            table,
        )
