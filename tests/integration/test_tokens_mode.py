"""Token ids instead of messages, and exact counts beside messages: the whole daemon against a simulated replica."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import zstandard

from mira_stream.core.errors import Refusal
from mira_stream.daemon.build import built
from mira_stream.daemon.config import Config, parse_config
from mira_stream.daemon.pools import plan_pools
from mira_stream.sim.service import running_sim
from mira_stream.sim.settings import SimSettings
from mira_stream.telemetry import registry as metrics
from tests.fakes.qwen import write_simulated

CONFIG = """
[source]
uri = '{root}/lake'
grow_settle_seconds = 0
[sink]
uri = '{root}/scores'
[ledger]
path = '{root}/ledger.sqlite3'
[request]
mode = '{mode}'
[[pool]]
group = 'agent/A'
replicas = ['{url}']
context_tokens = {context}
tokenizer = '{root}/model'
"""


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Warnings of the daemon stay in the test's own output."""
    yield
    structlog.reset_defaults()


def _config(root: Path, url: str, *, mode: str, context: int = 65_536) -> Config:
    write_simulated(root / "model")
    return parse_config(CONFIG.format(root=root, url=url, mode=mode, context=context), "test")


def _land(root: Path, *records: str) -> None:
    folder = root / "lake" / "claude_cli"
    folder.mkdir(parents=True)
    lines = [json.dumps({"messages": [{"role": "user", "content": text}]}) for text in records]
    (folder / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _rows(root: Path) -> list[dict[str, Any]]:
    files = (root / "scores").rglob("source=*/**/*.jsonl.zst")
    return [
        json.loads(line) for file in files for line in zstandard.decompress(file.read_bytes()).splitlines()
    ]


def _played(root: Path, settings: SimSettings, **more: Any) -> tuple[float, float]:
    async def story() -> tuple[float, float]:
        async with asyncio.timeout(40), running_sim(settings) as sim:
            config = _config(root, sim.url, **more)
            async with built(config, once=True) as daemon:
                await daemon.pipeline.run()
                return daemon.meters.sum(metrics.POOL_MISCOUNTED), daemon.meters.sum(metrics.POOL_REASKS)

    return asyncio.run(story())


def test_token_ids_are_scored_like_messages(tmp_path: Path) -> None:
    """Every record gets its row; prompts are counted as the replica counts them; re-asks keep to token ids."""
    log = tmp_path / "requests.jsonl"
    settings = SimSettings(time_scale=0, request_log=str(log), damage_share=0.4)
    _land(tmp_path, *(f"do {n} <|im_end|> 你好" for n in range(12)))
    miscounted, reasks = _played(tmp_path, settings, mode="tokens")
    rows = _rows(tmp_path)
    assert Counter(row["record_id"] for row in rows).most_common(1)[0][1] == 1
    assert len(rows) == 12
    assert miscounted == 0
    assert reasks > 0
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    assert {request["path"] for request in requests} == {"/v1/completions"}
    assert {row["prompt_tokens"] for row in rows} <= {request["prompt_tokens"] for request in requests}


def test_a_record_too_long_is_cut_until_it_just_fits(tmp_path: Path) -> None:
    """By exact count: within the limit, and most of the room is used."""
    _land(tmp_path, "\n".join(f"step {n} of many" for n in range(20_000)))
    miscounted, _ = _played(tmp_path, SimSettings(time_scale=0), mode="tokens", context=32_768)
    (row,) = _rows(tmp_path)
    assert row["outcome"] == "scored"
    assert row["truncated_tokens"] > 200_000
    limit = 32_768 - 2048
    assert 0.8 * limit < row["prompt_tokens"] <= limit
    assert miscounted == 0


def test_the_wrong_tokenizer_is_noticed_and_given_up(tmp_path: Path) -> None:
    """The replica counts otherwise: said once, measured, and after a few records the estimate takes over."""
    _land(tmp_path, *(f"do {n}" for n in range(40)))
    miscounted, _ = _played(tmp_path, SimSettings(time_scale=0), mode="chat")
    assert Counter(row["outcome"] for row in _rows(tmp_path)) == Counter(scored=40)
    assert miscounted >= 8


def test_token_ids_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    """Said before anything is opened, with what to do."""
    config = CONFIG.format(root=tmp_path, url="http://one", mode="tokens", context=4096)
    with pytest.raises(Refusal, match="there is no tokenizer at"):
        plan_pools(parse_config(config, "test"))
    without = "\n".join(line for line in config.splitlines() if not line.startswith("tokenizer"))
    with pytest.raises(Refusal, match=r'mode = "tokens" needs a tokenizer in the \[\[pool\]\] of agent/A'):
        plan_pools(parse_config(without, "test"))
