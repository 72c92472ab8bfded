"""The life of a simulated replica: it listens, serves until it is stopped or dies, and leaves as vLLM does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from mira_stream.core.errors import Refusal
from mira_stream.sim.replica import Ending, SimReplica, SimStats
from mira_stream.sim.server import SimServer, reset
from mira_stream.sim.settings import SimSettings

_LINGER_SECONDS = 0.2  # for so long a server whose engine died still says 503 on /health
_ANSWER_SECONDS = 1.0  # for the last answers to leave


class SimHandle:
    """A running replica, for tests in the same process."""

    def __init__(self, replica: SimReplica, url: str) -> None:
        self._replica = replica
        self.url = url

    @property
    def stats(self) -> SimStats:
        """What it has seen so far."""
        return self._replica.stats

    async def reached(self, requests: int) -> None:
        """Wait until so many generation requests have come: each is in the engine then, or at its fault, or gone."""
        await self._replica.reached(requests)

    async def idle(self) -> None:
        """Wait until no generation request is in flight."""
        await self._replica.drained(None)

    def end(self, ending: Ending) -> None:
        """Stop it, crash its engine, or kill it; it leaves in the background."""
        self._replica.end(ending)

    def __repr__(self) -> str:
        return f"<SimHandle {self.url} requests {self.stats.requests} in flight {self.stats.in_flight}>"


async def serve(settings: SimSettings, *, ready: Callable[[str], None] | None, stop: asyncio.Event) -> None:
    """Serve one replica until `stop` is set, or until a planned fault ends it; returns once it is gone.

    `ready` is called with the base URL as soon as it answers. Raises Refusal if it cannot start.
    """
    async with _listening(settings) as service:
        if ready is not None:
            ready(service.url)
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_stop_when(stop, service.replica))
            await _leave(service)
            watcher.cancel()


@asynccontextmanager
async def running_sim(settings: SimSettings) -> AsyncIterator[SimHandle]:
    """A replica inside this process, for as long as the block lasts."""
    try:
        async with _listening(settings) as service, asyncio.TaskGroup() as group:
            group.create_task(_leave(service))
            try:
                yield SimHandle(service.replica, service.url)
            finally:
                service.replica.end(Ending.STOPPED)
    except BaseExceptionGroup as problems:
        # What the block raised comes out as it was raised, not wrapped by the task group.
        if len(problems.exceptions) == 1:
            raise problems.exceptions[0] from None
        raise


class _Service(NamedTuple):
    replica: SimReplica
    runner: web.ServerRunner
    site: web.TCPSite
    url: str


async def _stop_when(stop: asyncio.Event, replica: SimReplica) -> None:
    await stop.wait()
    replica.end(Ending.STOPPED)


@asynccontextmanager
async def _listening(settings: SimSettings) -> AsyncIterator[_Service]:
    replica = SimReplica(settings)
    runner = web.ServerRunner(_http_server(replica), shutdown_timeout=_ANSWER_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as problem:
            raise Refusal(
                f"cannot listen on {settings.host}:{settings.port}: {problem.strerror or problem}",
                "choose another port, or 0 for any free one",
            ) from problem
        yield _Service(replica, runner, site, _url(runner))
    finally:
        replica.close()
        await runner.cleanup()


async def _leave(service: _Service) -> None:
    """Wait for the end, then go in the order in which vLLM does."""
    replica = service.replica
    await replica.ended.wait()
    if replica.ending is Ending.CRASHED:
        await asyncio.sleep(_LINGER_SECONDS)
    elif replica.ending is Ending.KILLED:
        _reset_all(service.runner)
    elif replica.settings.shutdown_timeout_seconds:
        replica.draining = True
        await replica.drained(replica.settings.shutdown_timeout_seconds)
    await service.site.stop()
    replica.die()
    await service.runner.cleanup()


def _http_server(replica: SimReplica) -> web.Server:
    settings = replica.settings
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        limit = settings.body_bytes_max
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)

    return web.Server(
        SimServer(replica).handle,
        request_factory=make_request,
        handler_cancellation=True,  # a client that leaves aborts its request
        access_log=None,
        keepalive_timeout=settings.keepalive_seconds,
    )


def _url(runner: web.ServerRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reset_all(runner: web.ServerRunner) -> None:
    server = runner.server
    assert server is not None
    for connection in server.connections:
        reset(connection.transport)
