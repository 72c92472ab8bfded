"""`mira-stream status`: what a running daemon says about itself, for a terminal."""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import load_config
from mira_stream.daemon.http_guard import http_token
from mira_stream.daemon.status import PoolStatus, ReplicaStatus, Status

_BAR = 10
_OLD_SECONDS = 10.0
_REFRESH_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_BYTES_MAX = 16 << 20
"""A replica takes about a kilobyte of it."""
_FACTORS = {
    "kv": "KV is full",
    "prefill": "prefill budget",
    "requests": "request limit",
    "source_starved": "nothing to send",
    "sink_blocked": "sink is behind",
    "breaker": "breaker open",
    "retry_budget": "retry budget",
    "draining": "draining",
}
_WELL = {"kv", "prefill", "source_starved"}
"""What limits a daemon that is as it should be."""


def status_url(config: Path | None, url: str | None) -> str:
    """Where the daemon says how it is. Raises Refusal if neither or both are given."""
    if (config is None) == (url is None):
        raise Refusal("say which daemon is meant", "give --config FILE or --url http://host:port")
    if url is None:
        assert config is not None
        host, _, port = load_config(config).http.listen.rpartition(":")
        if port == "0":
            raise Refusal(f"{config} lets the daemon choose its port", "give --url as its log says")
        url = f"http://{_reachable(host)}:{port}"
    if not url.startswith(("http://", "https://")):
        raise Refusal(f"{url} is no address", "give --url http://host:port")
    return url.rstrip("/") + "/status.json"


def status_token(config: Path | None, token_env: str | None) -> str | None:
    """What the daemon asks for, if it does: named by hand, else by its configuration. Raises Refusal."""
    name = token_env or (load_config(config).http.token_env if config is not None else None)
    return None if name is None else http_token(name)


def _reachable(host: str) -> str:
    """A daemon that listens on every address is reached on this one."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not bound


def show_status(url: str, *, watch: bool, as_json: bool, token: str | None = None) -> None:
    """Print it once, or show it until interrupted. Raises Refusal if nobody answers there."""
    if as_json:
        body = _fetch(url, token)
        _decoded(body, url)
        sys.stdout.write(body.decode() + "\n")
        return
    console = Console()
    if not watch:
        console.print(picture(_status(url, token)))
        return
    try:
        with Live(picture(_status(url, token)), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_SECONDS)
                live.update(picture(_status(url, token)), refresh=True)
    except KeyboardInterrupt:
        return


def _fetch(url: str, token: str | None) -> bytes:
    try:
        return asyncio.run(_get(url, {"Authorization": f"Bearer {token}"} if token else {}))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Refusal(
            f"no daemon answers at {url}: {_reason(error)}",
            "is it running, and is [http] listen this address?",
        ) from error


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientResponseError(status=401):
            return "it asks for a token: give --token-env NAME, or the --config that names it"
        case TimeoutError():
            return f"nothing whole came within {_TIMEOUT_SECONDS:.0f} s"
        case aiohttp.InvalidURL():
            return "that is no address"
        case aiohttp.ClientResponseError():
            return f"what is there says {error.status} {error.message}"
        case _:
            return str(error)


async def _get(url: str, headers: dict[str, str]) -> bytes:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    body = bytearray()
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.get(url, headers=headers) as answer,
    ):
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > _BYTES_MAX:
                raise _no_status(url, f"it is longer than {_BYTES_MAX:,} bytes")
    return bytes(body)


def _status(url: str, token: str | None) -> Status:
    return _decoded(_fetch(url, token), url)


def _decoded(body: bytes, url: str) -> Status:
    try:
        return msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_status(url, str(error)) from error


def _no_status(url: str, why: str) -> Refusal:
    return Refusal(f"{url} is not the status of a mira-stream of this version: {why}")


def picture(status: Status) -> RenderableType:
    """The whole daemon: what came of the records, what is under way, and each pool with its replicas."""
    parts: list[RenderableType] = [_heading(status), _records(status)]
    for pool in status.pools:
        parts += [Text(""), _pool_line(pool), _replicas(pool)]
    return Group(*parts)


def _heading(status: Status) -> Text:
    minutes, seconds = divmod(int(status.uptime_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = Text(f"mira-stream {status.version}  ", style="bold")
    text.append(status.state, style="green" if status.state == "running" else "yellow")
    text.append(f"  up {hours}:{minutes:02}:{seconds:02}", style="dim")
    if status.reload_refused:
        text.append(f"\nreload refused: {status.reload_refused}", style="bold red")
    return text


def _records(status: Status) -> Text:
    under_way = sum(status.in_pipeline.values())
    ended = ", ".join(f"{count:,} {outcome.replace('_', '-')}" for outcome, count in status.outcomes.items())
    text = Text(f"{status.read:,} read = {ended}, {under_way:,} under way\n")
    stages = ", ".join(f"{count:,} {stage.replace('_', ' ')}" for stage, count in status.in_pipeline.items())
    text.append(f"under way: {stages}\n", style="dim")
    rate = status.prompt_tokens / status.uptime_seconds if status.uptime_seconds else 0.0
    text.append(
        f"{status.objects_open} objects open; {status.segments:,} segments with {status.rows:,} rows published, "
        f"{status.backlog_rows:,} rows to publish; {rate:,.0f} prompt tokens/s since the start",
        style="dim",
    )
    return text


def _pool_line(pool: PoolStatus) -> Text:
    text = Text(f"{pool.group}  ", style="bold")
    text.append(f"{pool.model}  ", style="dim")
    if pool.stopped:
        text.append(f"stopped: {pool.stopped}", style="bold red")
        return text
    text.append_text(_factor(pool.limiting_factor, "sending"))
    text.append(f"\n{pool.window_records} records in the window", style="dim")
    if pool.count_error_ratio is not None:
        text.append(f"; counts off by {pool.count_error_ratio:.1%} in the mean", style="dim")
    if pool.prefix_possible_ratio:
        text.append(f"; prefix cache could hold {pool.prefix_possible_ratio:.0%} of the prompts", style="dim")
    if pool.wasted_tokens:
        wasted = ", ".join(f"{tokens:,} {cause}" for cause, tokens in sorted(pool.wasted_tokens.items()))
        text.append(f"\nwasted tokens: {wasted}", style="dim")
    return text


def _factor(factor: str | None, otherwise: str) -> Text:
    if factor is None:
        return Text(otherwise, style="green")
    return Text(_FACTORS.get(factor, factor), style="green" if factor in _WELL else "yellow")


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
    text = Text(one.name.removeprefix("http://"))
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
    """What the engine says, and what we know of its prefill and its prefix cache."""
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
    return text.append(f"; {one.answers:,} answers")


def _short(tokens: int) -> str:
    if tokens >= 1_000_000:
        return f"{tokens / 1_000_000:.1f}M"
    return f"{tokens / 1000:,.0f}K" if tokens >= 1000 else str(tokens)
