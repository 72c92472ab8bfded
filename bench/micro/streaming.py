"""What a streamed reply costs the client, by tokens per chunk, against one that comes whole.

`python -m bench.micro.streaming` runs it alone. The server is a process of its own and paces its chunks, so that each
comes in a packet of its own, as from an engine whose steps take tens of milliseconds.
"""

import asyncio
import json
import subprocess
import sys
import time
from statistics import median

import uvloop
from aiohttp import web

from mira_stream.core.early_stop import EarlyStop
from mira_stream.core.row import SLOTS
from mira_stream.replica.vllm import VllmReplica, open_session

_TOKENS = 700
_IN_FLIGHT = 64
_REPLIES = {0: 4096, 1: 128, 10: 512, 50: 1024}
"""How many a run asks for, by tokens per chunk (0: whole): connecting must not count."""
_PACE_SECONDS = 0.004
_REPLY = "\n".join(
    [f"[{slot}] criterion {slot}: 7/10 — {'the reason for it, at some length, ' * 6}" for slot in SLOTS]
    + ["overall: 70", "training_recommendation: keep", "domain_tag: coding", "brief: A fine trace."]
)
SIZES = (1, 10, 50)


def measure(*, runs: int = 3) -> dict[str, object]:
    """CPU of the client process alone (user and system) in µs a reply, in turn; and chunks in µs each."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.micro.streaming", "serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        costs: dict[int, list[float]] = {size: [] for size in (0, *SIZES)}
        for _ in range(runs):
            for size, seen in costs.items():
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    seen.append(runner.run(_cost(url, size)))
    finally:
        server.terminate()
        server.wait()
    whole = median(costs[0])
    figures: dict[str, object] = {"whole reply, µs": _spread(costs[0])}
    for size in SIZES:
        chunks = -(-_TOKENS // size)
        figures[f"streamed, {size} tokens a chunk, µs"] = _spread(costs[size])
        figures[f"streamed, {size} tokens a chunk, ÷ whole"] = round(median(costs[size]) / whole, 2)
        figures[f"streamed, {size} tokens a chunk, µs a chunk"] = round(
            (median(costs[size]) - whole) / chunks, 1
        )
    return figures


async def _cost(url: str, size: int) -> float:
    async with open_session() as session:
        replica = VllmReplica(url, session, watch=lambda: EarlyStop(SLOTS))
        body = json.dumps({"size": size}).encode()

        async def ask(count: int) -> None:
            for _ in range(count):
                reply = await replica.ask(body, timeout_seconds=60)
                assert len(reply.text) == len(_REPLY)

        began = time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(_IN_FLIGHT):
                group.create_task(ask(_REPLIES[size] // _IN_FLIGHT))
        return (time.process_time() - began) / _REPLIES[size] * 1e6


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values)), "min": round(min(values)), "max": round(max(values))}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 30_000, "completion_tokens": tokens, "total_tokens": 30_000 + tokens}


def _chunks(size: int) -> list[bytes]:
    """The reply as vLLM streams it, with the cost in every chunk."""
    count = -(-_TOKENS // size)
    step = -(-len(_REPLY) // count)
    chunks = []
    for number in range(count):
        text = _REPLY[number * step : (number + 1) * step]
        last = number == count - 1
        choice = {
            "index": 0,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": "stop" if last else None,
            "token_ids": None,
        }
        told = {
            "id": "chatcmpl-8d3c5a8f5e3b4b0f9d8f7a6b5c4d3e2f",
            "object": "chat.completion.chunk",
            "created": 1_795_416_820,
            "model": "whw06/MIRA-Agent-Group1",
            "choices": [choice],
            "usage": _usage((number + 1) * size),
        }
        chunks.append(b"data: " + json.dumps(told).encode() + b"\n\n")
    return [*chunks, b"data: [DONE]\n\n"]


async def _serve() -> None:
    streams = {size: _chunks(size) for size in SIZES}
    choice = {"index": 0, "message": {"role": "assistant", "content": _REPLY}, "finish_reason": "stop"}
    whole = json.dumps({"model": "m", "choices": [choice], "usage": _usage(_TOKENS)}).encode()

    async def handle(request: web.Request) -> web.StreamResponse:
        size = json.loads(await request.read())["size"]
        if size == 0:
            return web.Response(body=whole, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for chunk in streams[size]:
            await response.write(chunk)
            await asyncio.sleep(_PACE_SECONDS)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvloop.install()
        asyncio.run(_serve())
    else:
        print(json.dumps(measure(), indent=2))
