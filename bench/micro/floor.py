"""Each stage of a record's way measured alone, on the records of `end_to_end`: the floor of what one can hope for.

`python -m bench.micro.floor` runs it alone. CPU of the whole process (user and system), µs a record, best of three.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from bench.corpus import records, write_lake
from bench.macro.instant_replica import MODEL
from mira_stream.core.decode import decode
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.segment import Received
from mira_stream.core.tokens import raw_tokens
from mira_stream.core.trace import Rendered, render
from mira_stream.core.usage import Reply
from mira_stream.daemon.config import parse_config
from mira_stream.daemon.lake import make_source, open_ledger, open_stores
from mira_stream.daemon.pools import plan_pools
from mira_stream.pipeline.draft import Prompting
from mira_stream.pipeline.rows import Answer, Fingerprints, RowMaker, Subject
from mira_stream.replica.vllm import VllmReplica, open_session
from mira_stream.sink.format import encode_segment
from mira_stream.telemetry.meters import Meters

_ROUNDS = 3
_IN_FLIGHT = 64
_GROUP = 64
_CONFIG = """
[source]
uri = "{root}/lake"
grow_settle_seconds = 0
[sink]
uri = "{root}/scores"
[ledger]
path = "{root}/ledger/ledger.sqlite3"
[[pool]]
group = "agent/A"
sources = ["*"]
replicas = ["http://localhost:8000"]
"""


def measure() -> dict[str, object]:
    """All stages, and their sum."""
    lines = [line for line in records() if isinstance(decode(line, first=False), dict)]
    replica = subprocess.Popen(
        [sys.executable, "-m", "bench.macro.instant_replica"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert replica.stdout is not None
        url = replica.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            stages = asyncio.run(_stages(Path(folder), lines, url))
    finally:
        replica.terminate()
        replica.wait()
    figures: dict[str, object] = {f"{name}, µs": round(cost, 1) for name, cost in stages.items()}
    figures["sum, µs"] = round(sum(stages.values()), 1)
    return figures


async def _stages(root: Path, lines: list[bytes], url: str) -> dict[str, float]:
    write_lake(root / "lake", lines, copies=1, objects=8)
    config = parse_config(_CONFIG.format(root=root), "the bench")
    prompting = plan_pools(config)[0].prompting
    decoded = [record for line in lines if isinstance(record := decode(line, first=False), dict)]
    texts = [one.text for record in decoded if isinstance(one := render(record), Rendered)]
    bodies = [_body(prompting, text) for text in texts]
    replies = await _ask(url, bodies)
    parsed = [parse(reply.text, reply.finish_reason) for reply in replies]
    rows = _rows(replies, parsed)

    async def read() -> None:
        await _read(config_source(config))

    async def post() -> None:
        await _ask(url, bodies)

    async def store() -> None:
        await _store(config, root, rows)

    costs: dict[str, Callable[[], Awaitable[None]] | Callable[[], object]] = {
        "decompress and frame": read,
        "decode": lambda: _each(lambda line: decode(line, first=False), lines),
        "render": lambda: _each(render, decoded),
        "count (estimate)": lambda: _each(raw_tokens, texts),
        "build": lambda: _each(lambda text: _body(prompting, text), texts),
        "POST": post,
        "parse": lambda: [parse(reply.text, reply.finish_reason) for reply in replies],
        "row": lambda: _rows(replies, parsed),
        "ledger, seal and publish": store,
    }
    return {name: await _best(work) / len(lines) * 1e6 for name, work in costs.items()}


async def _best(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        done = work()
        if isinstance(done, Awaitable):
            await done
        best = min(best, time.process_time() - began)
    return best


def _each(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """One after the other, nothing kept: a record's memory is that of the one before it, as in a stream."""
    for item in items:
        work(item)


def _body(prompting: Prompting, text: str) -> bytes:
    return prompting.encoder.encode_chat(*prompting.template.messages(text))


def config_source(config: object) -> object:
    meters = Meters()
    return make_source(config, open_stores(config, meters).source, meters)  # type: ignore[arg-type]


async def _read(source: object) -> None:
    async for page in source.discover(known=lambda _: None):  # type: ignore[attr-defined]
        for seen in page:
            async for _ in source.read(seen.version, once=True):  # type: ignore[attr-defined]
                pass
    source.close()  # type: ignore[attr-defined]


async def _ask(url: str, bodies: list[bytes]) -> list[Reply]:
    replies: list[Reply] = []
    waiting = iter(bodies)
    async with open_session() as session:
        replica = VllmReplica(url, session)

        async def asker() -> None:
            for body in waiting:
                replies.append(await replica.ask(body, timeout_seconds=60))

        async with asyncio.TaskGroup() as group:
            for _ in range(_IN_FLIGHT):
                group.create_task(asker())
    return replies


def _rows(replies: list[Reply], parsed: list[ParsedReply]) -> list[Received]:
    maker = RowMaker(shards=1, now=lambda: "2026-01-01T00:00:00.000Z", keep_reply=False)
    version = ObjectVersion("file:///lake/a.jsonl", "e" * 32)
    fingerprints = Fingerprints("r" * 32, "p" * 32)
    return [
        maker.answered(
            Subject(key=RecordKey(version, ordinal), source="claude_cli", group="agent/A", shape="messages"),
            Answer(
                fingerprints=fingerprints, attempts=1, replica="http://gpu-1:8000", reply=reply, parsed=told
            ),
            None,
        )
        for ordinal, (reply, told) in enumerate(zip(replies, parsed, strict=True))
    ]


async def _store(config: object, root: Path, rows: list[Received]) -> None:
    """Received in groups, sealed, and written as one segment, as when nothing else is to be done."""
    shutil.rmtree(root / "ledger", ignore_errors=True)
    ledger = open_ledger(config, "file:///scores")  # type: ignore[arg-type]
    for start in range(0, len(rows), _GROUP):
        await ledger.receive(rows[start : start + _GROUP])
    plan = await ledger.seal(rows[0].partition)
    assert plan is not None
    encode_segment(plan, level=3)
    await ledger.advance(plan)
    await ledger.close()


if __name__ == "__main__":
    assert MODEL
    assert Reason.BLANK
    print(json.dumps(measure(), indent=2))
