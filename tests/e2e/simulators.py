"""Simulated replicas that can be killed, come back at the same address, and tell what they were asked."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import msgspec

from mira_stream.sim.service import serve
from mira_stream.sim.settings import SimSettings
from tests.e2e.harness import Row, free_port, line_with, started, until

_END_SECONDS = 10.0


class Simulator:
    """One `mira-stream sim` that answers at once, always at the same address, with a log of its requests."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        self.url = ""
        self._arguments = arguments
        self._port = free_port()
        self._process: subprocess.Popen[str] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *arguments: str) -> "Simulator":
        """Start it, anew if it was ended, with `arguments` instead of its own if given; it answers when this returns."""
        command = ["sim", "--port", str(self._port), "--time-scale", "0", "--set", f"request_log={self.log}"]
        self._process = self._stack.enter_context(
            started(*command, *(arguments or self._arguments), stream="stdout")
        )
        self.url = line_with(self._process, "stdout", "listening on").split()[-1]
        return self

    @property
    def future_url(self) -> str:
        """Where it will be once it is started."""
        return f"http://127.0.0.1:{self._port}"

    def kill(self) -> None:
        """`kill -9`, as when the machine goes."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_END_SECONDS)

    def terminate(self) -> None:
        """SIGTERM: it fails what is in flight and says so."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_END_SECONDS)

    def requests(self) -> list[Row]:
        """The generation requests that ended, over all its lives."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]

    def until_asked(self, requests: int) -> None:
        """Wait until so many requests have ended."""
        until(lambda: len(self.requests()) >= requests, f"{requests} requests end at {self.url}")


@contextmanager
def supervised(settings: SimSettings, *, count: int = 2) -> Iterator[Sequence[str]]:
    """The addresses of replicas of this process that are started again whenever they have died."""
    with hosted(*[settings] * count) as urls:
        yield urls


@contextmanager
def hosted(*settings: SimSettings) -> Iterator[Sequence[str]]:
    """The addresses of such replicas, each with settings of its own."""
    placed = [msgspec.structs.replace(one, port=free_port()) for one in settings]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Barrier(2)
    thread = threading.Thread(target=_keep, args=(loop, placed, stop, ready))
    thread.start()
    try:
        ready.wait(_END_SECONDS)
        yield [f"http://127.0.0.1:{one.port}" for one in placed]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _keep(
    loop: asyncio.AbstractEventLoop,
    settings: Sequence[SimSettings],
    stop: asyncio.Event,
    ready: threading.Barrier,
) -> None:
    async def one(settings: SimSettings, listening: asyncio.Event) -> None:
        while not stop.is_set():
            await serve(settings, ready=lambda _: listening.set(), stop=stop)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            events = [asyncio.Event() for _ in settings]
            for each, listening in zip(settings, events, strict=True):
                group.create_task(one(each, listening))
            for listening in events:
                await listening.wait()
            ready.wait(_END_SECONDS)

    loop.run_until_complete(all_of_them())
