"""The watcher: absent and unfit replicas are shut out and come back; a look never counts what was sent after it."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from mira_stream.control.admission import PoolControl
from mira_stream.control.health import BreakerState
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import MiraStreamError, Transient, TransientKind
from mira_stream.core.usage import Load, ServedModel
from mira_stream.pipeline.watch import Watcher, unfit
from mira_stream.telemetry import registry as metrics
from tests.fakes.lab import laboratory
from tests.fakes.pool import CANNED, Pool
from tests.fakes.scripted_replica import CONTEXT_TOKENS, MODEL, ScriptedReplica

FIT = (ServedModel(MODEL, CONTEXT_TOKENS),)
OTHER = (ServedModel("mira/other", CONTEXT_TOKENS), ServedModel("lora", None))
SHORT = (ServedModel(MODEL, 4096),)
ABSENT = Transient(TransientKind.REFUSED, "connection refused")


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (FIT, None),
        ((*OTHER, *FIT), None),
        ((ServedModel(MODEL, None),), None),
        ((ServedModel(MODEL, CONTEXT_TOKENS + 1),), None),
        (OTHER, f"it serves mira/other, lora, not {MODEL}"),
        ((), f"it serves no model, not {MODEL}"),
        (SHORT, f"its max_model_len is 4096, the pool needs {CONTEXT_TOKENS}"),
    ],
)
def test_a_replica_is_fit_if_it_serves_the_model_at_its_length(
    served: tuple[ServedModel, ...], says: str | None
) -> None:
    """Otherwise it says what is wrong; a server that does not tell its length is trusted."""
    assert unfit(served, MODEL, CONTEXT_TOKENS) == says


def _play(
    tmp_path: Path,
    story: Callable[[Pool, Watcher], Coroutine[None, None, None]],
    *replicas: ScriptedReplica,
    control: PoolControl | None = None,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), laboratory(tmp_path) as lab:
            pool = Pool(lab, *replicas, control=control)
            watcher = Watcher(
                pool.dispatcher,
                context_tokens=CONTEXT_TOKENS,
                settings=AdmissionSettings(scrape_seconds=0.001, scrape_seconds_min=0.001),
                clock=lambda: pool.now,
                jitter=lambda: 0.0,
                meters=lab.meters,
            )
            await story(pool, watcher)

    asyncio.run(run())


def _breaker(pool: Pool, replica: ScriptedReplica) -> BreakerState:
    return next(one.breaker for one in pool.dispatcher.snapshot() if one.name == replica.name)


@pytest.mark.parametrize("served", [OTHER, SHORT, ABSENT])
def test_an_unfit_or_absent_replica_starts_as_an_open_breaker(
    tmp_path: Path, served: tuple[ServedModel, ...] | MiraStreamError
) -> None:
    """No record is ever sent to it, and the others work."""
    bad = ScriptedReplica("http://bad", served=[served])
    good = ScriptedReplica("http://good")

    async def story(pool: Pool, watcher: Watcher) -> None:
        await watcher.look_first()
        assert (_breaker(pool, bad), _breaker(pool, good)) == (BreakerState.OPEN, BreakerState.CLOSED)
        pool.lab.meters.refresh()
        assert pool.lab.meters.value(metrics.REPLICA_BREAKER_OPEN, ("http://bad",)) == 1

    _play(tmp_path, story, bad, good)


def test_a_replica_comes_back_when_it_serves_the_model_and_answers(tmp_path: Path) -> None:
    """Each look waits for its pause; a good one sends the canned record, and only then half opens the breaker."""
    one = ScriptedReplica("http://one", ["what?"], served=[ABSENT, SHORT, FIT])

    async def story(pool: Pool, watcher: Watcher) -> None:
        await watcher.look_first()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watcher.run())
            await one.until(lambda _: one.looks >= 3)
            assert len(one.served) == 2  # its pause is not over
            pool.advance(60)
            await one.until(lambda _: len(one.served) == 1)
            before = one.looks
            await one.until(lambda _: one.looks > before + 1)
            assert _breaker(pool, one) is BreakerState.OPEN
            assert one.asks == []
            pool.advance(60)
            await one.until(lambda _: one.asks == [CANNED])
            await one.until(lambda _: _breaker(pool, one) is BreakerState.HALF_OPEN)
            watching.cancel()

    _play(tmp_path, story, one)


def test_a_replica_that_serves_but_does_not_answer_stays_out(tmp_path: Path) -> None:
    """Its engine is stuck or its settings are refused: the list of models alone proves nothing."""
    one = ScriptedReplica("http://one", otherwise=ABSENT, served=[ABSENT, FIT])

    async def story(pool: Pool, watcher: Watcher) -> None:
        await watcher.look_first()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watcher.run())
            pool.advance(60)
            await one.until(lambda _: one.asks == [CANNED])
            before = one.looks
            await one.until(lambda _: one.looks > before + 1)
            assert _breaker(pool, one) is BreakerState.OPEN
            watching.cancel()

    _play(tmp_path, story, one)


class _NotingControl(PoolControl):
    """Notes when each look was asked for."""

    def observe(self, replica: str, load: Load, asked_at: float, now: float) -> None:
        self.asked = asked_at
        super().observe(replica, load, asked_at, now)


def test_a_look_tells_nothing_about_what_was_sent_while_it_was_on_its_way(tmp_path: Path) -> None:
    """The time that counts is when it was asked for: evidence of prefill must not come from the future."""

    class Slow(ScriptedReplica):
        async def load(self) -> Load:
            pool_now[0].advance(5)
            return await super().load()

    pool_now: list[Pool] = []
    one = Slow("http://one")
    control = _NotingControl(["http://one"], AdmissionSettings())

    async def story(pool: Pool, watcher: Watcher) -> None:
        pool_now.append(pool)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watcher.run())
            await one.until(lambda _: one.looks >= 2)
            watching.cancel()
        assert control.asked < pool.now
        assert (control.asked - 1000) % 5 == 0
        assert pool.now - control.asked >= 5

    _play(tmp_path, story, one, control=control)


def test_a_look_that_fails_is_only_a_missed_look(tmp_path: Path) -> None:
    """The breaker speaks through requests; the gauges keep what was seen last."""
    one = ScriptedReplica("http://one")

    async def story(pool: Pool, watcher: Watcher) -> None:
        one.load_answer = Load(running=3, waiting=2, kv_usage=0.5)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watcher.run())
            await one.until(lambda _: one.looks >= 2)
            one.load_answer = ABSENT
            looks = one.looks
            await one.until(lambda _: one.looks >= looks + 2)
            watching.cancel()
        pool.lab.meters.refresh()
        assert _breaker(pool, one) is BreakerState.CLOSED
        assert pool.lab.meters.value(metrics.REPLICA_WAITING_REQUESTS, ("http://one",)) == 2
        assert pool.lab.meters.value(metrics.REPLICA_KV_USAGE_RATIO, ("http://one",)) == 0.5

    _play(tmp_path, story, one)
