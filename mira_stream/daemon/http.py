"""The daemon's HTTP endpoints: metrics, health, readiness, status. Loopback unless configured otherwise."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from mira_stream.core.errors import Refusal
from mira_stream.telemetry.exporter import Exporter

_PORT_MAX = 65_535

Unready = Callable[[], list[str]]
"""What the daemon is still waiting for; empty when it is ready."""


def make_app(exporter: Exporter, status: Callable[[], msgspec.Struct], unready: Unready) -> web.Application:
    """All endpoints over three plain callables; each answers from one snapshot on the event loop."""

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

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/status.json", status_json)
    return app


@asynccontextmanager
async def serving(app: web.Application, listen: str) -> AsyncIterator[str]:
    """Serve `app` on `host:port` (port 0: any free one); yields the base URL. Raises Refusal if it is taken."""
    host, _, port = listen.rpartition(":")
    if int(port) > _PORT_MAX:  # uvloop would take it modulo 65,536
        raise Refusal(f"cannot listen on {listen}: ports end at {_PORT_MAX}", "correct [http] listen")
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            raise Refusal(
                f"cannot listen on {listen}: {error.strerror or error}",
                "another daemon may run there: set [http] listen to a free host:port",
            ) from error
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        yield f"http://{shown}:{bound[1]}"
    finally:
        await runner.cleanup()
