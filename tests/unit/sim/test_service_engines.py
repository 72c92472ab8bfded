"""The running replica as vLLM V1: several engines, preemption, prefix cache, load reports, other names, spans of trouble."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.usage import Load
from mira_stream.replica.load import parse_load
from mira_stream.sim.service import SimHandle, running_sim
from mira_stream.sim.settings import SimSettings, check_sizes

Story = Callable[[SimHandle, aiohttp.ClientSession], Awaitable[None]]
CHAT = "/v1/chat/completions"
SYSTEM = "The rubric and its anchors. " * 40
SHARED_BYTES = 9 + len(SYSTEM) + 6 + 9  # with the marks around the message, and before the next


def play(story: Story, **settings: Any) -> None:
    """Run a story against a replica; no story takes longer than some seconds."""

    async def run() -> None:
        async with (
            asyncio.timeout(20),
            running_sim(SimSettings(**({"time_scale": 0.001} | settings))) as sim,
            aiohttp.ClientSession() as session,
        ):
            await story(sim, session)

    asyncio.run(run())


def body(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": 100, **fields}


async def ask(sim: SimHandle, session: aiohttp.ClientSession, text: str = "It works.", **fields: Any) -> Any:
    async with session.post(sim.url + CHAT, json=body(text, **fields)) as reply:
        assert reply.status == 200
        return await reply.json()


async def crowd(sim: SimHandle, session: aiohttp.ClientSession, number: int, **fields: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for one in range(number):
            group.create_task(ask(sim, session, f"{one} " * 500, **fields))


async def page(sim: SimHandle, session: aiohttp.ClientSession) -> str:
    async with session.get(f"{sim.url}/metrics") as reply:
        return await reply.text()


async def load(sim: SimHandle, session: aiohttp.ClientSession) -> Load:
    found = parse_load(await page(sim, session))
    assert found is not None
    return found


def test_several_engines_share_the_requests() -> None:
    """Each engine has its own label and series; a crowd is spread over all of them."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        await crowd(sim, session, 12)
        text = await page(sim, session)
        for engine in "012":
            line = (
                f'vllm:request_success_total{{engine="{engine}",finished_reason="length",model_name="m"}} 4.0'
            )
            assert line in text
            assert f'engine="{engine}"' in text.partition("vllm:cache_config_info{")[2]
        seen = await load(sim, session)
        assert (seen.engines, seen.blocks, seen.running) == (3, 3 * 65_536, 0)

    play(story, engines=3, model="m", time_scale=0.05)


def test_preemption_shows_in_the_counters() -> None:
    """Where outputs outgrow the KV, sequences are preempted, counted, and answered all the same."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        await crowd(sim, session, 6, max_tokens=1_000)
        seen = await load(sim, session)
        assert seen.preemptions == sim.stats.preemptions > 0
        assert sim.stats.recomputed_tokens > 0
        assert (sim.stats.answered, sim.stats.peak_kv_usage) == (6, 1.0)
        sums = [line for line in (await page(sim, session)).splitlines() if "num_preemptions_sum" in line]
        assert float(sums[0].split()[-1]) == seen.preemptions

    play(story, max_model_len=2_560, kv_capacity_tokens=2_560, prefix_cache="off")


def test_a_shared_prompt_is_hit_and_told() -> None:
    """The second request with the same system message hits its blocks: in the counters, in `usage`, in `/metrics`."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        first, second = [(await ask(sim, session, text))["usage"] for text in ("abc " * 90, "xyz " * 90)]
        hit = SHARED_BYTES // 48 * 16
        full = second["prompt_tokens"] // 16 * 16
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert second["prompt_tokens_details"] == {
            "cached_tokens": hit,
            "created_cache_tokens": full - hit,
            "multimodal_tokens": None,
        }
        seen = await load(sim, session)
        prompts = first["prompt_tokens"] + second["prompt_tokens"]
        assert (seen.prefix_cache_hits, seen.prefix_cache_queries, seen.prompt_tokens) == (
            hit,
            prompts,
            prompts,
        )
        assert f'source="local_cache_hit"}} {float(hit)}' in await page(sim, session)
        assert sim.stats.prefix_hit_tokens == hit

    play(story, enable_prompt_tokens_details=True)


@pytest.mark.parametrize("kind", ["hybrid", "off"])
def test_a_shared_prompt_is_not_always_hit(kind: str) -> None:
    """The cache of hybrid models misses it, and one that is off has none; `usage` tells nothing unasked."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        for text in ("abc " * 90, "xyz " * 90):
            assert (await ask(sim, session, text))["usage"]["prompt_tokens_details"] is None
        assert (await load(sim, session)).prefix_cache_hits == 0

    play(story, prefix_cache=kind, hybrid_block_tokens=64)


def test_a_warm_up_makes_a_hybrid_hit() -> None:
    """A request that is the shared part alone leaves a state that the next one hits."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        # Its last full block ends in the shared part, so it leaves its state there.
        shared = {"messages": [{"role": "system", "content": SYSTEM}], "add_generation_prompt": False}
        async with session.post(sim.url + CHAT, json=shared | {"max_tokens": 1}) as reply:
            assert reply.status == 200
        await ask(sim, session, "abc " * 90)
        assert (await load(sim, session)).prefix_cache_hits == SHARED_BYTES // (64 * 3) * 64

    play(story, prefix_cache="hybrid", hybrid_block_tokens=64)


@pytest.mark.parametrize("stream", [False, True])
def test_the_load_comes_with_the_answer(stream: bool) -> None:
    """Whoever asks for it gets usage and waiting in a header, as JSON or as text."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        expected = {
            "JSON": 'JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}',
            "text": "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0",
            "xml": None,
        }
        for form, report in expected.items():
            headers = {"endpoint-load-metrics-format": form}
            async with session.post(sim.url + CHAT, json=body("x", stream=stream), headers=headers) as reply:
                assert reply.headers.get("endpoint-load-metrics") == report
        async with session.post(sim.url + CHAT, json=body("x", stream=stream)) as reply:
            assert "endpoint-load-metrics" not in reply.headers

    play(story)


def test_older_releases_have_other_names() -> None:
    """With old names usage and prefix counters are where older releases have them, and newer families are absent."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        await ask(sim, session, "abc " * 90)
        await ask(sim, session, "xyz " * 90)
        text = await page(sim, session)
        for name in (
            "gpu_cache_usage_perc",
            "gpu_prefix_cache_hits_total",
            "time_per_output_token_seconds_sum",
        ):
            assert f"\nvllm:{name}{{" in text
        for name in ("kv_cache_usage_perc", "prefix_cache_hits", "by_reason", "inter_token_latency"):
            assert f"vllm:{name}" not in text
        seen = await load(sim, session)
        assert seen.prefix_cache_hits
        assert seen.kv_usage == 0.0

    play(story, metric_names="old")


def test_frozen_metrics_stand_still() -> None:
    """In its span `/metrics` repeats its first page, and requests are served as ever; after it the truth is back."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        frozen = await page(sim, session)
        await ask(sim, session)
        assert await page(sim, session) == frozen
        async with asyncio.timeout(10):
            while await page(sim, session) == frozen:
                await asyncio.wait_for(session.get(f"{sim.url}/health"), 1)
        assert (await load(sim, session)).generation_tokens == 100

    play(story, faults=("frozen@0s-20s",), time_scale=0.02)  # 0.4 s of wall time


def test_a_hang_with_a_span_ends_with_it() -> None:
    """A request that arrives in the span is answered when it is over."""

    async def story(sim: SimHandle, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await ask(sim, session)
        assert loop.time() - began >= 0.1
        assert sim.stats.answered == 1

    play(story, faults=("hang@0s-15s",), time_scale=0.01)


def test_sizes_that_cannot_work_are_refused() -> None:
    """A KV cache, or a step, that cannot hold what it must is refused before the start."""
    with pytest.raises(Refusal, match="in blocks of 1056"):
        check_sizes(SimSettings(prefix_cache="hybrid", kv_capacity_tokens=65_536))
    with pytest.raises(Refusal, match="less than one request"):
        check_sizes(SimSettings(kv_capacity_tokens=65_536, state_tokens_per_request=1))
    with pytest.raises(Refusal, match="hybrid_block_tokens 1056"):
        check_sizes(SimSettings(prefix_cache="hybrid", max_num_batched_tokens=512))
