"""The daemon's life in one process: a real folder, a simulated replica, HTTP, signals, systemd's socket."""

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import structlog
import zstandard

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import Config, parse_config
from mira_stream.daemon.run import run_daemon
from mira_stream.sim.service import running_sim
from mira_stream.sim.settings import SimSettings

QUICK = SimSettings(time_scale=0)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """The daemon sets up the logs of its process."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(root: Path, url: str, *, port: int = 0, more: str = "") -> Config:
    (root / "lake" / "claude_cli").mkdir(parents=True, exist_ok=True)
    return parse_config(
        f"""
[source]
uri = '{root}/lake'
list_seconds = 0.05
grow_settle_seconds = 0
[sink]
uri = '{root}/scores'
roll_seconds = 0.1
[ledger]
path = '{root}/ledger.sqlite3'
[http]
listen = '127.0.0.1:{port}'
[service]
drain_seconds = 5
cancel_seconds = 5
[log]
level = 'error'
[[pool]]
group = 'agent/A'
replicas = ['{url}']
{more}
""",
        "test",
    )


def _land(root: Path, name: str, lines: int) -> None:
    """An object appears in the lake, complete."""
    record = json.dumps({"messages": [{"role": "user", "content": f"do {name}"}]})
    target = root / "lake" / "claude_cli" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(f"{record}\n" * lines)
    temporary.rename(target)


def _ends(root: Path) -> Counter[str]:
    """How the published records ended; each is there once."""
    rows = [
        json.loads(line)
        for file in (root / "scores").rglob("source=*/**/*.jsonl.zst")
        for line in zstandard.decompress(file.read_bytes()).splitlines()
    ]
    assert len({row["record_id"] for row in rows}) == len(rows)
    return Counter(row["reason"] or row["outcome"] for row in rows)


def test_a_single_run_scores_the_folder_and_exits_0(tmp_path: Path) -> None:
    """And a second one finds nothing to do."""

    async def story() -> list[int]:
        async with asyncio.timeout(30), running_sim(QUICK) as sim:
            config = _config(tmp_path, sim.url)
            _land(tmp_path, "a.jsonl", 5)
            _land(tmp_path, "b.jsonl", 3)
            codes = [await run_daemon(config, once=True), await run_daemon(config, once=True)]
            assert sim.stats.requests == 8
            return codes

    assert asyncio.run(story()) == [0, 0]
    assert _ends(tmp_path) == Counter(scored=8)


def test_wrong_settings_end_a_single_run_with_1_and_no_dead_letter(tmp_path: Path) -> None:
    """Every request is a 400: nothing is blamed, nothing is published, and a corrected run scores everything."""

    async def story(settings: SimSettings) -> int:
        async with asyncio.timeout(30), running_sim(settings) as sim:
            return await run_daemon(_config(tmp_path, sim.url), once=True)

    _land(tmp_path, "a.jsonl", 4)
    assert asyncio.run(story(SimSettings(time_scale=0, faults=("400@all",)))) == 1
    assert _ends(tmp_path) == Counter()
    assert asyncio.run(story(QUICK)) == 0
    assert _ends(tmp_path) == Counter(scored=4)


def test_following_tells_systemd_and_http_and_ends_on_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """READY after the first listing page, a status that is true, STOPPING at the signal; all is published at the end."""
    address = str(tmp_path / "notify")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(address)
    systemd.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    async def story() -> int:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30), running_sim(QUICK) as sim:
            _land(tmp_path, "a.jsonl", 5)
            async with asyncio.TaskGroup() as group:
                life = group.create_task(run_daemon(_config(tmp_path, sim.url, port=port), once=False))
                while await loop.sock_recv(systemd, 4096) != b"READY=1":
                    pass
                await sim.reached(5)
                _land(tmp_path, "b.jsonl", 2)
                await sim.reached(7)
                await _look(f"http://127.0.0.1:{port}")
                os.kill(os.getpid(), signal.SIGTERM)
                while await loop.sock_recv(systemd, 4096) != b"STOPPING=1":
                    pass
            return life.result()

    try:
        assert asyncio.run(story()) == 0
    finally:
        systemd.close()
    assert _ends(tmp_path) == Counter(scored=7)


async def _look(url: str) -> None:
    """What the endpoints say of a running daemon; the identity holds in the status and in the metrics."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/readyz") as response:
            assert response.status == 200
        async with session.get(f"{url}/status.json") as response:
            status = await response.json()
        async with session.get(f"{url}/metrics") as response:
            text = await response.text()
    assert status["state"] == "running"
    assert status["read"] == sum(status["outcomes"].values()) + sum(status["in_pipeline"].values()) == 7
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in samples}
    ended = sum(value for name, value in values.items() if name.startswith("mira_stream_records_ended_total"))
    inside = sum(
        value for name, value in values.items() if name.startswith("mira_stream_records_in_pipeline")
    )
    assert values["mira_stream_records_read_total"] == ended + inside == 7


def test_a_second_signal_gives_up_a_replica_that_hangs(tmp_path: Path) -> None:
    """The process ends although its requests never would; the next run scores the records."""

    async def story() -> int:
        async with asyncio.timeout(30), running_sim(SimSettings(time_scale=0, faults=("hang@all",))) as sim:
            _land(tmp_path, "a.jsonl", 3)
            async with asyncio.TaskGroup() as group:
                life = group.create_task(run_daemon(_config(tmp_path, sim.url), once=True))
                await sim.reached(3)
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
            return life.result()

    assert asyncio.run(story()) == 0
    assert _ends(tmp_path) == Counter()

    async def again() -> int:
        async with asyncio.timeout(30), running_sim(QUICK) as sim:
            return await run_daemon(_config(tmp_path, sim.url), once=True)

    assert asyncio.run(again()) == 0
    assert _ends(tmp_path) == Counter(scored=3)


def test_two_daemons_on_one_ledger_are_refused(tmp_path: Path) -> None:
    """The second one says who holds it, and the first goes on."""

    async def story() -> int:
        async with asyncio.timeout(30), running_sim(QUICK) as sim:
            config = _config(tmp_path, sim.url)
            _land(tmp_path, "a.jsonl", 2)
            async with asyncio.TaskGroup() as group:
                life = group.create_task(run_daemon(config, once=False))
                await sim.reached(2)
                with pytest.raises(Refusal, match="another daemon holds"):
                    await run_daemon(config, once=True)
                os.kill(os.getpid(), signal.SIGTERM)
            return life.result()

    assert asyncio.run(story()) == 0
    assert _ends(tmp_path) == Counter(scored=2)
