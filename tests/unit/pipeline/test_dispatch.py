"""The dispatch stage of a pool: late binding, re-asks, faults, and that no record is lost from the account's view."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace

from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate
from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient, TransientKind
from mira_stream.core.outcome import LimitingFactor, Outcome
from mira_stream.core.record import RecordKey
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.telemetry import registry as metrics
from tests.fakes.lab import GatedStore, laboratory
from tests.fakes.ledgers import rival_rows, rival_trailer
from tests.fakes.pool import CANNED, GROUP, OBJECT, Pool, dispatching
from tests.fakes.scripted_replica import GOOD, Answer, Held, ScriptedReplica, reply

SCORED = (Outcome.SCORED, None)
BAD = "I would rather not."
RESET = Transient(TransientKind.RESET, "connection reset")
REFUSED = Transient(TransientKind.REFUSED, "connection refused")
BAD_REQUEST = Permanent(400, "temperature must be non-negative", "temperature")
TOO_LONG = Permanent(400, "the prompt is too long", "input_tokens")
Story = Callable[[Pool], Coroutine[None, None, None]]


def _play(
    tmp_path: Path,
    story: Story,
    *replicas: ScriptedReplica,
    admission: AdmissionSettings | None = None,
    reasks_max: int = 2,
    **settings: object,
) -> list[dict[str, object]]:
    """Run the story in a pool to its end; the rows that were published."""

    async def run() -> list[dict[str, object]]:
        async with laboratory(tmp_path, **settings) as lab:
            pool = Pool(lab, *replicas, admission=admission, reasks_max=reasks_max)
            async with dispatching(pool):
                await story(pool)
            await lab.published_once()
            assert lab.account.ended + lab.account.in_pipeline == lab.account.read
            return _rows(lab.store.objects)

    return asyncio.run(run())


def _rows(objects: dict[str, bytes]) -> list[dict[str, object]]:
    """All rows of all segments, by ordinal."""
    texts = [zstandard.decompress(data) for key, data in objects.items() if key.startswith("source=")]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    return sorted(rows, key=lambda row: row["ordinal"])


def _ends(rows: list[dict[str, object]]) -> Counter[object]:
    return Counter(row["reason"] or row["outcome"] for row in rows)


def test_records_are_asked_about_and_scored(tmp_path: Path) -> None:
    """Each record once, with its own body; the row says who answered, and the estimator learns."""
    one = ScriptedReplica()

    async def story(pool: Pool) -> None:
        await pool.offer(*range(20))
        await one.until(lambda _: len(one.asks) == 20)
        assert sorted(one.asks) == sorted(pool.body(n) for n in range(20))

    rows = _play(tmp_path, story, one)
    assert [row["ordinal"] for row in rows] == list(range(20))
    assert _ends(rows) == Counter(scored=20)
    assert {(row["replica"], row["attempts"], row["overall"]) for row in rows} == {("http://one", 1, 70.0)}
    assert rows[0]["rubric_fingerprint"] == "rubric"
    assert rows[0]["reply"] is None


def test_a_record_stays_in_the_window_until_a_replica_has_a_place(tmp_path: Path) -> None:
    """Late binding: what is not sent can still go elsewhere; a full window holds up who offers."""
    held = [Held() for _ in range(2)]
    one = ScriptedReplica("http://one", held[:1])
    two = ScriptedReplica("http://two", held[1:])
    admission = AdmissionSettings(requests_max=1, window_records=2)

    async def story(pool: Pool) -> None:
        async with asyncio.TaskGroup() as group:
            offering = group.create_task(pool.offer(*range(6)))
            await held[0].asked.wait()
            await held[1].asked.wait()
            await pool.lab.account.until(lambda: pool.window == 2)
            await pool.until_factor(LimitingFactor.REQUESTS)
            assert not offering.done()
            assert (len(one.asks), len(two.asks)) == (1, 1)
            held[1].released.set()
            await two.until(lambda _: len(two.asks) == 5)
            assert len(one.asks) == 1
            held[0].released.set()

    assert _ends(_play(tmp_path, story, one, two, admission=admission)) == Counter(scored=6)
    assert (one.most_in_flight, two.most_in_flight) == (1, 1)


# Replies.


def test_an_incomplete_reply_is_asked_again_without_seed(tmp_path: Path) -> None:
    """The second body has no seed and is not colder than the least; the third is the same as the second."""
    one = ScriptedReplica(script=[BAD, BAD, GOOD])

    async def story(pool: Pool) -> None:
        await pool.offer(0)

    rows = _play(tmp_path, story, one)
    first, second, third = map(json.loads, one.asks)
    assert first["seed"] == 7
    assert "seed" not in second
    assert second["messages"] == first["messages"]
    assert third == second
    assert (rows[0]["outcome"], rows[0]["attempts"]) == ("scored", 3)


def test_a_reply_that_stays_incomplete_is_dead_lettered_with_its_text(tmp_path: Path) -> None:
    """After `reasks_max` re-asks; scores are null, what is missing is named, the raw text is kept."""
    one = ScriptedReplica(otherwise=BAD)

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await one.until(lambda _: len(one.asks) == 2)

    (row,) = _play(tmp_path, story, one, reasks_max=1)
    assert (row["outcome"], row["reason"], row["reply"]) == ("dead_lettered", "malformed_reply", BAD)
    assert set(row["scores"].values()) == {None}
    assert "A1" in row["missing"]
    assert len(one.asks) == row["attempts"] == 2


def test_a_reply_cut_by_its_length_has_a_reason_of_its_own(tmp_path: Path) -> None:
    """`finish_reason=length` without all required fields."""
    one = ScriptedReplica(otherwise=reply("[A1] x: 7/10 — y", finish_reason="length"))

    async def story(pool: Pool) -> None:
        await pool.offer(0)

    (row,) = _play(tmp_path, story, one, reasks_max=0)
    assert (row["reason"], row["finish_reason"]) == ("cut_reply", "length")


def test_a_re_ask_takes_no_second_place_in_the_window(tmp_path: Path) -> None:
    """What comes back stands beside the places for new records, which stay as many as they were."""
    one = ScriptedReplica(script=[BAD, BAD, RESET, GOOD])
    held = Held()

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await one.until(lambda _: len(one.asks) == 3)
        await pool.lab.account.until(lambda: pool.window == 1)
        pool.advance(10)
        await pool.lab.account.until(lambda: pool.lab.account.at(Stage.RECEIVED) == 1)
        one.then(held)
        async with asyncio.TaskGroup() as group:
            offering = group.create_task(pool.offer(*range(1, 5)))
            await held.asked.wait()
            await pool.lab.account.until(lambda: pool.window == 2)
            await pool.until_factor(LimitingFactor.REQUESTS)
            assert not offering.done()  # one in flight, two in the window, one at the door
            held.released.set()

    admission = AdmissionSettings(requests_max=1, window_records=2)
    assert _ends(_play(tmp_path, story, one, admission=admission)) == Counter(scored=5)


# Faults.


@pytest.mark.parametrize(
    "error", [RESET, REFUSED, Saturated("full", 5.0), Transient(TransientKind.TIMEOUT, "slow")]
)
def test_a_replicas_fault_sends_the_record_elsewhere(tmp_path: Path, error: MiraStreamError) -> None:
    """No replica's fault ends a record: it is sent again, to another one."""
    one = ScriptedReplica("http://one", otherwise=error)
    two = ScriptedReplica("http://two")

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await one.until(lambda _: len(one.asks) == 1)
        await pool.lab.account.until(lambda: pool.window == 1 or two.asks)
        pool.advance(1)
        await two.until(lambda _: len(two.asks) == 1)

    (row,) = _play(tmp_path, story, one, two)
    assert (row["outcome"], row["replica"], row["attempts"]) == ("scored", "http://two", 2)


def test_the_only_replica_is_tried_again_after_its_pause(tmp_path: Path) -> None:
    """`Retry-After` is honoured to the second; meanwhile nothing goes there."""
    one = ScriptedReplica(script=[Saturated("full", 7.0)])

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await one.until(lambda _: len(one.asks) == 1)
        await pool.lab.account.until(lambda: pool.window == 1)
        pool.advance(6.9)
        await pool.until_factor(LimitingFactor.BREAKER)
        assert len(one.asks) == 1
        pool.advance(0.2)
        await one.until(lambda _: len(one.asks) == 2)

    assert _ends(_play(tmp_path, story, one)) == Counter(scored=1)


def test_a_length_refusal_ends_the_record(tmp_path: Path) -> None:
    """The server's own words are kept; nothing is resent, and no canned record is needed to decide."""
    one = ScriptedReplica(otherwise=TOO_LONG)

    async def story(pool: Pool) -> None:
        await pool.offer(0)

    (row,) = _play(tmp_path, story, one)
    assert (row["reason"], row["reply"]) == ("over_length", "the prompt is too long")
    assert len(one.asks) == 1


def test_a_refusal_while_others_are_answered_ends_the_record(tmp_path: Path) -> None:
    """The settings are right, so it is this record: refused, and never sent again."""
    one = ScriptedReplica(script=[GOOD, BAD_REQUEST])

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await pool.lab.account.until(lambda: pool.lab.account.at(Stage.RECEIVED) == 1)
        await pool.offer(1)

    assert _ends(_play(tmp_path, story, one)) == Counter(scored=1, refused=1)
    assert len(one.asks) == 2


def test_a_first_refusal_is_decided_by_a_canned_record(tmp_path: Path) -> None:
    """Nobody was answered yet: a harmless record is, so the refused one is to blame, and the pool goes on."""
    one = ScriptedReplica(script=[BAD_REQUEST])

    async def story(pool: Pool) -> None:
        await pool.offer(0, 1)

    assert _ends(_play(tmp_path, story, one)) == Counter(scored=1, refused=1)
    assert one.asks.count(CANNED) <= 1


@pytest.mark.parametrize("trouble", [RESET, Saturated("full", 5.0)])
def test_a_first_refusal_that_cannot_be_decided_yet_ends_nothing(
    tmp_path: Path, trouble: MiraStreamError
) -> None:
    """The replica fails on the canned record too, for a reason that passes: no pool is stopped, no record blamed."""
    one = ScriptedReplica(script=[BAD_REQUEST, trouble, BAD_REQUEST, GOOD])

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await one.until(lambda _: len(one.asks) == 2)
        await pool.lab.account.until(lambda: pool.window == 1)
        assert pool.control.stopped is None
        pool.advance(10)
        await one.until(lambda _: len(one.asks) == 4)

    assert _ends(_play(tmp_path, story, one)) == Counter(refused=1)


@pytest.mark.parametrize(
    "error",
    [
        BAD_REQUEST,
        Permanent(401, "who are you"),
        Permanent(404, "no such model"),
        Permanent(401, "http://one refused the request with 401"),
    ],
)
def test_wrong_settings_stop_the_pool_and_blame_no_record(tmp_path: Path, error: MiraStreamError) -> None:
    """Every request is refused: nothing is dead-lettered, everything waits in the window, the pool says why."""
    one = ScriptedReplica("http://one", otherwise=error)

    async def story(pool: Pool) -> None:
        await pool.offer(*range(5))
        await pool.lab.account.until(lambda: pool.window == 5)
        await pool.until_factor(LimitingFactor.BREAKER)
        assert str(error) in pool.control.stopped
        assert pool.control.stopped.count("http://one") == 1
        assert pool.stops >= 1
        assert one.asks.count(CANNED) <= 1
        pool.dispatcher.drain()

    assert _play(tmp_path, story, one) == []
    assert len(one.asks) <= 6


def test_a_poisonous_record_is_quarantined_and_harms_no_other(tmp_path: Path) -> None:
    """It kills whoever is asked about it; only after two crashes while it was alone there is it given up."""
    one = ScriptedReplica("http://one", otherwise=lambda body: RESET if b"record 3" in body else GOOD)

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await pool.lab.account.until(lambda: pool.lab.account.at(Stage.RECEIVED) == 1)
        await pool.offer(*range(1, 6))
        while pool.lab.account.before_received:
            pool.advance(5)
            for name in pool.control.probes_due(pool.now):
                pool.control.proved(name, pool.now)
                pool.control.probed(name, pool.now, 0.0, ok=True)
            await asyncio.sleep(0)

    rows = _play(tmp_path, story, one)
    assert _ends(rows) == Counter(scored=5, poison=1)
    assert 3 <= sum(b"record 3" in body for body in one.asks) <= 5


def test_a_replica_that_fails_everybody_makes_no_record_poison(tmp_path: Path) -> None:
    """However often: a fault that all records share is the replica's."""
    one = ScriptedReplica("http://one", otherwise=RESET)

    async def story(pool: Pool) -> None:
        await pool.offer(0, 1, 2)
        for _ in range(400):
            pool.advance(5)
            for name in pool.control.probes_due(pool.now):
                pool.control.probed(name, pool.now, 0.0, ok=True)
            await asyncio.sleep(0)
        assert len(one.asks) > 10
        pool.dispatcher.drain()

    assert _play(tmp_path, story, one) == []


# The sink, and rivals.


def test_nothing_is_dispatched_while_too_much_waits_to_be_published(tmp_path: Path) -> None:
    """`sink_blocked` until the store takes segments again."""
    store = GatedStore()
    one = ScriptedReplica()

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await store.until_waiting(1)
        await pool.offer(1, 2)
        await pool.until_factor(LimitingFactor.SINK_BLOCKED)
        assert len(one.asks) == 1
        store.gate.set()
        await one.until(lambda _: len(one.asks) == 3)

    assert _ends(_play(tmp_path, story, one, store=store, backlog_rows_max=1)) == Counter(scored=3)


def test_a_record_that_a_rival_published_is_not_asked_about(tmp_path: Path) -> None:
    """Adopted while it waits in the window: no GPU work, and it ends under the rival's outcome."""
    held = Held()
    one = ScriptedReplica(script=[held])

    async def story(pool: Pool) -> None:
        await pool.offer(0, 1)
        await held.asked.wait()
        rows = rival_rows(OBJECT, 1)
        await pool.lab.ledger.adopt(rival_trailer(OBJECT, (1, 2), partition="source=x/shard=00"), rows)
        pool.lab.committer.under_way.adopt(rows)
        held.released.set()
        await pool.lab.account.until(lambda: pool.lab.account.ended == 1)

    rows = _play(tmp_path, story, one, admission=AdmissionSettings(requests_max=1))
    assert [row["ordinal"] for row in rows] == [0]
    assert len(one.asks) == 1


def test_a_reply_longer_than_was_asked_for_is_not_believed(tmp_path: Path) -> None:
    """Else the mean reply would fit nowhere, and records went one at a time for hundreds of answers."""
    text = reply()
    one = ScriptedReplica(script=[replace(text, usage=replace(text.usage, completion_tokens=1 << 40))])
    before: list[int] = []

    async def story(pool: Pool) -> None:
        before.append(pool.control.need_tokens(Candidate(ticket=9, prompt_tokens=0)))
        await pool.offer(0)
        await pool.lab.account.until(lambda: pool.lab.account.at(Stage.RECEIVED) == 1)
        before.append(pool.control.need_tokens(Candidate(ticket=9, prompt_tokens=0)))

    assert _ends(_play(tmp_path, story, one)) == Counter(scored=1)
    assert before[0] <= before[1] < before[0] + 100


# The two phases of an end.


def test_draining_lets_requests_end_and_sends_nothing_more(tmp_path: Path) -> None:
    """What is in flight is scored; what waits stays counted where it is; who offers is told."""
    held = Held()
    one = ScriptedReplica(script=[held])

    async def story(pool: Pool) -> None:
        async with asyncio.TaskGroup() as group:
            offering = group.create_task(_until_closed(pool, range(5)))
            await held.asked.wait()
            await pool.lab.account.until(lambda: pool.window == 2)
            await pool.until_factor(LimitingFactor.REQUESTS)
            pool.dispatcher.drain()
            assert await offering
            await pool.until_factor(LimitingFactor.DRAINING)
            held.released.set()
        await pool.lab.account.until(lambda: pool.lab.account.at(Stage.RECEIVED) == 1)
        assert (pool.window, pool.lab.account.at(Stage.PREPARING)) == (2, 1)

    admission = AdmissionSettings(requests_max=1, window_records=2)
    assert _ends(_play(tmp_path, story, one, admission=admission)) == Counter(scored=1)


async def _until_closed(pool: Pool, ordinals: range) -> bool:
    try:
        await pool.offer(*ordinals)
    except Closed:
        return True
    return False


def test_cancelling_gives_up_what_is_in_flight(tmp_path: Path) -> None:
    """The connections are closed, the permits settled, the records stay counted as in flight, unpublished."""
    one = ScriptedReplica(otherwise=Held())

    async def story(pool: Pool) -> None:
        await pool.offer(0, 1, 2)
        await one.until(lambda _: one.in_flight == 3)
        pool.dispatcher.drain()
        pool.dispatcher.cancel()

    assert _play(tmp_path, story, one) == []
    assert (one.cancelled, one.in_flight) == (3, 0)


def test_cancelling_reaches_requests_that_are_about_to_be_sent(tmp_path: Path) -> None:
    """A second signal in the step in which a record is admitted must not leave its request running."""
    one = ScriptedReplica(otherwise=Held())

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        while pool.lab.account.at(Stage.IN_FLIGHT) == 0:
            await asyncio.sleep(0)
        assert one.asks == []  # admitted, and its task has not begun
        pool.dispatcher.drain()
        pool.dispatcher.cancel()

    assert _play(tmp_path, story, one) == []
    assert one.in_flight == 0


def test_cancelling_reaches_a_canned_record(tmp_path: Path) -> None:
    """A replica that hangs on it must not hold up the end."""
    canned = Held()
    one = ScriptedReplica(script=[BAD_REQUEST, canned])

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await canned.asked.wait()
        pool.dispatcher.drain()
        pool.dispatcher.cancel()

    assert _play(tmp_path, story, one) == []
    assert one.cancelled == 1


def test_a_malformed_reply_while_draining_is_left_for_the_next_start(tmp_path: Path) -> None:
    """It is not asked again, and not dead-lettered either."""
    held = Held(BAD)
    one = ScriptedReplica(script=[held])

    async def story(pool: Pool) -> None:
        await pool.offer(0)
        await held.asked.wait()
        pool.dispatcher.drain()
        held.released.set()

    assert _play(tmp_path, story, one) == []
    assert len(one.asks) == 1


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_cancellation_at_any_await_keeps_permits_and_account_right(tmp_path: Path, steps: int) -> None:
    """Torn down at any step of the loop, as when another stage fails: every permit is settled, no record is lost."""
    answers: list[Answer] = [GOOD, BAD, RESET, Held(), GOOD, TOO_LONG, GOOD, BAD_REQUEST]

    async def run() -> None:
        async with laboratory(tmp_path) as lab:
            pool = Pool(lab, ScriptedReplica("http://one", answers), ScriptedReplica("http://two"))
            async with asyncio.TaskGroup() as group:
                running = group.create_task(_run_all(pool))
                for step in range(steps):
                    await (asyncio.sleep(0) if step < 30 else lab.ledger.chains())
                running.cancel()
            assert pool.settled()
            await lab.published_once()
            assert lab.account.read == lab.account.ended + lab.account.in_pipeline
            rows = await lab.published()
            assert {RecordKey(row.version, row.ordinal) for row in rows} <= {
                RecordKey(OBJECT, n) for n in range(8)
            }

    asyncio.run(run())


async def _run_all(pool: Pool) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pool.lab.committer.run())
        group.create_task(pool.dispatcher.run())
        await pool.offer(*range(8))
        await asyncio.Event().wait()


# What it says about itself.


def test_the_pool_says_what_limits_it(tmp_path: Path) -> None:
    """One factor at a time, in the metrics too; the window and its bound beside it."""
    held = Held()
    one = ScriptedReplica(script=[held])

    async def story(pool: Pool) -> None:
        await pool.until_factor(LimitingFactor.SOURCE_STARVED)
        await pool.offer(0, 1)
        await held.asked.wait()
        await pool.until_factor(LimitingFactor.REQUESTS)
        meters = pool.lab.meters
        meters.refresh()
        factors = {
            factor: meters.value(metrics.POOL_LIMITING_FACTOR, (GROUP, factor.value))
            for factor in LimitingFactor
        }
        assert {factor for factor, value in factors.items() if value} == {LimitingFactor.REQUESTS}
        assert meters.value(metrics.POOL_WINDOW_RECORDS, (GROUP,)) == 1
        held.released.set()

    _play(tmp_path, story, one, admission=AdmissionSettings(requests_max=1))
