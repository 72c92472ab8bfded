"""Streamed replies in the dispatch stage: their first token makes room, and what they do not tell is expected."""

import asyncio
from pathlib import Path

from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Reply, Usage
from tests.fakes.lab import laboratory
from tests.fakes.pool import Pool, dispatching
from tests.fakes.scripted_replica import GOOD, MODEL, Held, ScriptedReplica


def test_a_first_token_lets_the_next_prompt_go(tmp_path: Path) -> None:
    """Its own prompt is prefilled then: the budget of tokens that are not is free again before it has ended."""
    first = Held()
    one = ScriptedReplica(script=[first])

    async def run() -> None:
        async with laboratory(tmp_path) as lab:
            pool = Pool(lab, one, admission=AdmissionSettings(batched_tokens_max=1024))
            async with dispatching(pool):
                await pool.offer(0, 1, tokens=900)
                await first.asked.wait()
                await pool.until_factor(LimitingFactor.PREFILL)
                first.begin()
                await one.until(lambda _: len(one.asks) == 2)
                first.released.set()

    asyncio.run(run())
    assert one.most_in_flight == 2


def test_a_first_token_after_the_end_is_let_be(tmp_path: Path) -> None:
    """It can only be late news of a request that was given up."""
    first = Held()
    one = ScriptedReplica(script=[first])

    async def run() -> None:
        async with laboratory(tmp_path) as lab:
            pool = Pool(lab, one)
            async with dispatching(pool):
                await pool.offer(0)
                await first.asked.wait()
                first.released.set()
            first.begin()
            assert pool.settled()

    asyncio.run(run())


def test_a_cost_that_is_not_told_is_the_expected_one(tmp_path: Path) -> None:
    """Nothing is learned from it that was not believed before."""
    untold = Reply(GOOD, "stop", Usage(0, 20, estimated=True), MODEL, 0.01)
    one = ScriptedReplica(otherwise=untold)

    async def run() -> list[int]:
        async with laboratory(tmp_path) as lab:
            pool = Pool(lab, one)
            async with dispatching(pool):
                await pool.offer(0, tokens=900)
            return [learned.usage.prompt_tokens for learned in pool.learned]

    assert asyncio.run(run()) == [900]
