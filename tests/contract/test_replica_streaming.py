"""Streaming, over real sockets: against servers that break off or stall, and against the simulated vLLM."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from mira_stream.core.early_stop import EarlyStop
from mira_stream.core.errors import MiraStreamError, Transient, TransientKind
from mira_stream.core.request import RequestEncoder, RequestSettings
from mira_stream.core.row import SLOTS
from mira_stream.core.usage import Reply
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
        (b'data: {"error": {"message": "engine died", "code": 500}}\n\n', TransientKind.SERVER),
        (b"data: nonsense\n\n", TransientKind.SERVER),
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
