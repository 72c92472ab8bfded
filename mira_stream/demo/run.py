"""The demo: a lake that grows, two simulated replicas, the daemon, a live view, and an audit at the end."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import zstandard

from mira_stream.core.errors import Refusal
from mira_stream.daemon.status import Status
from mira_stream.demo.lake import LakeObject, lake_objects, land
from mira_stream.demo.processes import started
from mira_stream.demo.view import View

_MARK = ".mira-stream-demo"
_ROUNDS = 8
_RECORDS = 30
_ROUND_SECONDS = 2.0
_DEADLINE_SECONDS = 55.0
_POLL_SECONDS = 0.2
_CONFIG = """\
# Written by `mira-stream demo`; try: mira-stream run --once --config {config}
[source]
uri = "{lake}"
list_seconds = 0.5

[sink]
uri = "{scores}"
roll_records = 200
roll_seconds = 2.0

[ledger]
path = "{ledger}"

[http]
listen = "127.0.0.1:0"

# Small on purpose, so that the demo shows admission at work.
[admission]
kv_tokens = 98_304

[[pool]]
group = "agent/A"
replicas = [{replicas}]
"""


async def run_demo(folder: Path) -> int:
    """Run the demo in `folder` (made anew); the exit code is the audit's. Raises Refusal."""
    folder = _fresh(folder)
    rounds = list(lake_objects(rounds=_ROUNDS, records=_RECORDS))
    _land(folder, rounds[0])
    view = View(sys.stdout)
    view.say(f"lake: {folder / 'lake'}: {len(rounds[0])} objects, more to come")
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(_simulator(folder, number)) for number in (1, 2)]
        urls = [await replica.first_url() for replica in replicas]
        view.say(f"replicas: {', '.join(urls)} (simulated, {' and '.join(str(r.pid) for r in replicas)})")
        config = _write_config(folder, urls)
        daemon = await stack.enter_async_context(
            started("run", "--config", str(config), log=folder / "daemon.log")
        )
        status_url = await daemon.first_url()
        view.say(f"daemon: {status_url}/status.json, /metrics (process {daemon.pid})\n")
        await _follow(folder, rounds, status_url=status_url, view=view)
        view.say("\nall records have an outcome; the daemon publishes the rest and ends (SIGTERM)")
        daemon.terminate()
        code = await daemon.wait(seconds=20)
    if code:
        raise Refusal(f"the daemon ended with code {code}", f"look into {folder / 'daemon.log'}")
    return await _tell_result(folder, config, view)


def _fresh(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise Refusal(f"{folder} is not empty and not a demo's", "choose another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lake").mkdir(parents=True)
    (folder / _MARK).touch()
    return folder.resolve()


def _land(folder: Path, objects: list[LakeObject]) -> None:
    for item in objects:
        land(folder / "lake", item)


def _simulator(folder: Path, number: int) -> "started":
    arguments = ("--port", "0", "--time-scale", "0.05", "--damage-share", "0.08", "--seed", str(number))
    return started("sim", *arguments, log=folder / f"replica-{number}.log")


def _write_config(folder: Path, urls: list[str]) -> Path:
    path = folder / "mira.toml"
    path.write_text(
        _CONFIG.format(
            config=path,
            lake=folder / "lake",
            scores=folder / "scores",
            ledger=folder / "ledger" / "ledger.sqlite",
            replicas=", ".join(json.dumps(url) for url in urls),
        ),
        "utf-8",
    )
    return path


async def _follow(folder: Path, rounds: list[list[LakeObject]], *, status_url: str, view: View) -> None:
    """Land the later rounds while the daemon works, until all their lines have an outcome."""
    landed, lines = 1, sum(item.lines for item in rounds[0])
    began = time.monotonic()
    with view.live():
        async for status in _statuses(status_url, folder / "daemon.log"):
            elapsed = time.monotonic() - began
            if landed < len(rounds) and elapsed >= landed * _ROUND_SECONDS:
                _land(folder, rounds[landed])
                lines += sum(item.lines for item in rounds[landed])
                landed += 1
            view.show(status, landed=landed, lines=lines, elapsed_seconds=elapsed)
            waiting = sum(count for stage, count in status.in_pipeline.items() if stage != "received")
            if landed == len(rounds) and status.read == lines and waiting == 0:
                return
            if elapsed > _DEADLINE_SECONDS:
                raise Refusal(
                    f"only {status.read} of {lines} records were read", f"look into {folder}/daemon.log"
                )


async def _statuses(url: str, log: Path) -> AsyncIterator[Status]:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/status.json") as response:
                    body = await response.read()
            except aiohttp.ClientError as error:
                raise Refusal("the daemon has ended", f"look into {log}") from error
            yield msgspec.json.decode(body, type=Status)
            await asyncio.sleep(_POLL_SECONDS)


async def _tell_result(folder: Path, config: Path, view: View) -> int:
    ended = _last_event(folder / "daemon.log", "ended")
    kinds = ("scored", "dead_lettered", "skipped")
    total = sum(int(str(ended[kind])) for kind in kinds)
    view.say("\noutcomes")
    view.say("  " + " · ".join(f"{ended[kind]} {kind}" for kind in kinds))
    holds = ended["read"] == total and ended["in_pipeline"] == 0
    view.say(
        f"  read = scored + dead_lettered + skipped: {ended['read']} = {total}  {'✓' if holds else '✗ BROKEN'}"
    )
    view.say("\nan example row")
    view.row(_example_row(folder / "scores"))
    view.say("\naudit (mira-stream verify: source against sink, without the ledger)")
    async with started("verify", "--strict", "--config", str(config), log=folder / "verify.log") as audit:
        code = await audit.wait(seconds=30)
    view.say("\n".join(f"  {line}" for line in (folder / "verify.log").read_text("utf-8").splitlines()))
    view.say(f"\nfiles\n  scores  {folder / 'scores'}\n  config  {config}\n  logs    {folder / 'daemon.log'}")
    return code if code or holds else 1


def _last_event(log: Path, name: str) -> dict[str, object]:
    for line in reversed(log.read_text("utf-8").splitlines()):
        if line.startswith("{") and (event := json.loads(line)).get("event") == name:
            assert isinstance(event, dict)
            return event
    raise Refusal(f"the daemon's log has no event {name!r}", f"look into {log}")


def _example_row(scores: Path) -> dict[str, object]:
    for segment in sorted(scores.glob("source=claude_cli/shard=*/*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(segment.read_bytes())
        for line in data.splitlines():
            row = json.loads(line)
            if row["outcome"] == "scored":
                assert isinstance(row, dict)
                return row
    raise Refusal(f"no row of claude_cli was scored in {scores}", "look into daemon.log beside it")
