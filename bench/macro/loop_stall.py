"""Event-loop callbacks, in thread CPU time, while records of 300 KB are scored with 512 requests in flight.

Every callback of asyncio's own loop is timed (uvloop's cannot be hooked); the whole daemon runs in this process.
What runs before the first request (opening the ledger, the first looks at the replica) is told apart.
"""

import asyncio
import logging
import tempfile
import time
from array import array
from asyncio import events
from pathlib import Path

from bench.corpus import long_record, write_lake
from bench.macro.client import write_config
from bench.macro.instant_replica import instant_replica, most_held

_BYTES = 300_000
_IN_FLIGHT = 512
_HELD = "/held/8.0"


def measure(*, count: int = 1500) -> dict[str, object]:
    """Longest callbacks of one `--once` run over `count` records of 300 KB."""
    with tempfile.TemporaryDirectory() as folder, instant_replica() as url:
        root = Path(folder)
        write_lake(root / "lake", [long_record(_BYTES)], copies=count, objects=4)
        figures = _timed(write_config(root, url + _HELD, in_flight=_IN_FLIGHT), count)
        return figures | {"in_flight": most_held(url)}


def _timed(config: Path, count: int) -> dict[str, object]:
    from mira_stream.daemon.config import load_config
    from mira_stream.daemon.run import run_daemon

    longest: list[tuple[float, float, str]] = []
    every = array("d")
    starting: list[float] = []
    original = events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        name = _name(handle)
        original(handle)
        took = time.thread_time() - cpu
        if not every and not name.startswith("task ask"):
            starting.append(took)
            return
        every.append(took)
        if took > 0.001:
            longest.append((took, time.perf_counter() - wall, name))

    logging.disable(logging.CRITICAL)
    settings = load_config(config)
    events.Handle._run = timed  # type: ignore[method-assign]
    try:
        code = asyncio.run(run_daemon(settings, once=True))
    finally:
        events.Handle._run = original  # type: ignore[method-assign]
    assert code == 0
    longest.sort(reverse=True)
    return {
        "records": count,
        "record_bytes": _BYTES,
        "callbacks": len(every),
        "longest_cpu_ms_before_the_first_request": round(max(starting) * 1e3, 2),
        "p99.9_cpu_ms": round(sorted(every)[int(len(every) * 0.999)] * 1e3, 2),
        "longest_cpu_ms": round(longest[0][0] * 1e3, 2) if longest else 0.0,
        "its_wall_ms": round(longest[0][1] * 1e3, 2) if longest else 0.0,
        "over_5_ms": sum(took > 0.005 for took, _, _ in longest),
        "top": [
            f"{took * 1e3:.1f} ms cpu, {wall * 1e3:.1f} ms wall: {name}" for took, wall, name in longest[:5]
        ],
    }


def _name(handle: asyncio.Handle) -> str:
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()}"
    return str(getattr(callback, "__qualname__", type(callback).__name__))
