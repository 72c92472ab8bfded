"""Streaming, over real sockets: against servers that break off or stall, and against the simulated vLLM."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from mira_stream.core.early_stop import EarlyStop
from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient, TransientKind
from mira_stream.core.outcome import Reason
from mira_stream.core.reply import parse
from mira_stream.core.request import RequestEncoder, RequestSettings
from mira_stream.core.row import SLOTS
from mira_stream.core.usage import Reply, Usage, with_expected
from mira_stream.replica.settings import ReplicaSettings
from mira_stream.replica.vllm import VllmReplica, open_session
from mira_stream.sim.service import running_sim
from mira_stream.sim.settings import SimSettings

MODEL = "whw06/MIRA-Agent-Group1"
Tell = Callable[[web.StreamResponse], Awaitable[None]]


def chunk(text: str, finish: str | None = None, tokens: int = 1) -> bytes:
    told = {
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 9, "completion_tokens": tokens},
    }
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def error_event(message: str, code: int, param: str | None = None) -> bytes:
    """As vLLM streams an error once the 200 is out."""
    told = {"error": {"message": message, "type": "t", "param": param, "code": code}}
    return b"data: " + json.dumps(told).encode() + b"\n\ndata: [DONE]\n\n"


async def outcome(tell: Tell, *, timeout_seconds: float = 5.0, **settings: float) -> tuple[object, list[str]]:
    """What asking a server that streams like this ends in, and what happened at it and at us."""
    events: list[str] = []
    over = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            await tell(response)
        except (asyncio.CancelledError, ConnectionError):
            events.append("left")
            raise
        finally:
            over.set()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with open_session() as session:
            replica = VllmReplica(
                f"http://127.0.0.1:{runner.addresses[0][1]}",
                session,
                watch=lambda: EarlyStop(SLOTS),
                settings=ReplicaSettings(**settings),  # type: ignore[arg-type]
            )
            try:
                ended: object = await replica.ask(
                    b"{}", timeout_seconds=timeout_seconds, on_started=lambda: events.append("started")
                )
            except MiraStreamError as error:
                ended = error
            await over.wait()
            return ended, events
    finally:
        await runner.cleanup()


def test_a_stream_is_put_together() -> None:
    """Text, finish reason and cost; the start is told once."""

    async def tell(response: web.StreamResponse) -> None:
        for number, text in enumerate(["", "one ", "two"]):
            await response.write(chunk(text, tokens=number))
        await response.write(chunk("", finish="stop", tokens=3) + b"data: [DONE]\n\n")

    ended, events = asyncio.run(outcome(tell))
    assert isinstance(ended, Reply)
    assert (ended.text, ended.finish_reason, ended.usage.completion_tokens) == ("one two", "stop", 3)
    assert events == ["started"]


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (error_event("engine died", 500), TransientKind.SERVER),
        (error_event("cannot schedule new futures after shutdown", 500), TransientKind.SHUTDOWN),
        (error_event("gave up", 408), TransientKind.TIMEOUT),
        (b"data: nonsense\n\n", TransientKind.PROTOCOL),
        (b"", TransientKind.RESET),
        (chunk("x", finish="abort"), TransientKind.SERVER),
    ],
)
def test_a_stream_that_fails_is_passing_trouble(last: bytes, kind: TransientKind) -> None:
    """It began with 200; what came of it is never taken for a reply."""

    async def tell(response: web.StreamResponse) -> None:
        await response.write(chunk("one ") + last)

    ended, _ = asyncio.run(outcome(tell))
    assert isinstance(ended, Transient)
    assert ended.kind == kind


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (error_event("The engine is currently busy", 503), Saturated),
        (error_event("too long", 400, param="input_tokens"), Permanent),
    ],
)
def test_an_error_in_a_stream_is_the_answer_it_stands_for(
    last: bytes, expected: type[MiraStreamError]
) -> None:
    """What is refused after the 200 is refused all the same: nobody is taken for crashed."""

    async def tell(response: web.StreamResponse) -> None:
        await response.write(last)

    ended, events = asyncio.run(outcome(tell))
    assert isinstance(ended, expected)
    assert "started" not in events
    if isinstance(ended, Permanent):
        assert (ended.status, ended.param) == (400, "input_tokens")


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 4000, chunk("word " * 800)])
def test_a_stream_without_measure_is_dropped(piece: bytes) -> None:
    """A line that never ends, and a reply that does not."""

    async def tell(response: web.StreamResponse) -> None:
        while True:
            await response.write(piece)

    ended, events = asyncio.run(outcome(tell, reply_bytes_max=100_000))
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.PROTOCOL
    assert "more than 100,000 bytes" in str(ended)
    assert events[-1] == "left"


def test_a_comment_is_no_progress() -> None:
    """A proxy that keeps the connection open does not make a hanging engine look alive."""

    async def tell(response: web.StreamResponse) -> None:
        await response.write(chunk("one "))
        while True:
            await asyncio.sleep(0.05)
            await response.write(b": still there\n\n")

    ended, events = asyncio.run(outcome(tell, idle_seconds=0.3))
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.TIMEOUT
    assert "began its reply" in str(ended)
    assert events == ["started", "left"]


def test_connections_are_used_again_after_a_stream() -> None:
    """Also where what ends the answer comes in a packet of its own; one that does not end is given up."""
    ports: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = chunk("one", finish="stop") + b"data: [DONE]\n\n"
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                ports.append(writer.get_extra_info("peername")[1])
                writer.write(head + b"%x\r\n%b\r\n" % (len(body), body))
                await writer.drain()
                await asyncio.sleep(0.02)
                if len(ports) != 3:
                    writer.write(b"0\r\n\r\n")
        except asyncio.IncompleteReadError:
            pass  # the client left, as it does at the end
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            async with open_session() as session:
                replica = VllmReplica(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session)
                for _ in range(4):
                    assert (await replica.ask(b"{}", timeout_seconds=5)).text == "one"
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(run())
    assert ports[0] == ports[1] == ports[2] != ports[3]


def test_a_cost_that_is_not_told_is_marked() -> None:
    """It is guessed from what came."""

    async def tell(response: web.StreamResponse) -> None:
        choice = {"index": 0, "delta": {"content": "text " * 16}, "finish_reason": "stop"}
        await response.write(b"data: " + json.dumps({"model": "m", "choices": [choice]}).encode() + b"\n\n")

    ended, _ = asyncio.run(outcome(tell))
    assert isinstance(ended, Reply)
    assert ended.usage == Usage(0, 20, estimated=True)
    assert with_expected(ended, 70).usage == Usage(70, 20, estimated=True)


def test_progress_counts_once_a_reply_has_begun() -> None:
    """It may take longer than the time to its first token, and times out when no piece comes any more."""

    async def tell(response: web.StreamResponse) -> None:
        for _ in range(8):
            await response.write(chunk("word "))
            await asyncio.sleep(0.1)
        await asyncio.Event().wait()

    async def run() -> tuple[object, float]:
        began = asyncio.get_running_loop().time()
        ended, _ = await outcome(tell, timeout_seconds=0.3, idle_seconds=0.4)
        return ended, asyncio.get_running_loop().time() - began

    ended, seconds = asyncio.run(run())
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.TIMEOUT
    assert seconds > 0.8


def test_a_reply_that_never_begins_times_out() -> None:
    """By the predicted time."""

    async def tell(response: web.StreamResponse) -> None:
        await response.write(b": waiting\n\n")
        await asyncio.Event().wait()

    ended, events = asyncio.run(outcome(tell, timeout_seconds=0.2))
    assert isinstance(ended, Transient)
    assert ended.kind == TransientKind.TIMEOUT
    assert "started" not in events


def test_a_loop_is_left() -> None:
    """The connection is closed, so that the server drops the request; what it cost is known."""

    async def tell(response: web.StreamResponse) -> None:
        number = 0
        while True:
            number += 1
            await response.write(chunk("again and again, ", tokens=number))
            await asyncio.sleep(0)

    ended, events = asyncio.run(outcome(tell))
    assert isinstance(ended, Reply)
    assert (ended.finish_reason, ended.stopped_early) == ("repetition", "repetition")
    assert 30 < ended.usage.completion_tokens < 60
    assert events == ["started", "left"]


def test_the_simulated_vllm_streams_what_it_answers_in_one_piece() -> None:
    """The same text, reason and cost either way; it is told to have started before it ends."""

    async def run() -> tuple[Reply, Reply, list[bool]]:
        started: list[bool] = []
        async with (
            running_sim(SimSettings(time_scale=0.001)) as sim,
            aiohttp.ClientSession() as _,
            open_session() as session,
        ):
            replica = VllmReplica(sim.url, session, watch=lambda: EarlyStop(SLOTS))
            bodies = [
                RequestEncoder(RequestSettings(stream=stream), MODEL).encode_chat("Grade it.", "a record")
                for stream in (False, True)
            ]
            whole = await replica.ask(bodies[0], timeout_seconds=10)
            streamed = await replica.ask(
                bodies[1], timeout_seconds=10, on_started=lambda: started.append(True)
            )
        return whole, streamed, started

    whole, streamed, started = asyncio.run(run())
    assert (streamed.text, streamed.finish_reason) == (whole.text, whole.finish_reason)
    assert streamed.usage == whole.usage
    assert streamed.model == whole.model
    assert started == [True]


def test_a_load_report_comes_with_the_answer_where_it_is_asked_for() -> None:
    """The simulated vLLM says its usage and its queue on the answer itself; nobody asks unless told to."""

    async def run() -> list[Reply]:
        async with running_sim(SimSettings(time_scale=0.001)) as sim, open_session() as session:
            body = RequestEncoder(RequestSettings(), MODEL).encode_chat("Grade it.", "a record")
            return [
                await VllmReplica(sim.url, session, settings=ReplicaSettings(load_reports=wanted)).ask(
                    body, timeout_seconds=10
                )
                for wanted in (True, False)
            ]

    reported, silent = asyncio.run(run())
    assert reported.load is not None
    assert reported.load.waiting == 0
    assert silent.load is None


def test_the_simulated_vllm_drops_what_is_left() -> None:
    """A reply that runs away is left, and the engine stops working on it."""

    async def run() -> tuple[Reply, int]:
        settings = SimSettings(time_scale=0.002, damage_share=1.0, damage_kinds=("runaway",))
        async with running_sim(settings) as sim, open_session() as session:
            replica = VllmReplica(sim.url, session, watch=lambda: EarlyStop(SLOTS))
            body = RequestEncoder(RequestSettings(stream=True), MODEL).encode_chat("Grade it.", "a record")
            reply = await replica.ask(body, timeout_seconds=10)
            await sim.idle()
            return reply, sim.stats.aborted

    reply, aborted = asyncio.run(run())
    assert (reply.finish_reason, reply.stopped_early) == ("repetition", "repetition")
    assert reply.usage.completion_tokens < RequestSettings().max_tokens
    assert reply.usage.prompt_tokens > 0
    parsed = parse(reply.text, reply.finish_reason)
    assert (parsed.complete, parsed.reason) == (False, Reason.CUT_REPLY)
    assert aborted == 1
