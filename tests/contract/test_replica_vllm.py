"""The vLLM client against a real HTTP server on loopback: recorded answers of a real vLLM, and hostile ones.

The recordings are read from beside the repository at test time; without them those tests are skipped, loudly.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mira_stream.core.errors import MiraStreamError, Permanent, Refusal, Saturated, Transient, TransientKind
from mira_stream.core.usage import Load, Reply, ServedModel, Usage
from mira_stream.ports import Replica
from mira_stream.replica.settings import ReplicaSettings
from mira_stream.replica.vllm import VllmReplica, open_session

CAPTURES = Path(__file__).parents[3] / "shared" / "facts" / "vllm-captures"
NEEDS_CAPTURES = pytest.mark.skipif(
    not CAPTURES.is_dir(),
    reason=f"RECORDED VLLM ANSWERS ABSENT: {CAPTURES} is not there; nothing was replayed",
)
KEY = "sk-very-secret-key"
BODY = b'{"model":"tiny","messages":[{"role":"user","content":"Rate this."}]}'

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The base URL of a server that answers everything with `handler`."""
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_serving(connection: Connection, head: bytes = b"\r\n\r\n") -> AsyncIterator[str]:
    """The base URL of a socket that speaks whatever `connection` writes once the request's head has come."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(head)
            await connection(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, which is what some tests are about
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def answering(status: int, body: bytes | str, headers: dict[str, str] | None = None) -> Handler:
    """A handler that always gives this answer."""
    raw = body.encode() if isinstance(body, str) else body

    async def handler(_: web.Request) -> web.Response:
        return web.Response(
            status=status, body=raw, headers={"Content-Type": "application/json"} | (headers or {})
        )

    return handler


def completion(**changes: Any) -> dict[str, Any]:
    """A chat completion as vLLM writes it, with some fields changed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": changes.pop("content", "[A1] x: 7/10 — fine")},
        "finish_reason": changes.pop("finish_reason", "stop"),
    }
    usage = {"prompt_tokens": 38, "total_tokens": 54, "completion_tokens": 16, "prompt_tokens_details": None}
    return {"id": "chatcmpl-1", "model": "tiny", "choices": [choice], "usage": usage} | changes


async def outcome_at(url: str, **options: Any) -> Reply | MiraStreamError:
    """What one `ask` at that address ends in; anything but a reply or one of our errors fails the test."""
    timeout = options.pop("timeout_seconds", 5.0)
    async with open_session() as session:
        try:
            return await VllmReplica(url, session, **options).ask(BODY, timeout_seconds=timeout)
        except MiraStreamError as error:
            return error


def ask(handler: Handler, **options: Any) -> Reply | MiraStreamError:
    """What one `ask` ends in at a server with that handler."""

    async def run() -> Reply | MiraStreamError:
        async with serving(handler) as url:
            return await outcome_at(url, **options)

    return asyncio.run(run())


def ask_raw(connection: Connection, **options: Any) -> Reply | MiraStreamError:
    """What one `ask` ends in at a socket that writes what it likes."""

    async def run() -> Reply | MiraStreamError:
        async with raw_serving(connection) as url:
            return await outcome_at(url, **options)

    return asyncio.run(run())


def is_for_people(message: str) -> bool:
    """Says which replica, fits a log line, holds no secret and no name of a Python class."""
    return (
        message.startswith("http://127.0.0.1:")
        and len(message) < 700
        and "\n" not in message
        and KEY not in message
        and "Error(" not in message
        and "<class" not in message
    )


# --- recorded answers ------------------------------------------------------------------------------------------------


def recorded_answers() -> Iterator[tuple[str, int, dict[str, str], bytes]]:
    """Name, status, headers and body of every recorded answer, also of those inside the notes of an experiment."""
    for path in sorted(CAPTURES.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(told, dict) and "response" in told:
            answer = told["response"]
            yield path.stem, answer["status"], answer["headers"], body_of(answer)
        else:
            for number, (status, body) in enumerate(answers_inside(told)):
                yield f"{path.stem} {number}", status, {}, json.dumps(body).encode()


def body_of(answer: dict[str, Any]) -> bytes:
    """The recorded body: JSON, text, or the lines of an event stream."""
    if "sse" in answer:
        return "".join(event["line"] + "\n\n" for event in answer["sse"]).encode()
    return json.dumps(answer["json"]).encode() if "json" in answer else answer["text"].encode()


def answers_inside(told: Any) -> Iterator[tuple[int, Any]]:
    """Answers recorded as `{"status", "json"}`, as `[status, seconds, content, error]`, or as a line of text."""
    if isinstance(told, dict):
        if isinstance(told.get("status"), int) and "json" in told:
            yield told["status"], told["json"]
        for value in told.values():
            yield from answers_inside(value)
    elif isinstance(told, list):
        if len(told) == 4 and isinstance(told[0], int) and isinstance(told[3], dict):
            yield told[0], {"error": told[3]}
        for value in told:
            yield from answers_inside(value)
    elif isinstance(told, str) and told[:4] in ("500 ", "503 ") and "{" in told:
        yield int(told[:3]), json.loads(told[told.index("{") :])


def check_answer(name: str, status: int, body: bytes, ended: Reply | MiraStreamError) -> None:
    """What each kind of recorded answer must end in, told from the recording alone."""
    told = json.loads(body) if body[:1] in b"{[" and body else None
    error = told.get("error") if isinstance(told, dict) else None
    if status == 200 and body.startswith(b"data:"):
        check_stream(name, body, ended)
        return
    if status == 200:
        check_success(name, told, ended)
        return
    assert isinstance(ended, MiraStreamError), name
    assert is_for_people(str(ended)), (name, str(ended))
    if isinstance(error, dict):
        assert " ".join(error["message"].split())[:300] in str(ended), name
    if status == 503:
        assert isinstance(ended, Saturated), name
        assert (ended.status, ended.retry_after_seconds) == (503, None)
    elif status >= 500:
        assert isinstance(ended, Transient), name
        stopping = "after shutdown" in body.decode()
        assert ended.kind == (TransientKind.SHUTDOWN if stopping else TransientKind.SERVER), name
    else:
        assert isinstance(ended, Permanent), name
        assert ended.status == status, name
        assert ended.param == (error.get("param") if isinstance(error, dict) else None), name


def check_success(name: str, told: Any, ended: Reply | MiraStreamError) -> None:
    """A chat completion is read exactly; anything else that came with 200 is not what this call speaks."""
    choices = told.get("choices") if isinstance(told, dict) else None
    message = choices[0].get("message") if choices else None
    if message is None:
        assert isinstance(ended, Transient), name
        assert ended.kind == TransientKind.PROTOCOL, name
        assert is_for_people(str(ended)), name
        return
    assert isinstance(ended, Reply), (name, ended)
    usage = told["usage"]
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens")
    assert ended.text == message["content"], name
    assert ended.finish_reason == choices[0]["finish_reason"], name
    assert ended.usage == Usage(usage["prompt_tokens"], usage["completion_tokens"], cached), name
    assert ended.model == told["model"], name
    assert 0 <= ended.latency_seconds < 5


def check_stream(name: str, body: bytes, ended: Reply | MiraStreamError) -> None:
    """A recorded stream is the sum of its pieces; one that tells an error, or stops short, is passing trouble."""
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    told = [json.loads(event) for event in events if event != "[DONE]"]
    choices = [one["choices"][0] for one in told if one.get("choices")]
    reasons = [one["finish_reason"] for one in choices if one.get("finish_reason")]
    if any("error" in one for one in told) or not reasons:
        assert isinstance(ended, Transient), name
        assert is_for_people(str(ended)), name
        return
    assert isinstance(ended, Reply), (name, ended)
    pieces = [one["text"] if "text" in one else one["delta"].get("content") or "" for one in choices]
    usage = next((one["usage"] for one in reversed(told) if one.get("usage")), None)
    assert ended.text == "".join(pieces), name
    assert ended.finish_reason == reasons[-1], name
    if usage is not None:
        counted = (ended.usage.prompt_tokens, ended.usage.completion_tokens)
        assert counted == (usage["prompt_tokens"], usage["completion_tokens"]), name


@NEEDS_CAPTURES
def test_every_recorded_answer_is_classified() -> None:
    """Each answer that a real vLLM was seen to give ends in the reply or the error that the design asks for."""
    answers = list(recorded_answers())
    assert len(answers) > 140
    current: dict[str, Any] = {}

    async def replay(_: web.Request) -> web.Response:
        kept = {
            k: v
            for k, v in current["headers"].items()
            if k in ("content-type", "date", "x-request-id", "vary")
        }
        return web.Response(status=current["status"], body=current["body"], headers=kept)

    async def run() -> None:
        async with serving(replay) as url:
            for name, status, headers, body in answers:
                current.update(status=status, headers=headers, body=body)
                check_answer(name, status, body, await outcome_at(url, api_key=KEY))

    asyncio.run(run())


@NEEDS_CAPTURES
def test_over_length_answers_name_the_parameter() -> None:
    """A prompt over the context is told from other refusals by `param`, which decides about the record."""
    over = [
        row
        for row in recorded_answers()
        if row[0] in ("overflow_chat", "overflow_completion_ids", "overflow_stream")
    ]
    assert len(over) == 3
    for _, status, _, body in over:
        ended = ask(answering(status, body))
        assert isinstance(ended, Permanent)
        assert (ended.status, ended.param) == (400, "input_tokens")


@NEEDS_CAPTURES
def test_recorded_lookups_are_read() -> None:
    """Models, token counts and metrics of a real vLLM are read by the calls that are made for them."""
    recorded = {name: (status, body) for name, status, _, body in recorded_answers()}

    async def run() -> None:
        async with serving(by_path(recorded)) as url, open_session() as session:
            replica = VllmReplica(url, session)
            assert await replica.models() == [ServedModel("tiny", 8192)]
            tokens = json.loads(recorded["tokenize_messages"][1])
            assert await replica.count(BODY) == tokens["count"]
            assert isinstance(await replica.load(), Load)

    asyncio.run(run())


def by_path(recorded: dict[str, tuple[int, bytes]]) -> Handler:
    """Answers each path with its recording."""
    names = {"/v1/models": "models", "/tokenize": "tokenize_messages", "/metrics": "B_api_key_metrics_no_key"}

    async def handler(request: web.Request) -> web.Response:
        status, body = recorded[names[request.path]]
        return web.Response(status=status, body=body)

    return handler


@NEEDS_CAPTURES
def test_wrong_key_is_refused_with_a_hint_and_without_the_key() -> None:
    """The bare 401 body of vLLM becomes a message that says what to check, on every call that takes a key."""
    recorded = {name: (status, body) for name, status, _, body in recorded_answers()}
    status, body = recorded["B_api_key_models_401"]

    async def run() -> None:
        async with serving(answering(status, body)) as url, open_session() as session:
            with pytest.raises(Permanent, match="API key") as refused:
                await VllmReplica(url, session, api_key=KEY).models()
            assert refused.value.status == 401
            assert KEY not in str(refused.value)

    asyncio.run(run())


# --- hand-written answers --------------------------------------------------------------------------------------------


def test_request_is_sent_as_given() -> None:
    """The body goes out byte for byte, as JSON, with the key as a bearer token, to the chat completions of the base."""
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(path=request.path, body=await request.read(), headers=request.headers.copy())
        return web.json_response(completion())

    large = BODY + b" " * (3 << 20)

    async def run() -> None:
        async with serving(handler) as url, open_session() as session:
            replica: Replica = VllmReplica(f"{url}/v1/", session, api_key=KEY)
            assert replica.name == url
            for body in (BODY, large):
                reply = await replica.ask(body, timeout_seconds=5)
                assert reply.usage == Usage(38, 16)
                assert seen["body"] == body

    asyncio.run(run())
    assert seen["path"] == "/v1/chat/completions"
    assert seen["headers"]["Content-Type"] == "application/json"
    assert seen["headers"]["Authorization"] == f"Bearer {KEY}"
    assert "gzip" not in seen["headers"].get("Accept-Encoding", "")


NOT_A_COMPLETION = {
    "empty body": b"",
    "cut JSON": json.dumps(completion()).encode()[:-20],
    "no JSON": b"<html><title>It works!</title></html>",
    "invalid UTF-8": b'{"model": "\xff"}',
    "null": b"null",
    "a list": b"[]",
    "no choices": json.dumps(completion(choices=[])).encode(),
    "no usage": json.dumps(completion(usage=None)).encode(),
    "negative usage": json.dumps(completion(usage={"prompt_tokens": -1, "completion_tokens": 1})).encode(),
    "usage in words": json.dumps(
        completion(usage={"prompt_tokens": "many", "completion_tokens": 1})
    ).encode(),
    "null content": json.dumps(completion(content=None)).encode(),
    "content that is an object": json.dumps(completion(content={"text": "x"})).encode(),
    "deep nesting": b'{"model": "tiny", "x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "an event stream": b'data: {"id": "x"}\n\ndata: [DONE]\n\n',
    "an error under 200": b'{"error": {"message": "no", "type": "x", "param": null, "code": 500}}',
}


@pytest.mark.parametrize("body", NOT_A_COMPLETION.values(), ids=NOT_A_COMPLETION.keys())
def test_an_answer_that_is_no_completion_is_a_protocol_error(body: bytes) -> None:
    """200 with anything but a chat completion is passing trouble of the replica, never a reply."""
    ended = ask(answering(200, body))
    assert isinstance(ended, Transient)
    assert (ended.kind, ended.status) == (TransientKind.PROTOCOL, 200)
    assert is_for_people(str(ended))


def test_what_was_not_understood_is_named() -> None:
    """An operator reads what is missing: here a server that does not say what its answers cost."""
    told = completion()
    del told["usage"]
    ended = ask(answering(200, json.dumps(told)))
    assert isinstance(ended, Transient)
    assert "`usage`" in str(ended)
    assert is_for_people(str(ended))


def test_thinking_that_took_all_tokens_is_an_empty_reply() -> None:
    """No content beside some reasoning is what the model said: nothing, cut by length."""
    told = completion(finish_reason="length")
    told["choices"][0]["message"] = {"role": "assistant", "content": None, "reasoning": "Let me see"}
    ended = ask(answering(200, json.dumps(told)))
    assert isinstance(ended, Reply)
    assert (ended.text, ended.finish_reason) == ("", "length")


@pytest.mark.parametrize("finish_reason", ["abort", "error"])
def test_a_reply_the_server_gave_up_is_passing_trouble(finish_reason: str) -> None:
    """`abort` and `error` as finish reasons are the replica's doing, not the record's."""
    ended = ask(answering(200, json.dumps(completion(finish_reason=finish_reason))))
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.SERVER
    assert finish_reason in str(ended)


def test_cached_tokens_are_kept_apart_from_unknown() -> None:
    """A server that reports no cache details leaves None, one that reports a miss leaves 0."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
    ended = ask(answering(200, json.dumps(completion(usage=usage))))
    assert isinstance(ended, Reply)
    assert ended.usage == Usage(9, 1, 0)


DATE = "Mon, 23 Nov 2026 06:50:00 GMT"
RETRY_AFTER = {
    "seconds": ({"Retry-After": "7"}, 7.0),
    "a fraction": ({"Retry-After": "0.5"}, 0.5),
    "a date, by the server's clock": ({"Retry-After": "Mon, 23 Nov 2026 06:50:30 GMT", "Date": DATE}, 30.0),
    "a date that is past": ({"Retry-After": "Mon, 23 Nov 2020 06:50:30 GMT", "Date": DATE}, 0.0),
    "a very long wait": ({"Retry-After": "999999999"}, 3600.0),
    "not a number": ({"Retry-After": "nan"}, None),
    "negative": ({"Retry-After": "-3"}, None),
    "nonsense": ({"Retry-After": "soon"}, None),
    "a broken date": ({"Retry-After": "Mon, 99 Nov 99999 99:99:99 GMT"}, None),
    "absent": ({}, None),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "wait"), RETRY_AFTER.values(), ids=RETRY_AFTER.keys())
def test_a_full_replica_says_how_long_to_wait(
    status: int, headers: dict[str, str], wait: float | None
) -> None:
    """429 and 503 are saturation; `Retry-After` is honoured as seconds or date, and bounded."""
    ended = ask(answering(status, '{"error": {"message": "busy"}}', headers))
    assert isinstance(ended, Saturated)
    assert (ended.status, ended.retry_after_seconds) == (status, wait)
    assert is_for_people(str(ended))


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_a_failing_server_is_passing_trouble(status: int) -> None:
    """5xx is the server's trouble, whatever the body is."""
    ended = ask(answering(status, "<html>Bad Gateway</html>"))
    assert isinstance(ended, Transient)
    assert (ended.kind, ended.status) == (TransientKind.SERVER, status)
    assert "Bad Gateway" in str(ended)


def test_older_servers_name_the_length_in_the_message_alone() -> None:
    """Without `param`, a refusal about the context length is still told by `param`."""
    message = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
    for body in (
        {"object": "error", "message": message, "code": 400},
        {"error": {"message": message, "param": None}},
    ):
        ended = ask(answering(400, json.dumps(body)))
        assert isinstance(ended, Permanent)
        assert ended.param == "input_tokens"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """A redirect would send records and the key elsewhere; it is reported instead."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    ended = ask(handler, api_key=KEY)
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.PROTOCOL
    assert asked == ["/v1/chat/completions"]


def test_a_secret_that_the_server_repeats_is_struck_out() -> None:
    """Neither the key nor the password of the address shows in a message, a name or a repr."""
    told = json.dumps(
        {"error": {"message": f"Incorrect API key provided: {KEY}. hunter2 is wrong, too.", "code": 401}}
    )

    async def run() -> None:
        async with serving(answering(401, told)) as url, open_session() as session:
            address = url.replace("http://", "http://user:hunter2@") + "/?token=t0ken"
            replica = VllmReplica(address, session, api_key=KEY)
            assert replica.name == url
            with pytest.raises(Permanent) as refused:
                await replica.ask(BODY, timeout_seconds=5)
            for text in (str(refused.value), repr(replica), replica.name):
                assert not any(secret in text for secret in (KEY, "hunter2", "t0ken"))

    asyncio.run(run())


def test_credentials_in_the_address_are_used() -> None:
    """A user and password in the address go out as basic authorization."""
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response(completion())

    async def run() -> None:
        async with serving(handler) as url:
            assert isinstance(await outcome_at(url.replace("http://", "http://user:hunter2@")), Reply)

    asyncio.run(run())
    assert seen == ["Basic dXNlcjpodW50ZXIy"]


@pytest.mark.parametrize(
    "address", ["gpu-1:8000", "", "ftp://gpu-1", "http://", "http://[::1", "user:hunter2@gpu-1"]
)
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    """The refusal says how to write an address, without repeating what may hold a password."""

    async def run() -> None:
        async with open_session() as session:
            with pytest.raises(Refusal) as refused:
                VllmReplica(address, session)
            assert refused.value.hint == "write it as http://host:port"
            assert "hunter2" not in str(refused.value)

    asyncio.run(run())


def test_an_answer_without_end_is_dropped_at_the_limit() -> None:
    """A body over the limit is not read on, whether it announces its length or not."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    ended = ask_raw(flood, settings=ReplicaSettings(reply_bytes_max=1 << 20))
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.PROTOCOL
    assert "1,048,576 bytes" in str(ended)
    assert sent < 32 << 20


def test_a_long_error_body_does_not_hide_its_status() -> None:
    """An error is what its status says even if its body has no end."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while True:
            writer.write(b"a wall of words " * 4096)
            await writer.drain()

    ended = ask_raw(flood)
    assert isinstance(ended, Permanent)
    assert ended.status == 400
    assert is_for_people(str(ended))


# --- connections -----------------------------------------------------------------------------------------------------


async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close without a word, as soon as the request is there."""


async def give_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close without a word, after work has begun."""
    await asyncio.sleep(1.1)


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announce more than is sent."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()


async def half_chunk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stop inside a chunk."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{")
    await writer.drain()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Abort the connection in the middle of the answer."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()


@pytest.mark.parametrize("connection", [give_up, half, half_chunk, reset])
def test_a_connection_that_dies_is_a_reset(connection: Connection) -> None:
    """A server that goes away under a request, before or inside its answer, is a reset."""
    ended = ask_raw(connection)
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.RESET
    assert is_for_people(str(ended))


def test_a_connection_that_is_closed_as_the_request_is_sent_is_told_apart() -> None:
    """So does a server with an idle connection, and one that ends: no work is lost."""
    ended = ask_raw(slam)
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.DROPPED
    assert is_for_people(str(ended))


NOT_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status that is no number": b"HTTP/1.1 OK\r\n\r\n",
    "a header line without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_a_server_that_does_not_speak_http_is_a_protocol_error(answer: bytes) -> None:
    """What is not HTTP is told from a connection that died."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    ended = ask_raw(speak)
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.PROTOCOL
    assert is_for_people(str(ended))


def test_a_compressed_answer_nobody_asked_for_is_not_inflated() -> None:
    """A few bytes that would inflate to gigabytes stay a few bytes."""
    ended = ask(answering(200, b"\x1f\x8b\x08\x00\x00", {"Content-Encoding": "gzip"}))
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.PROTOCOL


def test_nobody_listening_blames_nobody() -> None:
    """A refused connection and an unknown host are told from a server that failed under the record."""

    async def run() -> list[Reply | MiraStreamError]:
        async with raw_serving(slam) as url:
            gone = url
        return [
            await outcome_at(gone),
            await outcome_at("http://no-such-host.invalid:8000", timeout_seconds=30.0),
        ]

    refused, unknown = asyncio.run(run())
    for ended in (refused, unknown):
        assert isinstance(ended, Transient)
        assert ended.kind == TransientKind.REFUSED
    assert is_for_people(str(refused))
    assert "host name" in str(unknown)


def test_plain_http_behind_https_cannot_be_reached() -> None:
    """A server without TLS at an https address is refused, with the reason."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async def run() -> Reply | MiraStreamError:
        async with raw_serving(speak, head=b"\x16") as url:
            return await outcome_at(url.replace("http://", "https://"))

    ended = asyncio.run(run())
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.REFUSED
    assert "TLS" in str(ended)


@pytest.mark.parametrize("status", [200, 500])
def test_a_server_that_hangs_times_out(status: int) -> None:
    """Silence before or inside the answer ends at the timeout that was asked for."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 10\r\n\r\n{{".encode())
        await writer.drain()
        await reader.read()

    ended = ask_raw(hang, timeout_seconds=0.2)
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.TIMEOUT
    assert is_for_people(str(ended))


def test_cancelling_closes_the_connection() -> None:
    """A cancelled `ask` hangs up, which is how vLLM learns to drop the request."""

    async def run() -> None:
        asked, left = asyncio.Event(), asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(BODY))
            asked.set()
            assert await reader.read() == b""
            left.set()

        async with raw_serving(wait) as url, open_session() as session, asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(VllmReplica(url, session).ask(BODY, timeout_seconds=60))
            async with asyncio.timeout(10):
                await asked.wait()
                asking.cancel()
                await left.wait()
        assert asking.cancelled()

    asyncio.run(run())


def test_many_requests_are_in_flight_at_once() -> None:
    """The session has no cap of its own: more than a hundred requests to one replica wait together."""
    wanted = 150

    async def run() -> None:
        waiting, full = 0, asyncio.Event()

        async def handler(_: web.Request) -> web.Response:
            nonlocal waiting
            waiting += 1
            if waiting == wanted:
                full.set()
            await full.wait()
            return web.json_response(completion())

        async with serving(handler) as url, open_session() as session, asyncio.TaskGroup() as tasks:
            replica = VllmReplica(url, session)
            asks = [tasks.create_task(replica.ask(BODY, timeout_seconds=20)) for _ in range(wanted)]
        assert all(task.result().text for task in asks)

    asyncio.run(run())


def test_connections_are_used_again() -> None:
    """Requests one after another share a connection."""
    ports: set[int] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.json_response(completion())

    async def run() -> None:
        async with serving(handler) as url, open_session() as session:
            replica = VllmReplica(url, session)
            for _ in range(5):
                await replica.ask(BODY, timeout_seconds=5)

    asyncio.run(run())
    assert len(ports) == 1


BAD_LOOKUPS = {"not JSON": b"<html>", "wrong shape": b'{"data": [{"id": 7}], "count": "many"}', "empty": b""}


@pytest.mark.parametrize("body", BAD_LOOKUPS.values(), ids=BAD_LOOKUPS.keys())
def test_lookups_answered_with_something_else_are_protocol_errors(body: bytes) -> None:
    """Models, token count and metrics of a server that is no vLLM fail with what was expected."""

    async def run() -> None:
        async with serving(answering(200, body)) as url, open_session() as session:
            replica = VllmReplica(url, session)
            for lookup in (replica.models, lambda: replica.count(BODY), replica.load):
                with pytest.raises(Transient) as failed:
                    await lookup()
                assert failed.value.kind == TransientKind.PROTOCOL
                assert is_for_people(str(failed.value))

    asyncio.run(run())
