"""The daemon's HTTP endpoints: page, metrics, health, readiness, status. Loopback unless configured otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from mira_stream.core.errors import Refusal
from mira_stream.daemon.http_guard import Guard
from mira_stream.daemon.page_files import add_page
from mira_stream.telemetry.exporter import Exporter

_PORT_MAX = 65_535
CONNECTIONS_MAX = 64
"""Open at once; beyond it the oldest is closed, so that strangers cannot take the daemon's descriptors."""
_POLICY = "Content-Security-Policy"
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What a browser may do with an answer that has no policy of its own, as the page has."""
# What a model or a record said may stand in an answer: no browser takes it for anything but the text that it is.
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "mira-stream",
}

Unready = Callable[[], list[str]]
"""What the daemon is still waiting for; empty when it is ready."""


def make_app(
    exporter: Exporter,
    status: Callable[[], msgspec.Struct],
    unready: Unready,
    *,
    guard: Guard | None = None,
) -> web.Application:
    """All endpoints over three plain callables; each answers from one snapshot on the event loop.

    With a `guard` a request that it does not admit learns nothing, not even which paths there are.
    """

    async def metrics(_: web.Request) -> web.Response:
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=exporter.render(), headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        waiting = unready()
        text = f"waiting for: {', '.join(waiting)}\n" if waiting else "ready\n"
        return web.Response(text=text, status=503 if waiting else 200)

    async def status_json(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(status()), content_type="application/json")

    app = web.Application(middlewares=[_asking(guard)] if guard is not None else [])
    app.on_response_prepare.append(_make_safe)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/status.json", status_json)
    add_page(app)
    return app


async def _make_safe(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SAFE_HEADERS | {_POLICY: response.headers.get(_POLICY, _NOTHING)})


def _asking(guard: Guard) -> Middleware:
    @web.middleware
    async def asked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if guard.admits(request.headers.get(hdrs.AUTHORIZATION)):
            return await handler(request)
        # Basic, so that a browser asks for it: the token is the password.
        challenge = {hdrs.WWW_AUTHENTICATE: 'Basic realm="mira-stream", charset="UTF-8"'}
        return web.Response(text="the token is needed\n", status=401, headers=challenge)

    return asked


@asynccontextmanager
async def serving(app: web.Application, listen: str) -> AsyncIterator[str]:
    """Serve `app` on `host:port` (port 0: any free one); yields the base URL. Raises Refusal if it is taken."""
    host, _, port = listen.rpartition(":")
    if int(port) > _PORT_MAX:  # uvloop would take it modulo 65,536
        raise Refusal(f"cannot listen on {listen}: ports end at {_PORT_MAX}", "correct [http] listen")
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        server = await _bound(runner, host.strip("[]"), int(port), listen)
        try:
            address = server.sockets[0].getsockname()
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            yield f"http://{shown}:{address[1]}"
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _bound(runner: web.AppRunner, host: str, port: int, listen: str) -> asyncio.Server:
    handlers = runner.server
    assert handlers is not None, "set up"

    def connected() -> asyncio.Protocol:
        """What talks with one more client; the oldest of too many have to go."""
        open_ones = handlers.connections
        for oldest in open_ones[: len(open_ones) - CONNECTIONS_MAX + 1]:
            oldest.force_close()
        return handlers()

    try:
        return await asyncio.get_running_loop().create_server(connected, host, port, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise Refusal(
            f"cannot listen on {listen}: {error.strerror or error}",
            "another daemon may run there: set [http] listen to a free host:port",
        ) from error
