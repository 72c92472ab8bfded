"""`mira-stream check` over real sockets: what is wrong is found before a record is scored, in words that say what to do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from mira_stream.core.errors import Refusal
from mira_stream.daemon.check import Finding, Report, Verdict, check_all
from mira_stream.daemon.config import Config, parse_config
from mira_stream.sim.service import running_sim
from mira_stream.sim.settings import SimSettings
from tests.fakes.ledgers import open_ledger
from tests.fakes.scripted_replica import GOOD

MODEL = "whw06/MIRA-Agent-Group1"


def _config(root: Path, *urls: str, more: str = "") -> Config:
    (root / "lake").mkdir(exist_ok=True)
    replicas = ", ".join(f"'{url}'" for url in urls or ("http://127.0.0.1:9",))
    return parse_config(
        f"""
[source]
uri = '{root}/lake'
[sink]
uri = '{root}/scores'
[ledger]
path = '{root}/ledger.sqlite3'
[[pool]]
group = 'agent/A'
replicas = [{replicas}]
{more}
""",
        "test",
    )


def _findings(report: Report) -> dict[str, Finding]:
    return {finding.what.split(" http")[0]: finding for finding in report.findings}


@asynccontextmanager
async def _server(answers: dict[str, tuple[int, object]]) -> AsyncIterator[str]:
    """A server that answers each path with one thing."""

    async def answer(request: web.Request) -> web.Response:
        status, body = answers.get(request.path, (404, {"error": {"message": "not found"}}))
        return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")

    runner = web.ServerRunner(web.Server(answer), handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _models(model: str = MODEL, length: int = 65_536) -> tuple[int, object]:
    return 200, {"object": "list", "data": [{"id": model, "max_model_len": length}]}


def _completion(text: str) -> tuple[int, object]:
    return 200, {
        "model": MODEL,
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }


def test_a_house_in_order_passes(tmp_path: Path) -> None:
    """Rubric, ledger, stores and a replica that scores the canned record; the uncalibrated texts are said."""

    async def story() -> Report:
        async with running_sim(SimSettings(time_scale=0)) as sim:
            return await check_all(_config(tmp_path, sim.url), offline=False)

    report = asyncio.run(story())
    assert report.passed, report.lines()
    found = _findings(report)
    assert "15 slots" in found["rubric of agent/A"].says
    assert found["calibration"].verdict is Verdict.NOTE
    assert "0 outcomes wait" in found["ledger"].says
    assert "scored the canned record" in found["replica"].says
    assert report.lines()[-1] == "all is well"


def test_offline_needs_neither_stores_nor_replicas(tmp_path: Path) -> None:
    """The unit runs it before the start, while replicas may still be loading."""
    report = asyncio.run(check_all(_config(tmp_path), offline=True))
    assert report.passed
    assert set(_findings(report)) == {
        "rubric of agent/A",
        "gates of admission",
        "tokens of agent/A",
        "calibration",
        "ledger",
    }


@pytest.mark.parametrize(
    ("answers", "verdict", "says"),
    [
        ({"/v1/models": _models("other")}, Verdict.FAILED, f"it serves other, not {MODEL}"),
        ({"/v1/models": _models(length=4096)}, Verdict.FAILED, "its max_model_len is 4096"),
        ({"/v1/models": (401, {"error": {"message": "no key"}})}, Verdict.FAILED, "401"),
        ({"/v1/models": (200, "nonsense")}, Verdict.FAILED, "list of models"),
        (
            {
                "/v1/models": _models(),
                "/v1/chat/completions": (400, {"error": {"message": "top_p is wrong"}}),
            },
            Verdict.FAILED,
            "top_p is wrong",
        ),
        (
            {"/v1/models": _models(), "/v1/chat/completions": _completion("no scores")},
            Verdict.NOTE,
            "its reply lacks",
        ),
        (
            {"/v1/models": _models(), "/v1/chat/completions": _completion(GOOD)},
            Verdict.OK,
            "scored the canned record",
        ),
    ],
)
def test_a_replica_that_cannot_score_is_found(
    tmp_path: Path, answers: dict[str, tuple[int, object]], verdict: Verdict, says: str
) -> None:
    """Another model, a shorter context, a wrong key or setting: failed, with what the server said. A damaged reply is
    only a note."""

    async def story() -> Report:
        async with _server(answers) as url:
            return await check_all(_config(tmp_path, url), offline=False)

    report = asyncio.run(story())
    found = _findings(report)["replica"]
    assert found.verdict is verdict
    assert says in found.says
    assert bool(found.hint) == (verdict is not Verdict.OK)
    assert report.passed == (verdict is not Verdict.FAILED)


def test_an_absent_replica_is_found_and_the_others_are_still_looked_at(tmp_path: Path) -> None:
    """One finding each."""

    async def story() -> Report:
        async with running_sim(SimSettings(time_scale=0)) as sim:
            return await check_all(_config(tmp_path, "http://127.0.0.1:9", sim.url), offline=False)

    report = asyncio.run(story())
    verdicts = [one.verdict for one in report.findings if one.what.startswith("replica")]
    assert verdicts == [Verdict.FAILED, Verdict.OK]
    assert report.lines()[-1] == "not ready: see what failed above"


def test_a_ledger_in_use_is_found(tmp_path: Path) -> None:
    """Another daemon holds it."""

    async def story() -> Report:
        config = _config(tmp_path)
        held = open_ledger(tmp_path / "ledger.sqlite3", sink_uri=f"file://{tmp_path}/scores")
        try:
            return await check_all(config, offline=True)
        finally:
            await held.close()

    found = _findings(asyncio.run(story()))["ledger"]
    assert found.verdict is Verdict.FAILED
    assert "another daemon holds" in found.says
    assert found.hint


def test_a_layout_that_disagrees_is_found(tmp_path: Path) -> None:
    """The sink was laid out with other shards: records would be scored twice."""

    async def story() -> tuple[Report, Report]:
        before = await check_all(_config(tmp_path), offline=False)
        sharded = msgspec.structs.replace(
            _config(tmp_path), sink=msgspec.structs.replace(_config(tmp_path).sink, shards=4)
        )
        return before, await check_all(sharded, offline=False)

    before, after = (_findings(report)["stores"] for report in asyncio.run(story()))
    assert before.verdict is Verdict.OK
    assert after.verdict is Verdict.FAILED
    assert "sink.shards" in after.says
    assert "empty prefix" in after.hint


def test_a_sink_inside_the_source_is_refused(tmp_path: Path) -> None:
    """The daemon would score its own output."""
    config = _config(tmp_path)
    inside = msgspec.structs.replace(
        config, sink=msgspec.structs.replace(config.sink, uri=f"{tmp_path}/lake/scores")
    )
    with pytest.raises(Refusal, match="lie inside each other"):
        asyncio.run(check_all(inside, offline=True))
