"""A replica that answers every request at once with one fixed, well-formed reply: only the client's cost is left.

Run as a process of its own: `python -m bench.macro.instant_replica [SECONDS]`; prints its URL. With seconds it holds
each answer back for so long, so that many are in flight at once.
"""

import asyncio
import json
import sys

import uvloop
from aiohttp import web

MODEL = "whw06/MIRA-Agent-Group1"
_HOLD_SECONDS = float(sys.argv[1]) if __name__ == "__main__" and sys.argv[1:] else 0.0
_BYTES_PER_TOKEN = 4  # about what traces have: the client learns from this as from a real count
_LINES = "\n".join(
    f"[A{n}] Criterion {n}: {n % 11}/10 — The trace shows this plainly in its second half, with one exception."
    for n in range(1, 16)
)
_REPLY = f"{_LINES}\noverall: 64\ntraining_recommendation: keep\ndomain_tag: shell\nbrief: A short session."
_HEAD, _TAIL = (
    json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": _REPLY}, "finish_reason": "stop"}
            ],
            "usage": {"completion_tokens": 600, "prompt_tokens": "HERE"},
        }
    )
    .encode()
    .split(b'"HERE"')
)
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "max_model_len": 65536}]}).encode()
_METRICS = b'vllm:num_requests_running{engine="0"} 0\nvllm:num_requests_waiting{engine="0"} 0\n'


async def _answer(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    tokens = b"%d" % (len(body) // _BYTES_PER_TOKEN)
    if _HOLD_SECONDS and request.path.startswith("/v1/chat"):
        await asyncio.sleep(_HOLD_SECONDS)
    if request.path == "/v1/models":
        return web.Response(body=_MODELS, content_type="application/json")
    if request.path == "/metrics":
        return web.Response(body=_METRICS, content_type="text/plain")
    if request.path == "/tokenize":
        return web.Response(body=b'{"count": %b}' % tokens, content_type="application/json")
    return web.Response(body=_HEAD + tokens + _TAIL, content_type="application/json")


async def _main() -> None:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(_main())
