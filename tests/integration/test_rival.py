"""Two daemons on one sink, and stores that lose answers: each segment is published once, and its owner is known."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from mira_stream.core.errors import AlreadyExists, Saturated, Transient, TransientKind
from mira_stream.core.failpoint import inert
from mira_stream.core.segment import Plan, Trailer
from mira_stream.ports import ObjectStore
from mira_stream.sink.format import encode_segment, segment_key
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.sink.settings import SinkSettings
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from tests.fakes.memory_store import FaultyStore, MemoryStore, failing
from tests.fakes.segments import PARTITION, A, plan, row

SETTINGS = SinkSettings(
    uri="unused", retry_initial_seconds=0.001, retry_max_seconds=0.002, request_timeout_seconds=0.05
)
PLAN, RIVAL = plan([row(A, 0), row(A, 1)]), plan([row(A, 0, brief="the rival's"), row(A, 2)])
LOST = Transient(TransientKind.RESET, "connection reset")
CONFLICT = Transient(TransientKind.SERVER, "409 ConditionalRequestConflict", 409)


@pytest.fixture
def executor() -> Iterator[Executor]:
    """Two threads, closed afterwards."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


def _sink(
    store: ObjectStore, executor: Executor, told: Callable[[str], None] = lambda _: None
) -> SegmentSink:
    patience = Patience(SETTINGS, on_retry=told)
    return SegmentSink(store, settings=SETTINGS, patience=patience, executor=executor)


async def _all(calls: Sequence[Coroutine[None, None, Trailer]]) -> list[Trailer]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]


def test_of_two_rivals_exactly_one_wins_each_segment(tmp_path: Path, executor: Executor) -> None:
    """On a local store, 20 races: both rivals return the same trailer, and the file holds that plan."""

    async def race() -> None:
        stores = [open_store(str(tmp_path), StoreSettings(), executor=executor) for _ in range(2)]
        ours, theirs = (_sink(store, executor) for store in stores)
        for seq in range(20):
            plans = [plan([row(A, n, brief=who)], seq=seq) for n, who in ((0, "ours"), (1, "theirs"))]
            first, second = await _all([ours.publish(plans[0]), theirs.publish(plans[1])])
            assert first == second
            assert first in (plans[0].trailer, plans[1].trailer)
            assert await ours.trailer(PARTITION, seq) == first
            assert [r.record_id for r in await ours.rows(PARTITION, seq)] == [
                r.key.record_id for p in plans if p.trailer == first for r in p.rows
            ]

    asyncio.run(race())


def _publish(store: ObjectStore, executor: Executor, a_plan: Plan = PLAN) -> tuple[Trailer, list[str]]:
    told: list[str] = []
    return asyncio.run(_sink(store, executor, told.append).publish(a_plan)), told


def test_a_lost_answer_is_resolved_by_reading_back(executor: Executor) -> None:
    """The write landed, the answer did not: ours, after one create."""
    store = FaultyStore(MemoryStore(), after=[failing(LOST)])
    assert _publish(store, executor) == (PLAN.trailer, [])
    assert store.creates == 1


def test_a_lost_request_is_sent_again(executor: Executor) -> None:
    """Nothing stands there: the same plan is published again, as often as it takes."""
    store = FaultyStore(MemoryStore(), before=[failing(LOST)] * 50)
    trailer, told = _publish(store, executor)
    assert trailer == PLAN.trailer
    assert told == ["connection reset"] * 50


def test_a_conflict_retries_the_same_plan(executor: Executor) -> None:
    """409 and SlowDown decide nothing."""
    inner = MemoryStore()
    store = FaultyStore(inner, before=[failing(CONFLICT), failing(Saturated("SlowDown", 0.001))])
    assert _publish(store, executor)[0] == PLAN.trailer
    assert store.creates == 3
    assert inner.objects[segment_key(PARTITION, 0)] == encode_segment(PLAN, level=SETTINGS.compression_level)


def test_our_own_earlier_attempt_is_ours(executor: Executor) -> None:
    """412 on a segment with our plan_id, as after a crash: published, nothing written."""
    inner = MemoryStore()
    inner.put(segment_key(PARTITION, 0), encode_segment(PLAN, level=1))
    before = dict(inner.objects)
    assert _publish(inner, executor) == (PLAN.trailer, [])
    assert inner.objects == before


def test_a_rival_that_was_quicker_is_reported(executor: Executor) -> None:
    """412 on a segment with another plan_id, also when our own answer was lost on the way."""
    inner = MemoryStore()
    inner.put(segment_key(PARTITION, 0), encode_segment(RIVAL, level=3))
    assert _publish(inner, executor) == (RIVAL.trailer, [])
    assert _publish(FaultyStore(inner, before=[failing(LOST)]), executor) == (RIVAL.trailer, [])


def test_a_read_back_that_fails_is_tried_again(executor: Executor) -> None:
    """Not knowing is never taken for not there: the create is repeated and refused, then read back."""
    inner = MemoryStore()
    store = FaultyStore(inner, after=[failing(LOST)], reads=[failing(LOST), None, failing(LOST)])
    assert _publish(store, executor)[0] == PLAN.trailer
    assert store.creates == 3


def test_a_stalled_store_is_not_waited_for_for_ever(executor: Executor) -> None:
    """A write that lands and is never answered counts as unknown after the time-out: read back, ours."""
    store = FaultyStore(MemoryStore(), stall=[0])
    assert _publish(store, executor)[0] == PLAN.trailer
    assert store.creates == 1


def test_a_segment_that_vanishes_before_it_is_read_back_is_created_again(executor: Executor) -> None:
    """Somebody cleaned up between the 412 and our read: the next try publishes."""
    store = FaultyStore(MemoryStore(), before=[failing(AlreadyExists("there"))])
    trailer, told = _publish(store, executor)
    assert trailer == PLAN.trailer
    assert len(told) == 1


def test_publishing_can_be_cancelled_while_the_store_is_down(executor: Executor) -> None:
    """A daemon that stops does not wait for the store; the plan stays sealed for the next start."""

    async def stop() -> None:
        tried = asyncio.Event()
        store = FaultyStore(MemoryStore(), before=[failing(LOST)] * 10_000)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_sink(store, executor, lambda _: tried.set()).publish(PLAN))
            await tried.wait()
            task.cancel()
        assert task.cancelled()

    asyncio.run(stop())


@pytest.mark.parametrize("point", ["publish.before", "publish.after", "confirm.before", "confirm.after"])
def test_a_crash_at_any_point_is_healed_by_publishing_again(point: str, executor: Executor) -> None:
    """Whatever step the process died at, the same plan published again stands there once."""

    class Crash(Exception):
        pass

    def crash(name: str) -> None:
        inert(name)
        if name == point:
            raise Crash

    store = MemoryStore()
    dying = SegmentSink(
        store, settings=SETTINGS, patience=Patience(SETTINGS), executor=executor, failpoint=crash
    )
    with pytest.raises(Crash):
        asyncio.run(dying.publish(PLAN))
    assert bool(store.objects) == (point != "publish.before")
    assert _publish(store, executor) == (PLAN.trailer, [])
    assert len(store.objects) == 1
