"""Several simulated replicas in one process: `python -m bench.macro.sim_host` with their settings as JSON on stdin."""

import asyncio
import signal
import sys
import time

import msgspec

from mira_stream.sim.service import serve
from mira_stream.sim.settings import SimSettings


class Ready(msgspec.Struct, frozen=True):
    """The one line on stdout: where they listen, and when they began, seconds since the epoch."""

    urls: list[str]
    began: float


async def host(replicas: list[SimSettings]) -> None:
    """Serve all of them until SIGTERM, which ends them as it ends vLLM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    began, up = time.time(), [asyncio.get_running_loop().create_future() for _ in replicas]
    async with asyncio.TaskGroup() as group:
        for settings, listening in zip(replicas, up, strict=True):
            group.create_task(serve(settings, ready=listening.set_result, stop=stop))
        urls = [await listening for listening in up]
        sys.stdout.write(msgspec.json.encode(Ready(urls, began)).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(host(msgspec.json.decode(sys.stdin.buffer.read(), type=list[SimSettings])))
