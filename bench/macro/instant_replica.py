"""A replica that answers every request at once with one fixed, well-formed reply: only the client's cost is left.

Run as a process of its own: `python -m bench.macro.instant_replica [--tokenizer FOLDER] [--context TOKENS] [--port N]`;
prints its URL. With a tokenizer it reports exact prompt tokens; a body that was seen before costs it a digest only.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from mira_stream.replica.chat_template import load_chat_template
from mira_stream.replica.tokenizer import Tokenizer, special_tokens

MODEL = "whw06/MIRA-Agent-Group1"
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
_CONTEXT_TOKENS = 65_536
_METRICS = b'vllm:num_requests_running{engine="0"} %d\nvllm:num_requests_waiting{engine="0"} 0\n'


Count = Callable[[bytes], int]


@contextmanager
def instant_replica(
    *, tokenizer: Path | None = None, context_tokens: int = _CONTEXT_TOKENS, port: int = 0
) -> Iterator[str]:
    """The URL of one in a process of its own."""
    options = [
        "--context",
        str(context_tokens),
        "--port",
        str(port),
        *(["--tokenizer", str(tokenizer)] if tokenizer else []),
    ]
    command = [sys.executable, "-m", "bench.macro.instant_replica", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def most_held(url: str) -> int:
    """The most completions that were held back at a time since the last such question."""
    with urllib.request.urlopen(f"{url}/held") as response:
        return int(json.load(response)["most"])


class _Message(msgspec.Struct):
    content: str


class _Body(msgspec.Struct):
    messages: tuple[_Message, _Message] | None = None


def _exact_count(folder: Path) -> Count:
    """Counts bodies as the model's server does, those that were seen before by their digest."""
    file = folder / "tokenizer.json"
    encode, template = Tokenizer(file, library="gigatoken").encode, load_chat_template(folder, {})
    special = re.compile("|".join(map(re.escape, special_tokens(file))))
    body_of = msgspec.json.Decoder(_Body)
    known: dict[bytes, int] = {}

    def count(body: bytes) -> int:
        digest = blake2b(body, digest_size=16).digest()
        if digest not in known:
            messages = body_of.decode(body).messages
            if messages is None:
                return _roughly(body)
            prompt = template.render(messages[0].content, messages[1].content)
            texts = special.split(prompt)
            known[digest] = len(texts) - 1 + sum(len(encode(text.encode())) for text in texts if text)
        return known[digest]

    return count


def _roughly(body: bytes) -> int:
    return len(body) // _BYTES_PER_TOKEN


class _Instant:
    """Answers; the most requests that were held at a time are told at `/held`."""

    def __init__(self, count: Count, context_tokens: int) -> None:
        listed = {"object": "list", "data": [{"id": MODEL, "max_model_len": context_tokens}]}
        self._models = json.dumps(listed).encode()
        self._count = count
        self._held = 0
        self._held_max = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Whatever is asked; below `/held/SECONDS` completions are held back for so long."""
        body = await request.read()
        if request.path == "/held":
            told, self._held_max = self._held_max, 0
            return web.json_response({"most": told})
        if request.path.endswith("/v1/models"):
            return web.Response(body=self._models, content_type="application/json")
        if request.path.endswith("/metrics"):
            return web.Response(body=_METRICS % self._held, content_type="text/plain")
        tokens = b"%d" % self._count(body)
        if request.path.endswith("/tokenize"):
            return web.Response(body=b'{"count": %b}' % tokens, content_type="application/json")
        if request.path.startswith("/held/"):
            await self._hold(float(request.path.split("/")[2]))
        return web.Response(body=_HEAD + tokens + _TAIL, content_type="application/json")

    async def _hold(self, seconds: float) -> None:
        self._held += 1
        self._held_max = max(self._held_max, self._held)
        await asyncio.sleep(seconds)
        self._held -= 1


async def _main(tokenizer: Path | None, context_tokens: int, port: int) -> None:
    count = _exact_count(tokenizer) if tokenizer else _roughly
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", _Instant(count, context_tokens).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--context", type=int, default=_CONTEXT_TOKENS)
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    uvloop.install()
    asyncio.run(_main(chosen.tokenizer, chosen.context, chosen.port))
