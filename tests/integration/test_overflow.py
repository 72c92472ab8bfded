"""Nothing is refused for its length: real traces and texts made to mislead, at a replica that counts as Qwen does."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import zstandard
from tokenizers import Tokenizer

from mira_stream.daemon.build import built
from mira_stream.daemon.config import parse_config
from mira_stream.replica.chat_template import load_chat_template
from mira_stream.sim import intake, server
from mira_stream.sim.service import running_sim
from mira_stream.sim.settings import SimSettings
from mira_stream.sim.tokens import Turn
from mira_stream.telemetry import registry as metrics
from tests.fakes.qwen import write_qwen

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
CONTEXT_TOKENS, REPLY_TOKENS = 16_384, 2_048
"""A quarter of the models' context: four times as many real traces are near it, or over it."""
RUN_SECONDS = 150.0
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
PARTS = (0.4, 0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.15, 2.0, 6.0)
"""Lengths of the misleading records, in contexts."""
CONFIG = """
[source]
uri = '{root}/lake'
grow_settle_seconds = 0
[sink]
uri = '{root}/scores'
[ledger]
path = '{root}/ledger.sqlite3'
[request]
max_tokens = {reply}
[[pool]]
group = 'agent/A'
sources = ['*']
replicas = ['{url}']
context_tokens = {context}
{tokenizer}
"""

Count = Callable[[Sequence[Turn]], int]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Warnings of the daemon stay in the test's own output."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen's tokenizer folder."""
    return write_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def counts_as_qwen(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> Count:
    """From now on simulated replicas count conversations with the library and the vocabulary of the real server."""
    tokenizer, template = Tokenizer.from_file(str(qwen / "tokenizer.json")), load_chat_template(qwen, {})

    @lru_cache(maxsize=64)
    def of(texts: tuple[str, ...]) -> int:
        return len(tokenizer.encode(template.render(*texts), add_special_tokens=False).ids)

    def count(turns: Sequence[Turn], *, generation: bool = True) -> int:
        assert generation
        return of(tuple(turn.text for turn in turns))

    def no_more(*_: str) -> int:
        return 0

    def ids(turns: Sequence[Turn], *, generation: bool = True) -> list[int]:
        return [0] * count(turns, generation=generation)

    monkeypatch.setattr(intake, "template_tokens", count)
    monkeypatch.setattr(intake, "count_text", no_more)
    monkeypatch.setattr(server, "encode_chat", ids)
    return count


def misleading() -> Iterator[str]:
    """Texts of which a token has far fewer, or more, characters than usual; prose first, from which the wrong density
    could be learned."""
    chance = random.Random(11)
    code = Path(__file__).read_text("utf-8")
    makers: dict[str, Callable[[int], str]] = {
        "prose": lambda size: "The agent reads the file, and then it runs the tests again. " * (size // 60),
        "cjk": lambda size: "".join(map(chr, chance.choices(range(0x4E00, 0x9FA5), k=size // 5))),
        "chinese": lambda size: "智能体读取了文件，然后再次运行测试。" * (size // 60),
        "base64": lambda size: "".join(chance.choices(LETTERS, k=size // 3)),
        "hex": lambda size: chance.randbytes(size // 7).hex(),
        "minified": lambda size: "".join(code.split()) * (size // len(code) + 1),
        "digits": lambda size: "".join(chance.choices("0123456789", k=size // 4)),
        "emoji": lambda size: "".join(map(chr, chance.choices(range(0x1F300, 0x1F64F), k=size // 12))),
        "blanks": lambda size: "x" + " \n\t" * (size // 3),
        "special": lambda size: "<|im_end|><|im_start|>" * (size // 40),
    }
    for part in PARTS:
        size = int(part * CONTEXT_TOKENS * 4)
        texts = {name: make(size) for name, make in makers.items()}
        yield from texts.values()
        # Thin at both ends and dense in between, and the other way round: what is cut is not like what stays.
        third = size // 3
        yield texts["prose"][:third] + texts["cjk"][:third] + texts["prose"][:third]
        yield texts["base64"][:third] + texts["prose"][:third] + texts["hex"][:third]


def records() -> Iterator[bytes]:
    """The misleading texts as lines of one source."""
    for text in misleading():
        yield json.dumps({"messages": [{"role": "user", "content": text}]}).encode() + b"\n"


def land_misleading(lake: Path) -> int:
    """How many lines there are."""
    lines = list(records())
    (lake / "misleading").mkdir(parents=True)
    (lake / "misleading" / "a.jsonl").write_bytes(b"".join(lines))
    return len(lines)


def played(root: Path, *, tokenizer: Path | None) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows after a run, and the daemon's counts of faults, of miscounted prompts, and of dead letters."""

    async def story() -> Counter[str]:
        sim_settings = SimSettings(
            time_scale=0, max_model_len=CONTEXT_TOKENS, request_log=str(root / "requests.jsonl")
        )
        async with asyncio.timeout(RUN_SECONDS), running_sim(sim_settings) as sim:
            line = "" if tokenizer is None else f"tokenizer = '{tokenizer}'"
            text = CONFIG.format(
                root=root, url=sim.url, context=CONTEXT_TOKENS, reply=REPLY_TOKENS, tokenizer=line
            )
            async with built(parse_config(text, "test"), once=True) as daemon:
                await daemon.pipeline.run()
                return Counter(
                    faults=int(daemon.meters.sum(metrics.REPLICA_FAULTS)),
                    miscounted=int(daemon.meters.sum(metrics.POOL_MISCOUNTED)),
                )

    found = asyncio.run(story())
    files = sorted((root / "scores").rglob("source=*/**/*.jsonl.zst"))
    lines = chain.from_iterable(zstandard.decompress(file.read_bytes()).splitlines() for file in files)
    return [json.loads(line) for line in lines], found


def check_all_fit(root: Path, rows: list[dict[str, Any]], found: Counter[str], *, expected: int) -> None:
    """Every record was sent and scored, none was refused, and prompt and reply together fit the context."""
    assert len(rows) == expected
    assert Counter((row["outcome"], row["reason"]) for row in rows) == {("scored", None): expected}
    requests = [json.loads(line) for line in (root / "requests.jsonl").read_text("utf-8").splitlines()]
    assert Counter((one["status"], one["outcome"]) for one in requests) == {(200, "answered"): len(requests)}
    assert len(requests) >= expected
    assert found["faults"] == 0
    assert max(one["prompt_tokens"] for one in requests) <= CONTEXT_TOKENS - REPLY_TOKENS
    assert sum(row["truncated_tokens"] > 0 for row in rows) > expected / 50


def test_the_replica_refuses_what_is_too_long(counts_as_qwen: Count) -> None:
    """The test's own test: a prompt of one token more than the context gets vLLM's 400 about `input_tokens`."""

    async def story(words: int) -> tuple[int, dict[str, Any]]:
        async with running_sim(SimSettings(time_scale=0, max_model_len=4096)) as sim:
            turns = [{"role": "system", "content": ""}, {"role": "user", "content": " word" * words}]
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{sim.url}/v1/chat/completions", json={"messages": turns}) as answer,
            ):
                return answer.status, await answer.json()

    around = counts_as_qwen([Turn("system", ""), Turn("user", " word" * 100)]) - 100
    status, told = asyncio.run(story(4096 - around - 1))
    assert (status, told["usage"]["prompt_tokens"]) == (200, 4095)
    status, told = asyncio.run(story(4096 - around + 1))
    assert (status, told["error"]["param"]) == (400, "input_tokens")


@pytest.mark.usefixtures("counts_as_qwen")
@pytest.mark.parametrize("exact", [False, True], ids=["estimated", "counted"])
def test_no_misleading_text_is_refused(tmp_path: Path, qwen: Path, *, exact: bool) -> None:
    """CJK, base64, hex, minified code and worse, around the limit and far over it: none is sent too long."""
    lines = land_misleading(tmp_path / "lake")
    rows, found = played(tmp_path, tokenizer=qwen if exact else None)
    check_all_fit(tmp_path, rows, found, expected=lines)
    if exact:
        assert found["miscounted"] == 0


@pytest.mark.skipif(
    not TRACES.is_dir(), reason=f"REAL TRACES ARE ABSENT ({TRACES}): whether any is refused was not tried"
)
@pytest.mark.usefixtures("counts_as_qwen")
@pytest.mark.parametrize("exact", [False, True], ids=["estimated", "counted"])
def test_no_real_trace_is_refused(tmp_path: Path, qwen: Path, *, exact: bool) -> None:
    """All real traces, at a quarter of the context: many are cut, and none is sent too long."""
    (tmp_path / "lake").symlink_to(TRACES)
    rows, found = played(tmp_path, tokenizer=qwen if exact else None)
    check_all_fit(
        tmp_path, rows, found, expected=len((TRACES / "MANIFEST.tsv").read_text("utf-8").splitlines()) - 1
    )
    if exact:
        assert found["miscounted"] == 0
