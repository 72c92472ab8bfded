"""The longest event-loop callback, in thread CPU time, while records of 300 KB are scored.

Every callback of asyncio's own loop is timed (uvloop's cannot be hooked); the whole daemon runs in this process.
"""

import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from asyncio import events
from pathlib import Path

from bench.corpus import long_record, write_lake
from bench.macro.end_to_end import _CONFIG

_BYTES = 300_000


def measure(*, count: int = 200) -> dict[str, object]:
    """Longest callbacks of one `--once` run over `count` records of 300 KB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_lake(root / "lake", [long_record(_BYTES)], copies=count, objects=4)
        replica = subprocess.Popen(
            [sys.executable, "-m", "bench.macro.instant_replica"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert replica.stdout is not None
            url = replica.stdout.readline().strip()
            (root / "mira.toml").write_text(_CONFIG.format(root=root, url=url), "utf-8")
            return _timed(root / "mira.toml", count)
        finally:
            replica.terminate()
            replica.wait()


def _timed(config: Path, count: int) -> dict[str, object]:
    from mira_stream.daemon.config import load_config
    from mira_stream.daemon.run import run_daemon

    longest: list[tuple[float, float, str]] = []
    callbacks = 0
    original = events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        nonlocal callbacks
        cpu, wall = time.thread_time(), time.perf_counter()
        name = _name(handle)
        original(handle)
        callbacks += 1
        took = time.thread_time() - cpu
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
        "callbacks": callbacks,
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
