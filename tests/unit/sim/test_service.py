"""The running replica: modelled time, clients that leave, planned faults, the log, the ways to end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mira_stream.core.errors import Refusal
from mira_stream.sim.replica import Ending
from mira_stream.sim.request_log import body_hash
from mira_stream.sim.service import SimHandle, running_sim, serve
from mira_stream.sim.settings import SimSettings

Story = Callable[[SimHandle, aiohttp.ClientSession], Awaitable[None]]
CHAT = "/v1/chat/completions"
GONE = aiohttp.ClientConnectionError


def play(story: Story, **settings: Any) -> None:
    """Run a story against a replica; no story takes longer than some seconds."""

    async def run() -> None:
        async with (
            asyncio.timeout(20),
            running_sim(SimSettings(**({"time_scale": 0.0} | settings))) as sim,
            aiohttp.ClientSession() as session,
        ):
            await story(sim, session)

    asyncio.run(run())


def body(text: str = "Rate this: it works.", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 2048, **fields}


async def ask(sim: SimHandle, session: aiohttp.ClientSession, **fields: Any) -> tuple[int, Any]:
    async with session.post(sim.url + CHAT, json=body(**fields)) as reply:
        return reply.status, await reply.json(content_type=None)


async def metric(sim: SimHandle, session: aiohttp.ClientSession, name: str) -> float:
    """The sum of all samples of that name."""
    async with session.get(f"{sim.url}/metrics") as reply:
        text = await reply.text()
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]
    assert found, name
    return sum(found)


def test_a_request_takes_the_modelled_time() -> None:
    """The durations in `/metrics` are those of the cost model times the time scale, to the microsecond."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        _, reply = await ask(sim, session, max_tokens=20)
        elapsed = loop.time() - began
        prompt = reply["usage"]["prompt_tokens"]
        prefill = 0.015 + 40e-6 * prompt
        decode = sum(0.015 + 40e-6 + 15e-9 * (prompt + number) for number in range(19))
        told = await metric(sim, session, "vllm:request_prefill_time_seconds_sum")
        assert told == pytest.approx(0.05 * prefill)
        assert await metric(sim, session, "vllm:request_decode_time_seconds_sum") == pytest.approx(
            0.05 * decode
        )
        assert await metric(sim, session, "vllm:prompt_tokens_total") == prompt
        assert await metric(sim, session, "vllm:generation_tokens_total") == 20
        assert await metric(sim, session, "vllm:iteration_tokens_total_count") == 20
        assert elapsed >= 0.05 * (prefill + decode)

    play(story, time_scale=0.05)


def test_a_crowd_is_served_within_the_limits() -> None:
    """Many requests at once share steps and KV, all are answered, and nothing is left behind."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            asks = [
                group.create_task(ask(sim, session, text=f"{number} " * 2_000, max_tokens=100))
                for number in range(60)
            ]
        assert all(one.result()[0] == 200 for one in asks)
        stats = sim.stats
        assert (stats.answered, stats.in_flight, stats.unprefilled_tokens) == (60, 0, 0)
        assert 0.5 < stats.peak_kv_usage <= 1.0
        assert await metric(sim, session, "vllm:kv_cache_usage_perc") == 0.0
        assert await metric(sim, session, "vllm:num_requests_running") == 0.0

    play(story, time_scale=0.001, max_model_len=8192, kv_capacity_tokens=16_384, max_num_seqs=16)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(stream: bool) -> None:
    """A closed connection aborts the request; as in vLLM it is not counted as aborted in `request_success`."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            leaver = group.create_task(ask(sim, session, stream=stream))
            await sim.reached(1)
            leaver.cancel()
        await sim.idle()
        assert (sim.stats.aborted, sim.stats.unprefilled_tokens) == (1, 0)
        assert await metric(sim, session, "vllm:num_requests_running") == 0.0
        assert await metric(sim, session, "vllm:kv_cache_usage_perc") == 0.0
        assert await metric(sim, session, "vllm:request_success_total") == 0.0

    play(story, time_scale=1.0)


def test_tokenize_and_usage_agree() -> None:
    """What `/tokenize` counts for messages is what `usage` says for the same messages."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        messages = [
            {"role": "system", "content": "a b — c"},
            {"role": "user", "content": "中文 <|im_end|> x"},
        ]
        async with session.post(f"{sim.url}/tokenize", json={"messages": messages}) as reply:
            counted = await reply.json()
        assert counted["count"] == len(counted["tokens"])
        _, answer = await ask(sim, session, messages=messages)
        assert answer["usage"]["prompt_tokens"] == counted["count"]

    play(story)


def test_answers_at_once_are_counted_too() -> None:
    """At time scale 0 the counters move as they do otherwise."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        _, reply = await ask(sim, session)
        usage = reply["usage"]
        assert await metric(sim, session, "vllm:prompt_tokens_total") == usage["prompt_tokens"]
        assert await metric(sim, session, "vllm:generation_tokens_total") == usage["completion_tokens"]
        assert await metric(sim, session, "vllm:request_success_total") == 1.0

    play(story)


def test_a_stream_tells_the_same_text() -> None:
    """The pieces of a stream, put together, are the text and usage of the whole answer."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        _, whole = await ask(sim, session)
        options = {"include_usage": True}
        async with session.post(sim.url + CHAT, json=body(stream=True, stream_options=options)) as reply:
            lines = (await reply.text()).split("\n\n")
        events = [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]
        text = "".join(event["choices"][0]["delta"]["content"] for event in events if event["choices"])
        assert text == whole["choices"][0]["message"]["content"]
        assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        assert len(events) > 20

    play(story, time_scale=0.02)


@pytest.mark.parametrize(
    ("rule", "status"),
    [("500@1", 500), ("503@1", 503), ("401@1", 401), ("404@text=this", 404), ("429@1", 429)],
)
def test_a_planned_status_is_answered_once(rule: str, status: int) -> None:
    """A status fault answers with that status and a JSON body, and the next request is served."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        planned, error = await ask(sim, session)
        assert planned == status
        assert "error" in error
        assert (await ask(sim, session, text="that"))[0] == 200
        assert (sim.stats.faulted, sim.stats.answered, sim.stats.prompt_tokens > 0) == (1, 1, True)

    play(story, faults=(rule,))


def test_a_planned_503_can_name_a_time() -> None:
    """Seconds on a status fault become its Retry-After."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with session.post(sim.url + CHAT, json=body()) as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (503, "2.5")

    play(story, faults=("503@all:2.5s",))


@pytest.mark.parametrize(("rule", "worked"), [("reset@1", False), ("lost@1", True)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_is_cut_before_or_after_the_work(rule: str, worked: bool, stream: bool) -> None:
    """`reset` cuts before any work, `lost` when all of it is done; the client sees a dead connection either way."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        with pytest.raises((GONE, aiohttp.ClientPayloadError)):
            await ask(sim, session, stream=stream)
        assert (sim.stats.generation_tokens > 0) is worked
        assert sim.stats.faulted == 1
        assert (await ask(sim, session))[0] == 200

    play(story, faults=(rule,), time_scale=0.001)


def test_a_hang_lasts_until_the_client_leaves() -> None:
    """A hanging request gets nothing; when its client gives up it is gone."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            hanging = group.create_task(ask(sim, session))
            await sim.reached(1)
            assert (await ask(sim, session))[0] == 200
            assert not hanging.done()
            hanging.cancel()
        await sim.idle()
        assert sim.stats.faulted == 1

    play(story, faults=("hang@1",))


def test_a_hang_with_a_time_goes_on_after_it(tmp_path: Path) -> None:
    """`hang@1:0.05s` and `slow@2:0.05s` answer late, and say so in the log."""
    log = tmp_path / "requests.jsonl"

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        assert [(await ask(sim, session))[0] for _ in range(3)] == [200] * 3

    play(story, faults=("hang@1:0.05s", "slow@2:0.05s"), request_log=str(log))
    seconds = [json.loads(line)["seconds"] for line in log.read_text().splitlines()]
    assert min(seconds[:2]) >= 0.05 > seconds[2]


def test_a_slow_answer_takes_a_multiple_of_its_time(tmp_path: Path) -> None:
    """`slow@1:3x` takes at least three times what the engine took."""
    log = tmp_path / "requests.jsonl"

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        await ask(sim, session, max_tokens=20)
        engine = await metric(sim, session, "vllm:e2e_request_latency_seconds_sum")
        assert json.loads(log.read_text())["seconds"] >= 3 * engine > 0

    play(story, faults=("slow@1:3x",), time_scale=0.05, request_log=str(log))


def test_garbage_is_no_json() -> None:
    """The answer of something that is not vLLM: 200 and HTML."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with session.post(sim.url + CHAT, json=body()) as reply:
            assert (reply.status, reply.content_type) == (200, "text/html")

    play(story, faults=("garbage@1",))


def test_a_planned_kill_takes_every_connection() -> None:
    """`kill@2`: the request in flight and the killing one both lose their connection, and nobody listens any more."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            bystander = group.create_task(_outcome(ask(sim, session)))
            await sim.reached(1)
            killer = group.create_task(_outcome(ask(sim, session)))
        assert bystander.result() == killer.result() == "gone"
        with pytest.raises(GONE):
            await session.get(f"{sim.url}/health")

    play(story, faults=("kill@2",), time_scale=1.0)


async def _outcome(asking: Awaitable[tuple[int, Any]]) -> int | str:
    try:
        return (await asking)[0]
    except GONE:
        return "gone"


def test_a_planned_crash_ends_the_server_as_engine_death_does() -> None:
    """`crash@2`: everything in flight gets a 500, then `serve` returns by itself."""

    async def run() -> None:
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        settings = SimSettings(faults=("crash@2",), time_scale=1.0)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            server = group.create_task(serve(settings, ready=url.set_result, stop=asyncio.Event()))
            async with aiohttp.ClientSession(await url) as session, asyncio.TaskGroup() as asks:
                replies = [asks.create_task(session.post(CHAT, json=body())) for _ in range(2)]
            await server
        assert [reply.result().status for reply in replies] == [500, 500]

    asyncio.run(run())


def test_serve_stops_when_it_is_told_to() -> None:
    """`stop` ends it, also while a client hangs on; its port can be used again."""

    async def run() -> None:
        stop = asyncio.Event()
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(serve(SimSettings(faults=("hang@all",)), ready=url.set_result, stop=stop))
            async with aiohttp.ClientSession(await url) as session:
                hanging = group.create_task(session.post(CHAT, json=body()))
                async with session.get("/health") as health:
                    assert health.status == 200
                stop.set()
                assert (await hanging).status == 500
        port = int((await url).rpartition(":")[2])
        async with running_sim(SimSettings(port=port)) as again:
            assert again.url == await url

    asyncio.run(run())


def test_a_restart_shows_in_the_start_time() -> None:
    """A replica that comes back on its port has a later `process_start_time_seconds` and counters at zero."""

    async def run() -> None:
        settings = SimSettings(time_scale=0.0)
        async with aiohttp.ClientSession() as session:
            async with running_sim(settings) as first:
                await ask(first, session)
                started = await metric(first, session, "process_start_time_seconds")
                port = int(first.url.rpartition(":")[2])
            async with running_sim(SimSettings(time_scale=0.0, port=port)) as second:
                assert await metric(second, session, "process_start_time_seconds") > started
                assert await metric(second, session, "vllm:prompt_tokens_total") == 0

    asyncio.run(run())


def test_the_log_proves_what_was_sent(tmp_path: Path) -> None:
    """One line per generation request: body hash, record hash, outcome, status, usage; equal records hash alike."""
    log = tmp_path / "requests.jsonl"
    sent = json.dumps(body()).encode()

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        headers = {"Content-Type": "application/json"}
        for _ in range(2):
            async with session.post(sim.url + CHAT, data=sent, headers=headers) as reply:
                usage = (await reply.json())["usage"]
        await ask(sim, session, model="other")
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        assert [entry["number"] for entry in entries] == [1, 2, 3]
        assert [entry["outcome"] for entry in entries] == ["answered", "answered", "refused"]
        assert [entry["status"] for entry in entries] == [200, 200, 404]
        assert [entry["body_hash"] for entry in entries[:2]] == [body_hash(sent)] * 2
        assert entries[0]["record_hash"] == entries[1]["record_hash"] != ""
        assert entries[0]["prompt_tokens"] == usage["prompt_tokens"]
        assert entries[0]["completion_tokens"] == usage["completion_tokens"]

    play(story, request_log=str(log))


def test_too_small_a_cache_is_refused() -> None:
    """A KV cache that cannot hold one longest request is refused at start, as vLLM does."""
    with pytest.raises(Refusal, match="kv_capacity_tokens is 4096"):
        play(_nothing, kv_capacity_tokens=4096)


def test_a_taken_port_is_refused() -> None:
    """A port in use is a refusal that names it."""

    async def story(sim: SimHandle, _: aiohttp.ClientSession) -> None:
        port = int(sim.url.rpartition(":")[2])
        with pytest.raises(Refusal, match=f"cannot listen on 127.0.0.1:{port}"):
            async with running_sim(SimSettings(port=port)):
                pass

    play(story)


def test_what_a_block_raises_comes_out_as_it_is() -> None:
    """An exception inside `running_sim` is not wrapped in a group."""

    async def story(*_: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        play(story)


def test_a_body_over_the_limit_is_refused() -> None:
    """A body larger than `body_bytes_max` gets a 413."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with session.post(sim.url + CHAT, json=body(text="x" * 5_000)) as reply:
            assert reply.status == 413

    play(story, body_bytes_max=2_048)


@pytest.mark.parametrize("ending", list(Ending))
def test_a_replica_ends_once(ending: Ending) -> None:
    """Ending again, and in another way, changes nothing; leaving the block afterwards is clean."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        sim.end(ending)
        sim.end(Ending.STOPPED)

    play(story)


async def _nothing(*_: object) -> None:
    """A story in which nothing happens."""
