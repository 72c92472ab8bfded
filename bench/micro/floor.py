"""The floor of the client's CPU: each of its stages alone, over the same records, block by block.

The stages are the product's own functions without what joins them: no channels, no window, no admission, no tasks but
those of the requests in flight, without which there is no POST.
"""

import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import uvloop

from bench.corpus import records, write_lake
from bench.macro.client import write_config
from bench.macro.instant_replica import instant_replica
from mira_stream.control.sealing import RollLimits
from mira_stream.core.decode import decode
from mira_stream.core.outcome import Reason
from mira_stream.core.prompt import neutralise_rendered
from mira_stream.core.record import Line, ObjectVersion, RecordKey
from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.segment import Received
from mira_stream.core.trace import Rendered, render
from mira_stream.core.usage import Reply
from mira_stream.daemon.config import load_config
from mira_stream.daemon.pools import plan_pools
from mira_stream.ledger.settings import LedgerSettings
from mira_stream.ledger.sqlite import SqliteLedger
from mira_stream.pipeline.draft import Prompting
from mira_stream.pipeline.rows import Answer, Fingerprints, RowMaker, Subject
from mira_stream.replica.tokenizer import Tokenizer
from mira_stream.replica.vllm import VllmReplica, open_session
from mira_stream.sink.format import encode_segment
from mira_stream.source.codec import Decoder
from mira_stream.source.lines import LineFramer
from tests.fakes.qwen import write_qwen

STAGES = ("decompress", "frame", "decode", "render", "count", "build", "post", "parse", "ledger", "row")
_BLOCK = 64
"""Records that a stage does in one go, all of them in flight at once where they are sent."""
_LINE_BYTES_MAX = 64 << 20
_READ_BYTES = 1 << 20
_ROLL_BYTES = 1 << 30
_SEGMENT_LEVEL = 3
_FINGERPRINTS = Fingerprints("0" * 32, "0" * 32)


def measure() -> dict[str, object]:
    """All stages over one copy of the records, µs per record."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_lake(root / "lake", records(), copies=1, objects=8)
        tokenizer = write_qwen(root / "tokenizer")
        with instant_replica() as url:
            stages = stages_us(write_config(root, url, tokenizer=tokenizer), root / "lake", root)
    return {**{name: round(cost, 1) for name, cost in stages.items()}, "sum": round(sum(stages.values()), 1)}


def stages_us(config: Path, lake: Path, folder: Path) -> dict[str, float]:
    """µs of CPU (user + system) per record of each stage, as `config` asks; the ledger is written to `folder`."""
    return uvloop.run(_Floor(config).measured(lake, folder))


class _Floor:
    def __init__(self, config: Path) -> None:
        (plan,) = plan_pools(load_config(config))
        assert plan.tokenizer is not None, "the floor counts exactly"
        self._prompting: Prompting = plan.prompting
        self._url = plan.replicas[0]
        self._tokenizer = Tokenizer(plan.tokenizer.file, library="gigatoken")
        self._rows = RowMaker(shards=1, now=lambda: "2026-01-01T00:00:00.000000Z", keep_reply=False)
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self._seconds[stage] += time.process_time() - began

    async def measured(self, lake: Path, folder: Path) -> dict[str, float]:
        count = 0
        shutil.rmtree(folder / "floor", ignore_errors=True)
        ledger = SqliteLedger.open(
            folder / "floor" / "ledger.sqlite3",
            sink_uri="floor",
            settings=LedgerSettings(path=""),
            roll=RollLimits(1 << 30, _ROLL_BYTES),
            on_overwrite="first",
            clock=time.monotonic,
        )
        async with open_session() as session:
            replica = VllmReplica(self._url, session)
            await replica.models()
            for file in sorted(lake.rglob("*.zst")):
                version = ObjectVersion(file.as_uri(), "0" * 32)
                lines = iter(self._lines(file))
                while block := list(islice(lines, _BLOCK)):
                    count += len(block)
                    await self._block(version, block, replica, ledger)
        await self._publish(ledger)
        await ledger.close()
        return {stage: self._seconds[stage] / count * 1e6 for stage in STAGES}

    def _lines(self, file: Path) -> list[Line]:
        data = file.read_bytes()
        decoder, framer = Decoder(), LineFramer(_LINE_BYTES_MAX)
        with self._timed("decompress"):
            pieces = [
                piece
                for start in range(0, len(data), _READ_BYTES)
                for piece in decoder.feed(data[start : start + _READ_BYTES])
            ]
            pieces += decoder.finish()
        with self._timed("frame"):
            lines = [line for piece in pieces for batch in framer.feed(piece) for line in batch]
            return lines + framer.finish()

    async def _block(
        self, version: ObjectVersion, lines: list[Line], replica: VllmReplica, ledger: SqliteLedger
    ) -> None:
        texts = self._texts(lines)
        with self._timed("count"):
            for text in texts:
                self._tokenizer.encode(text.encode())
        template, encoder = self._prompting.template, self._prompting.encoder
        with self._timed("build"):
            bodies = [encoder.encode_chat(*template.messages(text)) for text in texts]
        with self._timed("post"):
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(replica.ask(body, timeout_seconds=60)) for body in bodies]
        replies = [task.result() for task in asked]
        with self._timed("parse"):
            parsed = [parse(reply.text, reply.finish_reason, self._prompting.slots) for reply in replies]
        with self._timed("row"):
            rows = [
                self._row(RecordKey(version, line.ordinal), reply, said)
                for line, reply, said in zip(lines, replies, parsed, strict=True)
            ]
        with self._timed("ledger"):
            await ledger.receive(rows)

    def _texts(self, lines: Sequence[Line]) -> list[str]:
        with self._timed("decode"):
            records = [decode(line.raw, first=line.ordinal == 0) for line in lines]
        with self._timed("render"):
            return [self._text(record) for record in records]

    def _text(self, record: dict[str, object] | Reason) -> str:
        assert not isinstance(record, Reason), record
        rendered = render(record)
        assert isinstance(rendered, Rendered), rendered
        return neutralise_rendered(rendered.text, rendered.turns, self._prompting.special)[0]

    def _row(self, key: RecordKey, reply: Reply, parsed: ParsedReply) -> Received:
        subject = Subject(key=key, source="claude_cli", group=self._prompting.group, shape="openai_messages")
        answer = Answer(fingerprints=_FINGERPRINTS, attempts=1, replica=self._url, reply=reply, parsed=parsed)
        return self._rows.answered(subject, answer, None)

    async def _publish(self, ledger: SqliteLedger) -> None:
        for partition in [backlog.partition for backlog in await ledger.backlogs()]:
            with self._timed("ledger"):
                plan = await ledger.seal(partition)
            assert plan is not None
            with self._timed("row"):
                encode_segment(plan, level=_SEGMENT_LEVEL)
            with self._timed("ledger"):
                await ledger.advance(plan)
