"""Hedging: at the very end of a run a stuck record is asked about elsewhere too; one outcome, whoever is first."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

from mira_stream.control.retry import History
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import Transient, TransientKind
from mira_stream.core.outcome import Outcome
from mira_stream.pipeline.request import PoolRequest
from mira_stream.telemetry import registry as metrics
from tests.fakes.lab import laboratory
from tests.fakes.ledgers import rival_rows
from tests.fakes.pool import GROUP, OBJECT, Pool, dispatching
from tests.fakes.scripted_replica import GOOD, Held, ScriptedReplica

RESET = Transient(TransientKind.RESET, "connection reset")
STUCK = b"a stuck record"
WARM = 20
"""Records answered before, so that it is known how long answers take."""


def _play(
    tmp_path: Path,
    story: Callable[[Pool], Coroutine[None, None, None]],
    *replicas: ScriptedReplica,
    hedge: bool = True,
) -> None:
    """Warm the pool up, offer one more record, close, run the story; in the end every record was scored once."""

    async def run() -> None:
        async with asyncio.timeout(20), laboratory(tmp_path) as lab:
            pool = Pool(lab, *replicas, admission=AdmissionSettings(kv_tokens=100_000, hedge=hedge))
            async with dispatching(pool):
                await pool.offer(*range(WARM))
                await _until(lambda: _answers(pool) == WARM)
                await pool.offer(WARM)
                pool.dispatcher.close()
                await story(pool)
            ends = await lab.published_once()
            assert ends == {(Outcome.SCORED, None): WARM + 1}
            assert lab.account.in_pipeline == 0

    asyncio.run(run())


def _replicas(answer: Held) -> tuple[ScriptedReplica, ScriptedReplica]:
    """Whichever of the two is asked about the last record first is stuck with it."""
    stuck: list[bytes] = []

    def say(body: bytes) -> Held | str:
        if b"record 20" in body and not stuck:
            stuck.append(body)
            return answer
        return GOOD

    return ScriptedReplica("http://one", otherwise=say), ScriptedReplica("http://two", otherwise=say)


async def _until(holds: Callable[[], bool]) -> None:
    """Wait for what happens in steps of the loop, not in time."""
    for _ in range(5000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


def _answers(pool: Pool) -> float:
    return pool.lab.meters.sum(metrics.REPLICA_ANSWERS)


def _asks(*replicas: ScriptedReplica) -> int:
    return sum(len(one.asks) for one in replicas)


def test_a_stuck_record_is_asked_about_elsewhere_and_ends_once(tmp_path: Path) -> None:
    """The quicker one counts; the other is given up, and what it cost is counted as wasted."""
    held = Held()
    one, two = _replicas(held)

    async def story(pool: Pool) -> None:
        await held.asked.wait()
        assert _asks(one, two) == WARM + 1
        pool.advance(11)
        await _until(lambda: _answers(pool) == WARM + 1)
        assert _asks(one, two) == WARM + 2
        assert {len(one.asks) > 0, len(two.asks) > 0} == {True}

    _play(tmp_path, story, one, two)
    assert one.cancelled + two.cancelled == 1


def test_nothing_is_hedged_where_it_is_switched_off(tmp_path: Path) -> None:
    """The record waits for its own answer."""
    held = Held()
    one, two = _replicas(held)

    async def story(pool: Pool) -> None:
        await held.asked.wait()
        pool.advance(11)
        for _ in range(20):
            await asyncio.sleep(0)
        assert _asks(one, two) == WARM + 1
        held.released.set()

    _play(tmp_path, story, one, two, hedge=False)


def test_a_first_attempt_that_fails_leaves_it_to_the_second(tmp_path: Path) -> None:
    """It is not sent a third time while the second attempt may still bring the outcome."""
    first, second = Held(RESET), Held()
    waiting = [first, second]

    def say(body: bytes) -> Held | str:
        return waiting.pop(0) if b"record 20" in body and waiting else GOOD

    one, two = ScriptedReplica("http://one", otherwise=say), ScriptedReplica("http://two", otherwise=say)

    async def story(pool: Pool) -> None:
        await first.asked.wait()
        pool.advance(11)
        await second.asked.wait()
        first.released.set()
        await _until(lambda: one.in_flight + two.in_flight == 1)
        assert pool.window == 0
        second.released.set()
        await _until(lambda: _answers(pool) == WARM + 1)
        assert pool.lab.meters.value(metrics.POOL_WASTED_TOKENS, (GROUP, "hedge")) > 0

    _play(tmp_path, story, one, two)


def test_two_attempts_that_fail_are_one_retry(tmp_path: Path) -> None:
    """The record comes back into the window once, and is scored."""
    first, second = Held(RESET), Held(RESET)
    waiting = [first, second]

    def say(body: bytes) -> Held | str:
        return waiting.pop(0) if b"record 20" in body and waiting else GOOD

    one, two = ScriptedReplica("http://one", otherwise=say), ScriptedReplica("http://two", otherwise=say)

    async def story(pool: Pool) -> None:
        await first.asked.wait()
        pool.advance(11)
        await second.asked.wait()
        first.released.set()
        second.released.set()
        await _until(lambda: one.in_flight + two.in_flight == 0)
        pool.advance(60)
        await _until(lambda: _answers(pool) == WARM + 1)

    _play(tmp_path, story, one, two)
    assert _asks(one, two) == WARM + 3


def test_a_suspect_is_not_taken_to_a_second_replica(tmp_path: Path) -> None:
    """It was there when replicas crashed: where it hangs now, it is alone; elsewhere it would join others."""

    async def run() -> None:
        async with laboratory(tmp_path) as lab:
            request = PoolRequest(Pool(lab, ScriptedReplica()).prepared(0))
            request.flying["http://one"] = 1000.0
            request.history = History(crashes=1)
            assert request.only_flight == ("http://one", 1000.0)
            request.history = History(crashes=2)
            assert request.only_flight is None

    asyncio.run(run())


def test_an_attempt_that_starts_when_all_is_over_ends_nothing_again(tmp_path: Path) -> None:
    """Not even where a rival has published the record meanwhile, which is an outcome without asking."""
    held = Held()
    one, two = _replicas(held)

    async def story(pool: Pool) -> None:
        await held.asked.wait()
        pool.lab.committer.under_way.adopt(rival_rows(OBJECT, WARM))
        pool.advance(11)
        held.released.set()
        await _until(lambda: one.in_flight + two.in_flight == 0)

    _play(tmp_path, story, one, two)
