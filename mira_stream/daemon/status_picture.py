"""A status as a picture for a terminal: what the page at `/` shows, in lines that fit 80 columns."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mira_stream.core.visible import shown
from mira_stream.daemon.diagnosis import WORDS
from mira_stream.daemon.status import Advice, Health, PoolStatus, ReplicaStatus, Status
from mira_stream.daemon.status_details import letters, scores

_BAR = 10
_OLD_SECONDS = 10.0
_WELL = {"kv", "prefill", "source_starved"}
"""What limits a daemon that is as it should be."""
_HEALTH = {Health.WELL: ("✓", "green"), Health.LOOK: ("!", "yellow"), Health.WRONG: ("✕", "bold red")}


def picture(status: Status) -> RenderableType:
    """The whole daemon: how it is and what to do, the flow, each pool with its replicas, scores and dead letters."""
    parts: list[RenderableType] = [
        _heading(status),
        _verdict(status),
        Text(""),
        _flow(status),
        _identity(status),
    ]
    for pool in status.pools:
        parts += [Text(""), _pool_line(pool), _replicas(pool)]
    parts += scores(status)
    parts += letters(status)
    return Group(*parts)


def _heading(status: Status) -> Text:
    minutes, seconds = divmod(int(status.uptime_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = Text(f"mira-stream {status.version}  ", style="bold")
    text.append(status.state, style="green" if status.state == "running" else "yellow")
    return text.append(f"  up {hours}:{minutes:02}:{seconds:02}", style="dim")


def _verdict(status: Status) -> RenderableType:
    """Is it healthy, what limits it, what is to be done."""
    diagnosis = status.diagnosis
    sign, style = _HEALTH[diagnosis.health]
    text = Text(f"{sign} {diagnosis.says}", style=style)
    text.append(f" {diagnosis.limit}", style="default not bold")
    return Group(text, *(_advice(one) for one in diagnosis.advice))


def _advice(one: Advice) -> RenderableType:
    sign, style = _HEALTH[one.health]
    text = Text()
    text.append(f"{sign} {shown(one.says)}", style=style)
    text.append(f"\n  {one.do}")
    if one.runbook:
        text.append(f" (runbook: {one.runbook})", style="dim")
    return Padding(text, (0, 0, 0, 2))


def _flow(status: Status) -> Table:
    """The stages from the listing to the published row; an arrow marks the one that limits."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    rates, under = status.rates, status.in_pipeline
    window_limit = sum(pool.window_records_limit for pool in status.pools)
    replicas = [one for pool in status.pools for one in pool.replicas]
    reserved = sum(one.reserved_tokens for one in replicas)
    listed = (
        f", listed {status.listed_seconds_ago:.0f} s ago" if status.listed_seconds_ago is not None else ""
    )
    stages = (
        ("listed", status.objects_discovered, rates.discovered, f"objects, {status.objects_open:,} open{listed}"),
        ("read", status.read, rates.read, ""),
        ("preparing", under.get("preparing", 0), None, ""),
        ("window", under.get("window", 0), None, f"{window_limit:,} places for new ones"),
        ("in_flight", under.get("in_flight", 0), rates.answered, f"{_short(reserved)} tokens"),
        ("received", under.get("receiving", 0) + under.get("received", 0), rates.received, f"{status.backlog_rows:,} rows to publish"),
        ("published", sum(status.outcomes.values()), rates.published, f"{status.segments:,} segments, {_rate(rates.prompt_tokens + rates.completion_tokens)} tokens/s"),
    )  # fmt: skip
    for name, count, rate, note in stages:
        limits = name == status.diagnosis.stage
        table.add_row(
            Text(f"{'→' if limits else ' '} {name.replace('_', ' ')}", style="bold cyan" if limits else ""),
            f"{count:,}",
            "" if rate is None else f"{_rate(rate)}/s",
            Text(note, style="dim"),
        )
    return table


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if 0 < rate < 10 else _short(round(rate))


def _identity(status: Status) -> Text:
    under_way = sum(status.in_pipeline.values())
    ended = ", ".join(f"{count:,} {outcome.replace('_', '-')}" for outcome, count in status.outcomes.items())
    holds = status.read == under_way + sum(status.outcomes.values())
    text = Text(f"{status.read:,} read = {ended}, {under_way:,} under way ")
    return text.append("✓" if holds else "✕ does not add up", style="green" if holds else "bold red")


def _pool_line(pool: PoolStatus) -> Text:
    text = Text(f"{shown(pool.group)}  ", style="bold")
    text.append(f"{shown(pool.model)}  ", style="dim")
    if pool.stopped:
        text.append(f"stopped: {shown(pool.stopped)}", style="bold red")
        return text
    text.append_text(_factor(pool.limiting_factor, "sending"))
    text.append(f"\n{pool.window_records} records in the window", style="dim")
    if pool.count_error_ratio is not None:
        text.append(f"; counts off by {pool.count_error_ratio:.1%} in the mean", style="dim")
    if pool.prefix_possible_ratio:
        text.append(f"; prefix cache could hold {pool.prefix_possible_ratio:.0%} of the prompts", style="dim")
    if pool.reasks:
        text.append(f"; {pool.reasks:,} replies asked again", style="dim")
    if pool.wasted_tokens:
        wasted = ", ".join(f"{tokens:,} {cause}" for cause, tokens in sorted(pool.wasted_tokens.items()))
        text.append(f"\nwasted tokens: {wasted}", style="dim")
    return text


def _factor(factor: str | None, otherwise: str) -> Text:
    if factor is None:
        return Text(otherwise, style="green")
    return Text(WORDS.get(factor, factor), style="green" if factor in _WELL else "yellow")


def _replicas(pool: PoolStatus) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("replica", "limit", "fill"):
        table.add_column(name, overflow="fold")
    for one in pool.replicas:
        limit = _factor(one.limiting_factor, "free") if one.breaker == "closed" else _breaker(one)
        fill = _bar(one.reserved_tokens, one.reserved_tokens_limit)
        fill.append(f" of {_short(one.reserved_tokens_limit)} KV tokens ({one.capacity_origin})")
        table.add_row(_name(one), limit, fill)
        table.add_row("", Text(f"{one.requests} in flight", style="dim"), _engine(one, pool))
    return table


def _name(one: ReplicaStatus) -> Text:
    text = Text(shown(one.name.removeprefix("http://")))
    if one.leaving:
        text.append(" leaving", style="yellow")
    return text


def _breaker(one: ReplicaStatus) -> Text:
    return Text(
        f"breaker {one.breaker.replace('_', ' ')}", style="yellow" if one.breaker != "open" else "red"
    )


def _bar(part: int, whole: int) -> Text:
    share = min(1.0, part / whole) if whole else 0.0
    full = round(share * _BAR)
    text = Text("█" * full, style="cyan")
    text.append("░" * (_BAR - full), style="dim")
    return text.append(f" {share:4.0%}")


def _engine(one: ReplicaStatus, pool: PoolStatus) -> Text:
    """What the engine says, and what we know of its prefill, its prefix cache, its answers and its faults."""
    text = Text(style="dim")
    if one.running is None:
        text.append("no metrics", style="yellow")
    else:
        usage = "" if one.kv_usage is None else f", KV {one.kv_usage:.0%}"
        text.append(f"engine: {one.running} running, {one.waiting} waiting{usage}")
    if one.foreign_requests:
        text.append(f", {one.foreign_requests} of others", style="yellow")
    if one.stale or (one.requests and (one.telemetry_age_seconds or 0.0) > _OLD_SECONDS):
        text.append(f", {one.telemetry_age_seconds or 0.0:.0f} s old", style="yellow")
    text.append(f"; {_short(one.unprefilled_tokens)} of {_short(one.unprefilled_tokens_limit)} to prefill")
    if one.prefix_hit_ratio is not None and pool.prefix_possible_ratio:
        text.append(f"; prefix hits {one.prefix_hit_ratio:.0%} of {pool.prefix_possible_ratio:.0%}")
    text.append(f"; {one.answers:,} answer{'' if one.answers == 1 else 's'}")
    if one.latency_seconds is not None:
        half, most = one.latency_seconds
        text.append(f" in {half:.1f} s, 95 % in {most:.1f} s")
    if one.faults:
        faults = ", ".join(f"{count:,} {kind}" for kind, count in sorted(one.faults.items()))
        text.append(f"; faults: {faults}", style="yellow")
    return text


def _short(tokens: int) -> str:
    if tokens >= 1_000_000:
        return f"{tokens / 1_000_000:.1f}M"
    return f"{tokens / 1000:,.0f}K" if tokens >= 1000 else str(tokens)
