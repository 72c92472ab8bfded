"""Every error class of vLLM, provoked for real: what the client of a replica makes of it decides what happens next."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient, TransientKind
from mira_stream.core.usage import Reply
from mira_stream.replica.settings import ReplicaSettings
from mira_stream.replica.vllm import VllmReplica, open_session
from tests.e2e.harness import until
from tests.vllm.servers import CONTEXT_TOKENS, KEY, NAME, Server, gone_after

LONG = "word " * 40_000
"""Far over the context, in any tokenizer."""


def chat(text: str = "Rate this.", **fields: object) -> bytes:
    """The body of a chat completion."""
    body = {"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return json.dumps(body | fields).encode()


def ids(count: int, **fields: object) -> bytes:
    """The body of a completion of so many token ids."""
    return json.dumps({"model": NAME, "prompt": [70] * count, "max_tokens": 4} | fields).encode()


@asynccontextmanager
async def client(server: Server, *, mode: str = "chat", key: str = KEY) -> AsyncIterator[VllmReplica]:
    """The daemon's own client of that server."""
    settings = ReplicaSettings(load_reports=True)
    session: aiohttp.ClientSession = open_session(settings)
    async with session:
        yield VllmReplica(server.url, session, api_key=key, mode=mode, settings=settings)  # type: ignore[arg-type]


def asked(server: Server, body: bytes, *, mode: str = "chat", key: str = KEY) -> Reply:
    """What the client makes of one answer; its error is raised."""

    async def story() -> Reply:
        async with client(server, mode=mode, key=key) as replica:
            return await replica.ask(body, timeout_seconds=120)

    return asyncio.run(story())


def failure(server: Server, body: bytes, *, mode: str = "chat", key: str = KEY) -> MiraStreamError:
    """The error that a request ends in."""
    with pytest.raises(MiraStreamError) as caught:
        asked(server, body, mode=mode, key=key)
    return caught.value


REFUSED = {
    "a prompt over the context": ("chat", chat(LONG), 400, "input_tokens"),
    "the same, streamed": ("chat", chat(LONG, stream=True), 400, "input_tokens"),
    "the same, as token ids": ("tokens", ids(CONTEXT_TOKENS + 1), 400, "input_tokens"),
    "a prompt that leaves no token": ("tokens", ids(CONTEXT_TOKENS), 400, "max_tokens"),
    "more output than the context": ("chat", chat(max_tokens=CONTEXT_TOKENS + 1), 400, "max_tokens"),
    "an unknown token": ("tokens", b'{"prompt":[999999],"max_tokens":1}', 400, None),
    "a setting off its scale": ("chat", chat(temperature=-1), 400, "temperature"),
    "an unknown model": ("chat", chat(model="nope"), 404, "model"),
    "no messages": ("chat", b'{"model":"tiny"}', 400, "body.messages"),
    "no JSON": ("chat", b"{", 400, "body.1"),
    "an empty conversation": ("chat", chat(messages=[]), 400, None),
    "an image": ("chat", chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]), 400, None),
    "a bad regex": ("chat", chat(structured_outputs={"regex": "(a"}), 400, None),
    "look-around in a regex": ("chat", chat(structured_outputs={"regex": "(?=a)a"}), 400, None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_never_succeed_is_permanent(first: Server, case: str) -> None:
    """A refusal names the field at fault, and is never mistaken for trouble of the server's."""
    mode, body, status, param = REFUSED[case]
    error = failure(first, body, mode=mode)
    assert isinstance(error, Permanent)
    assert (error.status, error.param) == (status, param)


def test_a_wrong_key_is_a_refusal_that_says_so(second: Server) -> None:
    """The key guards what costs GPU work, is never repeated, and health and metrics need none."""
    error = failure(second, chat(), key="sk-wrong")
    assert isinstance(error, Permanent)
    assert error.status == 401
    assert "API key" in str(error)
    assert "sk-wrong" not in str(error)
    assert second.send("/health", key=None).status == second.send("/metrics", key=None).status == 200


def test_what_is_not_there_is_a_refusal(first: Server) -> None:
    """An unknown path and a wrong method answer in the web framework's form, which is understood too."""
    assert first.send("/nowhere").json == {"detail": "Not Found"}
    assert first.send("/v1/chat/completions").json == {"detail": "Method Not Allowed"}
    assert first.send("/v1/chat/completions").status == 405


def test_the_longest_prompt_that_fits_is_answered(first: Server) -> None:
    """One token short of the context leaves one of output: the limit is counted as vLLM counts it."""
    reply = asked(first, ids(CONTEXT_TOKENS - 1, max_tokens=1), mode="tokens")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (CONTEXT_TOKENS - 1, 1)


def test_output_over_the_context_is_clamped_in_silence(first: Server) -> None:
    """The reason why the daemon counts before it sends: vLLM answers 200, with less than was asked for."""
    reply = asked(first, ids(CONTEXT_TOKENS - 10, max_tokens=500, ignore_eos=True), mode="tokens")
    assert (reply.usage.completion_tokens, reply.finish_reason) == (10, "length")


def test_a_full_server_is_saturated(first: Server) -> None:
    """Beyond `--max-num-queued-reqs` it answers 503 at once; those before are served."""
    with ThreadPoolExecutor(40) as pool:
        bodies = [{"max_tokens": 60, "ignore_eos": True}] * 40
        answers = list(pool.map(lambda fields: first.chat(**fields), bodies))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    assert first.metric("vllm:admission_rejections_total") >= statuses.count(503)
    said = next(answer for answer in answers if answer.status == 503)
    assert said.json["error"]["type"] == "Service Unavailable"
    assert "retry-after" not in said.headers


def test_a_full_server_is_told_from_a_broken_one(first: Server) -> None:
    """The client calls it saturation, which opens no breaker."""

    async def story() -> list[BaseException | Reply]:
        async def one(replica: VllmReplica) -> BaseException | Reply:
            try:
                return await replica.ask(chat(max_tokens=60, ignore_eos=True), timeout_seconds=120)
            except MiraStreamError as error:
                return error

        async with client(first) as replica, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(replica)) for _ in range(40)]
        return [task.result() for task in tasks]

    failed = [one for one in asyncio.run(story()) if not isinstance(one, Reply)]
    assert failed
    assert {type(one) for one in failed} == {Saturated}


def _idle(server: Server) -> bool:
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_left_is_dropped(second: Server, stream: bool) -> None:
    """Closing the connection frees the server's place, long before the work would have been done."""

    async def story() -> None:
        async with client(second) as replica:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await replica.ask(
                        chat(max_tokens=8000, ignore_eos=True, stream=stream), timeout_seconds=120
                    )

    before = second.metric("vllm:generation_tokens_total")
    asyncio.run(story())
    until(lambda: _idle(second), "the request that was left is dropped")
    assert second.metric("vllm:generation_tokens_total") - before < 7500


def test_the_load_on_an_answer_is_read(first: Server) -> None:
    """The ORCA header of a real server, in both its forms, and as the client reads it."""
    header = "endpoint-load-metrics"
    wanted = {f"{header}-format": "JSON"}
    body = json.loads(chat())
    told = first.send("/v1/chat/completions", body, headers=wanted).headers[header]
    assert told.startswith("JSON ")
    named = json.loads(told.removeprefix("JSON "))["named_metrics"]
    assert list(named) == ["num_requests_waiting", "kv_cache_usage_perc"]
    as_text = first.send("/v1/chat/completions", body, headers={f"{header}-format": "TEXT"}).headers[header]
    assert as_text.startswith("TEXT named_metrics.num_requests_waiting=")
    assert header not in first.send("/v1/chat/completions", body).headers
    load = asked(first, chat()).load
    assert load is not None
    assert load.waiting == 0
    assert load.kv_usage is not None


def test_metrics_are_read(second: Server) -> None:
    """Everything that admission looks at is there, under a name that it knows, and true."""

    async def story() -> None:
        async with client(second) as replica:
            before = await replica.load()
            reply = await replica.ask(chat(max_tokens=7, ignore_eos=True), timeout_seconds=120)
            after = await replica.load()
            absent = [name for name in after.__struct_fields__ if getattr(after, name) is None]
            assert absent == []
            assert after.blocks == second.blocks
            assert after.kv_tokens == second.kv_tokens
            assert after.engines == 1
            assert before.generation_tokens is not None
            assert after.generation_tokens == before.generation_tokens + 7
            assert before.prompt_tokens is not None
            assert after.prompt_tokens == before.prompt_tokens + reply.usage.prompt_tokens
            (model,) = await replica.models()
            assert (model.model, model.max_model_len) == (NAME, CONTEXT_TOKENS)

    asyncio.run(story())


@pytest.fixture
def doomed(tmp_path: Path) -> Server:
    """A server that prefills long prompts in pieces, and so can be killed by a seed; not started."""
    return Server(tmp_path, "doomed", "--max-num-batched-tokens", "2048", blocks=100)


def test_the_death_of_an_engine_is_trouble_of_the_server(doomed: Server) -> None:
    """What is in flight fails with 500, a stream in its middle; then nobody listens, and the exit code is 0."""
    deadly = ids(3000, seed=1, temperature=1.0)
    flying = chat(max_tokens=6000, ignore_eos=True)

    async def story() -> list[MiraStreamError]:
        async def fails(replica: VllmReplica, body: bytes, on_started: Callable[[], None]) -> MiraStreamError:
            with pytest.raises(MiraStreamError) as caught:
                await replica.ask(body, timeout_seconds=120, on_started=on_started)
            return caught.value

        running = asyncio.Event()
        async with client(doomed) as chats, client(doomed, mode="tokens") as tokens:
            async with asyncio.TaskGroup() as group:
                whole = group.create_task(fails(chats, flying, print))
                streamed = group.create_task(
                    fails(chats, chat(max_tokens=6000, ignore_eos=True, stream=True), running.set)
                )
                await running.wait()
                last = group.create_task(fails(tokens, deadly, print))
            return [task.result() for task in (whole, streamed, last)]

    with gone_after(doomed):
        for error in asyncio.run(story()):
            assert isinstance(error, Transient)
            assert error.kind is TransientKind.SERVER
        assert doomed.wait() == 0
        absent = failure(doomed, chat())
    assert isinstance(absent, Transient)
    assert absent.kind is TransientKind.REFUSED


def test_a_server_that_is_going_away_says_so(tmp_path: Path) -> None:
    """After SIGTERM what is in flight ends with 200, and a new request fails in a way that blames no record."""
    leaving = Server(tmp_path, "leaving", "--shutdown-timeout", "60", blocks=100)
    going = chat(max_tokens=4000, ignore_eos=True)

    async def story() -> None:
        async with client(leaving) as replica, asyncio.TaskGroup() as group:
            flying = group.create_task(replica.ask(going, timeout_seconds=120))
            while not (await replica.load()).running:
                await asyncio.sleep(0)
            leaving.terminate()
            refused: MiraStreamError | None = None
            while refused is None and not flying.done():
                try:
                    await replica.ask(chat(), timeout_seconds=120)
                except MiraStreamError as error:
                    refused = error
            assert isinstance(refused, Transient)
            assert refused.kind in (TransientKind.SHUTDOWN, TransientKind.REFUSED)
            assert (await flying).usage.completion_tokens == 4000

    with gone_after(leaving):
        asyncio.run(story())
        assert leaving.wait() == 0
