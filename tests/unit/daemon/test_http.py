"""The daemon's endpoints over a real socket, and the status line an operator reads."""

import asyncio
from collections.abc import Callable, Coroutine

import aiohttp
import msgspec
import pytest
from rich.console import Console

from mira_stream.core.errors import Refusal
from mira_stream.daemon.http import make_app, serving
from mira_stream.daemon.status import PoolStatus, ReplicaStatus, Status
from mira_stream.daemon.status_view import picture
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.exporter import Exporter
from mira_stream.telemetry.meters import Meters

REPLICA = ReplicaStatus(
    name="http://one",
    breaker="closed",
    limiting_factor="kv",
    requests=3,
    requests_limit=256,
    reserved_tokens=200_000,
    reserved_tokens_limit=250_000,
    capacity_tokens=262_144,
    capacity_origin="learned",
    capacity_share=1.0,
    unprefilled_tokens=40_000,
    unprefilled_tokens_limit=131_072,
    prefill_tokens_per_second=24_000.0,
    foreign_requests=0,
    prefix_hit_ratio=0.1,
    telemetry_age_seconds=0.4,
    stale=False,
    leaving=False,
    running=3,
    waiting=0,
    kv_usage=0.8,
    answers=7,
)


def _status(**changes: object) -> Status:
    pool = PoolStatus(
        group="agent/A",
        model="m",
        limiting_factor="kv",
        stopped=None,
        window_records=16,
        prefix_possible_ratio=0.12,
        count_error_ratio=0.02,
        wasted_tokens={"reset": 30_000},
        replicas=[REPLICA],
    )
    whole = Status(
        version="1",
        state="running",
        uptime_seconds=1.0,
        read=10,
        outcomes={"scored": 4, "dead_lettered": 1, "skipped": 0},
        in_pipeline={"window": 3, "in_flight": 2},
        objects_open=1,
        segments=2,
        rows=5,
        backlog_rows=0,
        prompt_tokens=1,
        completion_tokens=1,
        pools=[pool],
    )
    return msgspec.structs.replace(whole, **changes)


def _play(
    story: Callable[[aiohttp.ClientSession, str], Coroutine[None, None, None]],
    waiting: list[str] | None = None,
) -> Meters:
    meters = Meters()

    async def run() -> None:
        app = make_app(Exporter(meters), _status, lambda: waiting or [])
        async with serving(app, "127.0.0.1:0") as url, aiohttp.ClientSession() as session:
            await story(session, url)

    asyncio.run(run())
    return meters


def test_metrics_are_prometheus_text() -> None:
    """With the content type that a scraper expects."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/metrics") as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = await response.text()
        assert f"# TYPE {metrics.SINK_BACKLOG_ROWS.name} gauge" in text

    _play(story)


@pytest.mark.parametrize(("waiting", "status"), [([], 200), (["the first listing page"], 503)])
def test_readiness_says_what_is_waited_for(waiting: list[str], status: int) -> None:
    """Health is another question: the process is alive either way."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/readyz") as response:
            assert response.status == status
            text = await response.text()
            assert all(what in text for what in waiting)
        async with session.get(f"{url}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")

    _play(story, waiting)


def test_the_status_is_json() -> None:
    """One snapshot, with the pools and what limits them."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/status.json") as response:
            assert response.content_type == "application/json"
            status = await response.json()
        assert msgspec.convert(status, Status) == msgspec.convert(msgspec.to_builtins(_status()), Status)
        assert status["pools"][0]["replicas"][0]["limiting_factor"] == "kv"
        async with session.get(f"{url}/none") as response:
            assert response.status == 404

    _play(story)


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    """Another daemon runs there: said with the address and the key to change; so is a port that cannot be."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        app = make_app(Exporter(Meters()), _status, list)
        address = url.removeprefix("http://")
        with pytest.raises(Refusal, match=f"cannot listen on {address}") as refused:
            async with serving(app, address):
                pass
        assert "[http] listen" in refused.value.hint
        with pytest.raises(Refusal, match=r"cannot listen on 127\.0\.0\.1:99999"):
            async with serving(app, "127.0.0.1:99999"):
                pass

    _play(story)


def test_an_ipv6_address_is_shown_with_brackets() -> None:
    """So that it can be pasted."""

    async def run() -> None:
        app = make_app(Exporter(Meters()), _status, list)
        try:
            async with serving(app, "[::1]:0") as url:
                assert url.startswith("http://[::1]:")
        except Refusal:
            pytest.skip("there is no IPv6 loopback on this machine")

    asyncio.run(run())


def test_a_refused_reload_stays_in_sight() -> None:
    """In the line for systemd, and at the head of the picture, until a good one has come."""
    status = _status(reload_refused="sink.uri: only a pool's replicas can change by a reload")
    assert status.line().endswith("; reload refused: sink.uri: only a pool's replicas can change by a reload")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(picture(status))
    assert "reload refused: sink.uri" in capture.get()
    assert "reload" not in _status().line()


def test_the_status_line_fits_an_operator() -> None:
    """What was read, how it ended, what is under way, and why nothing is being sent."""
    assert _status().line() == (
        "running: 10 read, 4 scored, 1 dead_lettered, 0 skipped, 5 under way; agent/A: kv"
    )
    (pool,) = _status().pools
    sending = msgspec.structs.replace(pool, limiting_factor=None)
    stopped = msgspec.structs.replace(pool, group="agent/B", stopped="http://one: no such model")
    assert (
        _status(pools=[sending, stopped])
        .line()
        .endswith("agent/A: sending; agent/B: http://one: no such model")
    )
