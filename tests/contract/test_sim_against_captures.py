"""The simulated replica answers as a recorded vLLM 0.32 did: statuses, JSON forms, error bodies, metric families."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mira_stream.sim.replica import Ending
from mira_stream.sim.service import SimHandle, running_sim
from mira_stream.sim.settings import SimSettings

CAPTURES = Path(__file__).parents[2].parent / "shared/facts/vllm-captures"
pytestmark = pytest.mark.skipif(
    not CAPTURES.is_dir(), reason=f"NOT CHECKED AGAINST REAL ANSWERS: {CAPTURES} is absent"
)

SETTINGS = SimSettings(model="tiny", max_model_len=8192, kv_capacity_tokens=65_536, time_scale=0.0)
Story = Callable[[SimHandle, aiohttp.ClientSession], Awaitable[None]]


def play(settings: SimSettings, story: Story) -> None:
    """Run a story against a replica."""

    async def run() -> None:
        async with running_sim(settings) as sim, aiohttp.ClientSession() as session:
            await story(sim, session)

    asyncio.run(run())


def load(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


def form(value: Any) -> Any:
    """What of a JSON value must agree: keys in order, types; of a list the distinct forms of its entries."""
    if isinstance(value, dict):
        return [(key, form(entry)) for key, entry in value.items()]
    if isinstance(value, list):
        return [*dict.fromkeys(json.dumps(form(entry)) for entry in value)]
    return type(value).__name__


async def send(
    sim: SimHandle, session: aiohttp.ClientSession, request: dict[str, Any]
) -> tuple[int, str, str]:
    """Repeat a recorded request; returns status, content type and body."""
    body = request["body"]
    data = body if isinstance(body, str) or body is None else json.dumps(body)
    headers = request["headers"]
    async with session.request(
        request["method"], sim.url + request["path"], data=data, headers=headers
    ) as reply:
        return reply.status, reply.headers.get("Content-Type", ""), await reply.text()


EXACT = [
    "err_bad_json",
    "err_bad_model",
    "err_bad_model_completions",
    "err_bad_temperature",
    "err_content_type",
    "err_method",
    "err_missing_messages",
    "err_not_found",
    "err_wrong_type",
    "chat_empty_messages",
    "chat_image_part_rejected",
    "chat_n0",
    "completion_empty_prompt",
    "completion_max_tokens_0",
    "overflow_completion_exact_len_8192",
    "overflow_completion_ids",
    "overflow_prompt_plus_max_tokens_chat",
    "version",
    "load_default",
]


@pytest.mark.parametrize("name", EXACT)
def test_bodies_are_the_same_to_the_letter(name: str) -> None:
    """Where nothing depends on the model, status, content type and JSON are those of the capture."""
    capture = load(name)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        status, content_type, body = await send(sim, session, capture["request"])
        assert status == capture["response"]["status"]
        assert content_type.partition(";")[0] == capture["response"]["headers"]["content-type"]
        assert json.loads(body) == capture["response"]["json"]

    play(SETTINGS, story)


@pytest.mark.parametrize("name", ["overflow_chat", "overflow_chat_no_max_tokens", "overflow_stream"])
def test_a_prompt_over_the_context_is_refused_in_the_same_words(name: str) -> None:
    """An over-long conversation, made long enough for the simulator's tokenizer, gets the captured body."""
    capture = load(name)
    capture["request"]["body"]["messages"][0]["content"] *= 2

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        status, content_type, body = await send(sim, session, capture["request"])
        assert (status, content_type) == (400, "application/json")
        assert json.loads(body) == capture["response"]["json"]

    play(SETTINGS, story)


ALIKE = [
    "chat_basic",
    "chat_8000_prompt_plus_500_max_tokens_clamped",
    "chat_max_completion_tokens",
    "chat_min_tokens_ignore_eos",
    "chat_n3",
    "chat_seed",
    "chat_truncate_prompt_tokens",
    "completion_text",
    "completion_text_batch",
    "completions_x_request_id",
    "fit_completion_8191_plus_1",
    "ok_no_model_field",
    "ok_unknown_field",
    "overflow_prompt_plus_max_tokens_completion",
    "request_id_body",
    "so_regex_truncated_by_max_tokens",
    "truncate_prompt_tokens_100",
    "x_request_id_default_flags",
    "models",
    "tokenize_messages",
    "tokenize_prompt",
    "overflow_tokenize_ok",
    "detokenize",
]


@pytest.mark.parametrize("name", ALIKE)
def test_answers_have_the_same_form(name: str) -> None:
    """Status, keys in their order and types are those of the capture, all the way down."""
    capture = load(name)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        status, content_type, body = await send(sim, session, capture["request"])
        assert (status, content_type) == (200, "application/json")
        assert form(json.loads(body)) == form(capture["response"]["json"])

    play(SETTINGS, story)


def test_cached_tokens_are_told_as_captured() -> None:
    """With prompt token details on, a prompt that comes again has its full blocks cached; forms are the captured ones."""
    captures = [load("B_cached_tokens_first"), load("B_cached_tokens_second")]

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        for capture in captures:
            _, _, body = await send(sim, session, capture["request"])
            ours, theirs = json.loads(body), capture["response"]["json"]
            assert form(ours) == form(theirs)
            told, block = ours["usage"]["prompt_tokens_details"], 16
            full = (ours["usage"]["prompt_tokens"] - 1) // block * block
            counted = theirs["usage"]["prompt_tokens_details"]
            assert told["cached_tokens"] == (full if counted["cached_tokens"] else 0)
            assert bool(told["created_cache_tokens"]) == bool(counted["created_cache_tokens"])

    settings = SimSettings(
        model="tiny",
        max_model_len=8192,
        kv_capacity_tokens=65_536,
        time_scale=0.001,
        api_key="sk-test-1",
        enable_prompt_tokens_details=True,
    )
    play(settings, story)


@pytest.mark.parametrize(
    "name", ["x_request_id_default_flags", "request_id_body", "completions_x_request_id"]
)
def test_the_id_is_the_one_that_the_client_gave(name: str) -> None:
    """`X-Request-Id` and `request_id` become the answer's id, with the endpoint's prefix."""
    capture = load(name)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        _, _, body = await send(sim, session, capture["request"])
        assert json.loads(body)["id"] == capture["response"]["json"]["id"]

    play(SETTINGS, story)


@pytest.mark.parametrize("name", ["overflow_prompt_plus_max_tokens_completion", "fit_completion_8191_plus_1"])
def test_max_tokens_is_clamped_in_silence(name: str) -> None:
    """A budget beyond the context is cut to what is left: usage and finish reason are those of the capture."""
    capture = load(name)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        _, _, body = await send(sim, session, capture["request"])
        ours, theirs = json.loads(body), capture["response"]["json"]
        assert ours["usage"] == theirs["usage"]
        assert ours["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"] == "length"

    play(SETTINGS, story)


def events(lines: list[str]) -> list[str]:
    """The distinct forms of a stream's events in order; the end mark as it is."""
    found = []
    for line in lines:
        data = line.removeprefix("data: ")
        found.append(data if data == "[DONE]" else json.dumps(form(json.loads(data))))
    return list(dict.fromkeys(found))


STREAMS = ["chat_stream", "chat_stream_usage", "completion_stream"]


@pytest.mark.parametrize("time_scale", [0.0, 1.0])
@pytest.mark.parametrize("name", STREAMS)
def test_streams_have_the_same_events(name: str, time_scale: float) -> None:
    """Opening, text, last text, usage and end mark have the forms of the capture, in its order."""
    capture = load(name)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        status, content_type, body = await send(sim, session, capture["request"])
        assert (status, content_type) == (200, "text/event-stream; charset=utf-8")
        theirs = events([event["line"] for event in capture["response"]["sse"]])
        ours = events([line for line in body.split("\n\n") if line])
        # A reply that is told at once has no event between the opening and the last text.
        assert [event for event in theirs if event in ours or time_scale] == ours

    settings = SimSettings(model="tiny", max_model_len=8192, kv_capacity_tokens=65_536, time_scale=time_scale)
    play(settings, story)


@pytest.mark.parametrize("name", ["health", "ping"])
def test_health_answers_with_an_empty_body(name: str) -> None:
    """`/health` and `/ping` say 200 and nothing else."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        status, _, body = await send(sim, session, load(name)["request"])
        assert (status, body) == (200, load(name)["response"]["text"])

    play(SETTINGS, story)


KEYED = [
    "B_api_key_missing_401",
    "B_api_key_wrong_401",
    "B_api_key_models_401",
    "B_api_key_health_no_key",
    "B_api_key_version_no_key",
    "B_api_key_load_no_key",
    "B_api_key_tokenize_no_key",
    "B_chat_ok",
]


@pytest.mark.parametrize("name", KEYED)
def test_the_api_key_guards_what_it_guards_in_vllm(name: str) -> None:
    """Only `/v1/*` asks for the key; the refusal is the captured one."""
    capture = load(name)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        status, _, body = await send(sim, session, capture["request"])
        assert status == capture["response"]["status"]
        if status == 401:
            assert json.loads(body) == capture["response"]["json"]

    play(SimSettings(model="tiny", api_key="sk-test-1", time_scale=0.0), story)


def samples(text: str) -> set[tuple[str, frozenset[str]]]:
    """Every vLLM sample's name and label names."""
    return {
        (sample.name, frozenset(sample.labels))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("vllm:") or sample.name == "process_start_time_seconds"
    }


def series(text: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every vLLM sample with its labels, but for the configuration's values."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("vllm:") and not sample.name.startswith("vllm:cache_config")
    }


def test_metrics_have_the_same_families_labels_and_buckets() -> None:
    """Each vLLM sample of a fresh server is there with the same labels and bucket bounds, and no other."""
    capture = (CAPTURES / "metrics_fresh_before_any_request.txt").read_text()

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{sim.url}/metrics") as reply:
            text = await reply.text()
        assert samples(text) == samples(capture)
        assert series(text) == series(capture)

    play(SETTINGS, story)


def test_a_full_queue_is_refused_as_captured() -> None:
    """Beyond `max_num_queued_reqs` running or waiting requests a new one gets the captured 503, and it is counted."""
    refused = next(entry[3] for entry in load("G_queue_limit_503") if entry[0] == 503)

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        body = {"messages": [{"role": "user", "content": "Rate this."}], "max_tokens": 50}
        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(_ask(session, sim, body)) for _ in range(6)]
        replies = [ask.result() for ask in asks]
        assert sorted(status for status, _ in replies) == [200] * 4 + [503] * 2
        assert all(reply["error"] == refused for status, reply in replies if status == 503)
        async with session.get(f"{sim.url}/metrics") as reply:
            text = await reply.text()
        assert 'vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"} 2.0' in text

    play(SimSettings(model="tiny", max_num_queued_reqs=4, time_scale=0.01), story)


async def _ask(session: aiohttp.ClientSession, sim: SimHandle, body: dict[str, Any]) -> tuple[int, Any]:
    async with session.post(f"{sim.url}/v1/chat/completions", json=body) as reply:
        return reply.status, await reply.json()


def test_engine_death_looks_as_captured() -> None:
    """In flight: 500, a running stream gets the error and the end mark; then /health says 503, then nobody answers."""
    capture = load("engine_death_seed_with_chunked_prefill")
    body = {"messages": [{"role": "user", "content": "Rate this."}], "max_tokens": 400}

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(_ask(session, sim, body))
            async with session.post(f"{sim.url}/v1/chat/completions", json=body | {"stream": True}) as stream:
                await stream.content.readuntil(b"\n\n")
                sim.end(Ending.CRASHED)
                tail = (await stream.read()).decode().strip().split("\n\n")
        async with session.get(f"{sim.url}/health") as health:
            assert health.status == 503
        assert whole.result() == (500, capture["other_inflight_request"]["json"])
        expected = capture["other_inflight_stream_last_lines"][-2:]
        assert json.loads(tail[-2][6:]) == json.loads(expected[0][6:])
        assert tail[-1] == expected[1]

    play(SimSettings(model="tiny", time_scale=0.1), story)


def test_sigterm_fails_what_is_in_flight_as_captured() -> None:
    """Without a shutdown timeout a request in flight gets the captured 500, and new ones are refused a connection."""
    capture = load("sigterm_default_inflight")
    body = {"messages": [{"role": "user", "content": "Rate this."}], "max_tokens": 400}

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            ask = group.create_task(_ask(session, sim, body))
            await sim.reached(1)
            sim.end(Ending.STOPPED)
        assert ask.result() == (500, capture["inflight_response"]["json"])
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{sim.url}/health")

    play(SimSettings(model="tiny", time_scale=0.1), story)


def test_sigterm_with_a_timeout_lets_requests_finish_as_captured() -> None:
    """With a shutdown timeout /health stays 200, the request in flight is answered, a new one gets the captured 500."""
    capture = load("sigterm_shutdown_timeout20_inflight")
    body = {"messages": [{"role": "user", "content": "Rate this."}], "max_tokens": 400}

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            ask = group.create_task(_ask(session, sim, body))
            await sim.reached(1)
            sim.end(Ending.STOPPED)
            async with session.get(f"{sim.url}/health") as health:
                assert health.status == 200
            status, refused = await _ask(session, sim, body)
            assert status == 500
            assert json.dumps(refused) in capture["new_request_after_sigterm"]
        assert ask.result()[0] == 200

    play(SimSettings(model="tiny", time_scale=0.02, shutdown_timeout_seconds=20), story)
