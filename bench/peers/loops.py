"""One client's loop in a process of its own: build the request, POST it, parse the answer, 64 at a time.

`python bench/peers/loops.py NAME URL PROMPTS --requests N`: PROMPTS holds [system, user] as JSON, one a line; prints
how many were done and the CPU seconds of the loop, as JSON. Needs nothing of this repository but for NAME `ours`.
"""

import argparse
import asyncio
import json
import resource
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from itertools import cycle, islice
from pathlib import Path
from typing import Any

Prompt = tuple[str, str]
_IN_FLIGHT = 64
_SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 2048}
_MODEL = "whw06/MIRA-Agent-Group1"


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "system", "content": prompt[0]}, {"role": "user", "content": prompt[1]}]


async def _each(prompts: list[Prompt], ask: Callable[[Prompt], Awaitable[object]]) -> int:
    source, done = iter(prompts), 0

    async def worker() -> None:
        nonlocal done
        for prompt in source:
            await ask(prompt)
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(worker())
    return done


async def _ours(url: str, prompts: list[Prompt]) -> int:
    from mira_stream.core.reply import parse
    from mira_stream.core.request import RequestEncoder, RequestSettings
    from mira_stream.replica.vllm import VllmReplica, open_session

    encoder = RequestEncoder(RequestSettings(), model=_MODEL)
    async with open_session() as session:
        replica = VllmReplica(url, session)

        async def ask(prompt: Prompt) -> object:
            reply = await replica.ask(encoder.encode_chat(*prompt), timeout_seconds=60)
            return parse(reply.text, reply.finish_reason)

        return await _each(prompts, ask)


async def _openai(url: str, prompts: list[Prompt]) -> int:
    import openai

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

        async def ask(prompt: Prompt) -> object:
            answer = await client.chat.completions.create(
                model=_MODEL,
                messages=_messages(prompt),  # type: ignore[arg-type]  # its own kinds of dict
                **_SAMPLING,
            )
            return answer.choices[0].message.content

        return await _each(prompts, ask)


async def _datatrove(url: str, prompts: list[Prompt]) -> int:
    """Its InferenceRunner with an endpoint; what it writes is dropped."""
    from datatrove.data import Document
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.writers import JsonlWriter

    done = 0

    async def rollout(document: Document, generate: Callable[..., Awaitable[Any]], **_: object) -> object:
        nonlocal done
        prompt = prompts[int(document.id)]
        result = await generate({"messages": _messages(prompt)})
        done += 1
        return result

    with tempfile.TemporaryDirectory() as folder:
        config = InferenceConfig(
            server_type="endpoint",
            model_name_or_path=_MODEL,
            endpoint_url=url,
            default_generation_params=_SAMPLING,
            rollouts_per_document=1,
            max_concurrent_generations=_IN_FLIGHT,
            metric_interval=3600,
        )
        writer = JsonlWriter(folder, compression=None)
        runner = InferenceRunner(rollout, config, output_writer=writer)
        await runner.run_async([Document(text="", id=str(number)) for number in range(len(prompts))])
    return done


_LOOPS = {"ours": _ours, "openai": _openai, "datatrove": _datatrove}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=_LOOPS)
    parser.add_argument("url")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--requests", type=int, required=True)
    chosen = parser.parse_args()
    with chosen.prompts.open(encoding="utf-8") as lines:
        known = [(system, user) for system, user in map(json.loads, lines)]
    prompts = list(islice(cycle(known), chosen.requests))
    work = _LOOPS[chosen.name](chosen.url, prompts)
    before = _spent()
    done = asyncio.run(work, debug=False) if chosen.name != "ours" else _with_uvloop(work)
    print(json.dumps({"done": done, "seconds": _spent() - before}))


def _with_uvloop(work: Coroutine[Any, Any, int]) -> int:
    import uvloop

    return uvloop.run(work)


def _spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
