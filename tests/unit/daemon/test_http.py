"""The daemon's endpoints over a real socket, and the status line an operator reads."""

import asyncio
from collections.abc import Callable, Coroutine

import aiohttp
import msgspec
import pytest
from rich.console import Console
from yarl import URL

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import HttpSection
from mira_stream.daemon.http import CONNECTIONS_MAX, make_app, serving
from mira_stream.daemon.http_guard import Guard, guard_of, is_loopback
from mira_stream.daemon.status import Status
from mira_stream.daemon.status_picture import picture
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.exporter import Exporter
from mira_stream.telemetry.meters import Meters
from tests.fakes.statuses import status as _status


def _play(
    story: Callable[[aiohttp.ClientSession, str], Coroutine[None, None, None]],
    waiting: list[str] | None = None,
    guard: Guard | None = None,
) -> Meters:
    meters = Meters()

    async def run() -> None:
        app = make_app(Exporter(meters), _status, lambda: waiting or [], guard=guard)
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


PATHS = ("/metrics", "/healthz", "/readyz", "/status.json", "/none")
PAGE = ("/", "/page/main.js", "/page/page.css", "/page/icon.svg")
TOKEN = "a-token-of-more-than-16"


@pytest.mark.parametrize("path", PATHS)
def test_no_answer_is_taken_for_more_than_text(path: str) -> None:
    """A browser neither guesses another type, nor runs, frames or keeps what a model or a record said."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}{path}") as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["Cache-Control"] == "no-store"
            assert response.content_type in ("text/plain", "application/json")
            assert "Python" not in response.headers["Server"]

    _play(story)


@pytest.mark.parametrize(
    ("path", "kind"),
    list(zip(PAGE, ("text/html", "text/javascript", "text/css", "image/svg+xml"), strict=True)),
)
def test_the_page_may_run_its_own_scripts_and_nothing_else(path: str, kind: str) -> None:
    """Nor is it framed, kept, or taken for what it is not; no text can become markup."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}{path}") as response:
            assert response.status == 200
            assert response.content_type == kind
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert ("script-src 'self'" in policy) is (path == "/")
        assert ("require-trusted-types-for 'script'" in policy) is (path == "/")

    _play(story)


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/../http.py", "/page/%2e%2e/http.py", "/page/x"]
)
def test_nothing_but_the_page_is_served(path: str) -> None:
    """A path is one of those known, and never looked up in a folder."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(URL(f"{url}{path}", encoded=True)) as response:
            assert response.status == 404

    _play(story)


@pytest.mark.parametrize("path", [*PATHS, *PAGE])
@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Digest {TOKEN}", "Basic !",
     "Basic", "Bearer \xe9"],
)  # fmt: skip
def test_without_the_token_nothing_is_told(path: str, given: str | None) -> None:
    """Not even which paths there are; the answer says how to ask."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        headers = {} if given is None else {"Authorization": given}
        async with session.get(f"{url}{path}", headers=headers) as response:
            assert (response.status, await response.text()) == (401, "the token is needed\n")
            assert response.headers["WWW-Authenticate"].startswith("Basic")
            assert response.headers["X-Content-Type-Options"] == "nosniff"

    _play(story, guard=Guard(TOKEN))


@pytest.mark.parametrize(
    "given", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", aiohttp.encode_basic_auth("any", TOKEN)]
)
def test_with_the_token_all_is_told(given: str) -> None:
    """To a scraper that bears it, and to a browser that was asked for a password."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/status.json", headers={"Authorization": given}) as response:
            assert response.status == 200

    _play(story, guard=Guard(TOKEN))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "192.168.1.4", "gpu-1", "*", "[::ffff:10.0.0.1]", "[fe80::1]"]
)
def test_an_open_address_without_a_token_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started, with the key to set; with a token of enough characters it is served."""
    listen = f"{host}:9464"
    assert not is_loopback(listen)
    with pytest.raises(Refusal, match="can be reached from other machines") as refused:
        guard_of(HttpSection(listen=listen))
    assert "[http] token_env" in refused.value.hint
    monkeypatch.setenv("MIRA_TEST_TOKEN", "short")
    with pytest.raises(Refusal, match="shorter than 16 characters"):
        guard_of(HttpSection(listen=listen, token_env="MIRA_TEST_TOKEN"))
    monkeypatch.setenv("MIRA_TEST_TOKEN", TOKEN)
    guard = guard_of(HttpSection(listen=listen, token_env="MIRA_TEST_TOKEN"))
    assert guard is not None
    assert guard.admits(f"Bearer {TOKEN}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    """Whoever is on the machine may look."""
    assert guard_of(HttpSection(listen=f"{host}:9464")) is None


def test_strangers_cannot_take_all_descriptors() -> None:
    """Of many connections that say nothing the oldest are closed, and whoever asks is answered."""

    async def story(session: aiohttp.ClientSession, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(2 * CONNECTIONS_MAX)]
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200
        first = [await asyncio.wait_for(reader.read(1), 10) for reader, _ in silent[:CONNECTIONS_MAX]]
        assert first == [b""] * CONNECTIONS_MAX
        for _, writer in silent:
            writer.close()

    _play(story)


def test_what_is_no_http_is_answered_in_plain_text(capfd: pytest.CaptureFixture[str]) -> None:
    """A request that cannot be read costs its connection, is not repeated to its sender, and is not logged."""

    async def story(_: aiohttp.ClientSession, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        for request in (
            b"<script>alert(1)</script>\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: <script>\0\r\n\r\n",
            b"\x16\x03\x01",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            assert b"<script>" not in answer
            assert b"Traceback" not in answer
            writer.close()

    _play(story)
    assert "script" not in capfd.readouterr().err


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
    assert "reload was refused: sink.uri" in capture.get()
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
