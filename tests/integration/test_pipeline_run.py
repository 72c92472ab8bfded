"""The pipeline as the composition root puts it together, over scripted sources and replicas, real ledger and sink."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mira_stream.control import retry
from mira_stream.control.sealing import RollLimits
from mira_stream.core.errors import Permanent, Refusal, Transient, TransientKind
from mira_stream.core.failpoint import Failpoint, inert
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import PublishedKey
from mira_stream.core.sight import ObjectEnd
from mira_stream.core.usage import ServedModel
from mira_stream.daemon.build import Adapters, assemble
from mira_stream.daemon.config import Config, parse_config
from mira_stream.daemon.pools import known_sources, plan_pools
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.topology import Pipeline
from mira_stream.sink.format import segment_key
from mira_stream.sink.replays import ReplayFolder
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.telemetry.meters import Meters
from tests.fakes.lab import SINK_SETTINGS, GatedStore
from tests.fakes.ledgers import open_ledger, version
from tests.fakes.memory_store import MemoryStore
from tests.fakes.scripted_replica import GOOD, Held, ScriptedReplica
from tests.fakes.scripted_source import Reading, ScriptedSource, trace

CONFIG = """
[source]
uri = "/lake"
list_seconds = 0.01
[sink]
uri = "/scores"
roll_records = 4
[admission]
scrape_seconds = 0.05
breaker_seconds_min = 0.01
[[pool]]
group = "agent/A"
replicas = ["http://one", "http://two"]
sources = ["claude_cli"]
"""
A, B, C = version("a"), version("b"), version("c")
MODEL = "whw06/MIRA-Agent-Group1"
SERVED = ((ServedModel(MODEL, 65_536),),)
BAD_REQUEST = Permanent(400, "temperature must be non-negative", "temperature")
RESET = Transient(TransientKind.RESET, "connection reset")


def _replica(name: str = "http://one", *script: object, **more: object) -> ScriptedReplica:
    return ScriptedReplica(name, script, **{"served": SERVED, **more})


class House:
    """One process: everything that `assemble` needs, and the pipeline."""

    def __init__(self, pipeline: Pipeline, sink: SegmentSink, store: MemoryStore) -> None:
        self.pipeline = pipeline
        self.account = pipeline.account
        self.sink = sink
        self.store = store

    async def published(self) -> list[PublishedKey]:
        """All rows, each of them once."""
        rows: list[PublishedKey] = []
        for partition, end in (await self.sink.chains()).items():
            for seq in range(end):
                rows += await self.sink.rows(partition, seq)
        assert len({row.record_id for row in rows}) == len(rows)
        return rows

    async def ends(self) -> Counter[str]:
        """How the published records ended."""
        return Counter(str(row.reason or row.outcome) for row in await self.published())

    async def until_at(self, stage: Stage, records: int) -> None:
        """Wait until so many records are in a stage; found out in steps of the loop."""
        while self.account.at(stage) != records:
            await asyncio.sleep(0)


@asynccontextmanager
async def _house(
    folder: Path,
    source: ScriptedSource,
    *replicas: ScriptedReplica,
    store: MemoryStore | None = None,
    once: bool = True,
    failpoint: Failpoint = inert,
    config: str = CONFIG,
) -> AsyncIterator[House]:
    settings: Config = parse_config(config, "test")
    plans = plan_pools(settings)
    store = store if store is not None else MemoryStore()
    ledger = open_ledger(
        folder / "ledger.sqlite3",
        sink_uri=store.uri,
        roll=RollLimits(settings.sink.roll_records, settings.sink.roll_bytes),
        failpoint=failpoint,
    )
    with ThreadPoolExecutor(2) as workers:
        sink = SegmentSink(store, settings=SINK_SETTINGS, patience=Patience(SINK_SETTINGS), executor=workers)
        adapters = Adapters(
            source=source,
            source_of=lambda uri: uri.split("/")[-2],
            ledger=ledger,
            sink=sink,
            replays=ReplayFolder(store, patience=Patience(SINK_SETTINGS)),
            replicas={plans[0].group: {replica.name: replica for replica in replicas}},
            workers=workers,
        )
        meters = Meters(known_sources(settings, plans))
        try:
            async with asyncio.timeout(30):
                yield House(assemble(settings, plans, adapters, meters, once=once), sink, store)
        finally:
            await ledger.close()


def _play(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(story())


def _lake(**lines: int) -> ScriptedSource:
    """Objects by the name of their source, with so many lines."""
    versions = {
        ObjectVersion(f"s3://lake/raw/{name}/x.jsonl", "e"): [Reading(n)] for name, n in lines.items()
    }
    return ScriptedSource(versions, source_of=lambda one: one.uri.split("/")[-2])


def test_once_scores_what_is_there_and_ends(tmp_path: Path) -> None:
    """Published is what was read: scored, dead-lettered and skipped; the source without a pool is not silent."""

    async def story() -> None:
        lines = {3: b"not json", 5: b"", 6: b"{}"}
        versions = {
            A: [Reading(20)],
            B: [Reading(3, ObjectEnd(3, reason=Reason.TRUNCATED))],
            C: [Reading(0)],
            ObjectVersion("s3://lake/raw/else/x.jsonl", "e"): [Reading(4)],
        }
        source = ScriptedSource(
            versions,
            line=lambda one, n: lines.get(n, trace(one, n)) if one == A else trace(one, n),
            source_of=lambda one: "else" if "else" in one.uri else "claude_cli",
        )
        async with _house(tmp_path, source, _replica(), _replica("http://two")) as house:
            await house.pipeline.run()
            assert await house.ends() == Counter(
                scored=20, invalid_json=1, blank=1, no_text=1, truncated=1, no_pool=4
            )
            assert house.account.read == house.account.ended == 28
            assert house.account.in_pipeline == 0
            lines_known = {
                (end.uri, end.count)
                for partition, last in (await house.sink.chains()).items()
                for seq in range(last)
                for end in (await house.sink.trailer(partition, seq)).lines
            }
            assert lines_known == {(A.uri, 20), (B.uri, 4), ("s3://lake/raw/else/x.jsonl", 4)}

    _play(story)


def test_a_second_run_finds_nothing_to_do(tmp_path: Path) -> None:
    """Everything is published: no request is sent, no segment written."""

    async def story() -> None:
        store = MemoryStore()
        async with _house(
            tmp_path, _lake(claude_cli=9), _replica(), _replica("http://two"), store=store
        ) as house:
            await house.pipeline.run()
        before = dict(store.objects)
        again = _replica()
        async with _house(tmp_path, _lake(claude_cli=9), again, _replica("http://two"), store=store) as house:
            await house.pipeline.run()
            assert (house.account.read, again.asks) == (0, [])
        assert store.objects == before

    _play(story)


@pytest.mark.parametrize(
    "name", ["receive.before", "receive.after", "seal.after", "advance.before", "advance.after"]
)
def test_a_run_that_died_at_any_step_is_completed_by_the_next(tmp_path: Path, name: str) -> None:
    """An exception out of the ledger ends the whole pipeline; afterwards every record is published exactly once."""
    left = 3

    def die(at: str) -> None:
        nonlocal left
        inert(at)
        left -= at == name
        if left == 0 and at == name:
            raise Refusal(f"died at {at}")

    async def story() -> None:
        store = MemoryStore()
        async with _house(
            tmp_path, _lake(claude_cli=30), _replica(), _replica("http://two"), store=store, failpoint=die
        ) as house:
            with pytest.raises(BaseExceptionGroup) as died:
                await house.pipeline.run()
            assert died.group_contains(Refusal, match="died at")
            assert house.account.read == house.account.ended + house.account.in_pipeline
        async with _house(
            tmp_path, _lake(claude_cli=30), _replica(), _replica("http://two"), store=store
        ) as house:
            await house.pipeline.run()
            assert await house.ends() == Counter(scored=30)
            assert house.account.in_pipeline == 0

    _play(story)


def test_following_goes_on_until_it_is_drained(tmp_path: Path) -> None:
    """New objects are found by later listings; a drain publishes everything received, though no segment is full."""

    async def story() -> None:
        source = _lake(claude_cli=2)
        async with _house(tmp_path, source, _replica(), _replica("http://two"), once=False) as house:
            async with asyncio.TaskGroup() as group:
                group.create_task(house.pipeline.run())
                await house.until_at(Stage.RECEIVED, 2)
                later = ObjectVersion("s3://lake/raw/claude_cli/later.jsonl", "e")
                source.versions.update(ScriptedSource({later: [Reading(1)]}).versions)
                await house.until_at(Stage.RECEIVED, 3)
                house.pipeline.drain()
                house.pipeline.drain()
            assert await house.ends() == Counter(scored=3)
            assert house.account.in_pipeline == 0

    _play(story)


def test_draining_while_objects_are_read_publishes_what_was_in_flight(tmp_path: Path) -> None:
    """Nothing new is read or sent; the rest stays counted, is not ended for the ledger, and is scored next time."""

    async def story() -> None:
        store = MemoryStore()
        held = [Held() for _ in range(40)]
        one, two = _replica("http://one", *held[:20]), _replica("http://two", *held[20:])
        async with _house(tmp_path, _lake(claude_cli=200), one, two, store=store, once=False) as house:
            async with asyncio.TaskGroup() as group:
                group.create_task(house.pipeline.run())
                await one.until(lambda _: one.in_flight >= 3)
                await two.until(lambda _: two.in_flight >= 3)
                in_flight = one.in_flight + two.in_flight
                house.pipeline.drain()
                for answer in held:
                    answer.released.set()
            rows = await house.published()
            assert in_flight <= len(rows) < 200
            assert len(rows) == house.account.ended
            assert house.account.read == house.account.ended + house.account.in_pipeline
        async with _house(
            tmp_path, _lake(claude_cli=200), _replica(), _replica("http://two"), store=store
        ) as house:
            await house.pipeline.run()
            assert await house.ends() == Counter(scored=200)

    _play(story)


def test_the_second_phase_gives_up_what_is_in_flight(tmp_path: Path) -> None:
    """Hanging replicas do not hold up the end; what was received before is published."""

    async def story() -> None:
        one = _replica("http://one", "not scores at all", otherwise=Held())
        two = _replica("http://two", otherwise=Held())
        lake = _lake(claude_cli=8, other=3)
        async with _house(tmp_path, lake, one, two, once=True) as house:
            async with asyncio.TaskGroup() as group:
                group.create_task(house.pipeline.run())
                await house.until_at(Stage.IN_FLIGHT, 8)
                await house.until_at(Stage.RECEIVED, 3)
                house.pipeline.cancel()
            assert await house.ends() == Counter(no_pool=3)
            assert (one.in_flight, two.in_flight) == (0, 0)
            assert house.account.in_pipeline == 8

    _play(story)


def test_a_drain_during_recovery_reads_nothing(tmp_path: Path) -> None:
    """Told to stop before it began: what the ledger kept is published, nothing is listed or asked."""

    async def story() -> None:
        store = GatedStore()
        source = _lake(claude_cli=6)

        def die(at: str) -> None:
            inert(at)
            if at == "advance.before":
                raise Refusal("died")

        store.gate.set()
        async with _house(
            tmp_path, source, _replica(), _replica("http://two"), store=store, failpoint=die
        ) as house:
            with pytest.raises(BaseExceptionGroup):
                await house.pipeline.run()
        store.objects.clear()  # the segment never landed
        store.gate.clear()
        again = _lake(claude_cli=6)
        async with _house(
            tmp_path, again, _replica(), _replica("http://two"), store=store, once=False
        ) as house:
            async with asyncio.TaskGroup() as group:
                group.create_task(house.pipeline.run())
                await store.until_waiting(1)
                house.pipeline.drain()
                store.gate.set()
            assert (again.listings, again.reads) == (0, [])
            assert len(await house.published()) == house.account.ended == house.account.read > 0

    _play(story)


def test_a_pool_stopped_by_wrong_settings_ends_a_single_run(tmp_path: Path) -> None:
    """Nothing is dead-lettered; the other records are published, and the run does not hang."""

    async def story() -> None:
        bad = [_replica(name, otherwise=BAD_REQUEST) for name in ("http://one", "http://two")]
        async with _house(tmp_path, _lake(claude_cli=50, other=2), *bad) as house:
            await house.pipeline.run()
            assert set(await house.ends()) <= {"no_pool"}
            (dispatcher,) = house.pipeline.stages.dispatchers.values()
            assert "temperature" in dispatcher.control.stopped
            assert house.account.read == house.account.ended + house.account.in_pipeline

    _play(story)


def test_replicas_without_a_tokenizer_endpoint_hold_up_nothing(tmp_path: Path) -> None:
    """A proxy that knows `/v1` alone: records near the limit are cut to be safe, and sent."""

    async def story() -> None:
        text = "\n".join(f"step {n} of many" for n in range(1100))
        near = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
        source = ScriptedSource({A: [Reading(12)]}, line=lambda *_: near)
        blind = [
            _replica(name, counts=[Permanent(404, "not found")]) for name in ("http://one", "http://two")
        ]
        async with _house(tmp_path, source, *blind, config=CONFIG + "context_tokens = 11264\n") as house:
            await house.pipeline.run()
            assert await house.ends() == Counter(scored=12)
        assert blind[0].counted
        assert blind[1].counted

    _play(story)


def test_a_run_waits_for_replicas_that_come_later(tmp_path: Path) -> None:
    """All are absent at the start: open breakers; then they serve, and everything is scored."""

    async def story() -> None:
        absent = Transient(TransientKind.REFUSED, "connection refused")
        late = [_replica(name, served=(absent, absent, *SERVED)) for name in ("http://one", "http://two")]
        async with _house(tmp_path, _lake(claude_cli=5), *late) as house:
            await house.pipeline.run()
            assert await house.ends() == Counter(scored=5)

    _play(story)


@pytest.mark.parametrize("seed", range(12))
def test_a_process_that_dies_anywhere_is_completed_by_the_next(tmp_path: Path, seed: int) -> None:
    """Torn down at any step of the loop, three times over, then run to its end: every record exactly once."""
    chance = random.Random(seed)
    objects = {version(f"x{n}"): [Reading(chance.randrange(9))] for n in range(12)}
    lines = sum(readings[0].lines for readings in objects.values())

    async def story() -> None:
        store = MemoryStore()
        for _ in range(3):
            source = ScriptedSource(dict(objects))
            async with _house(tmp_path, source, _replica(), _replica("http://two"), store=store) as house:
                async with asyncio.TaskGroup() as group:
                    life = group.create_task(house.pipeline.run())
                    for _ in range(chance.randrange(1500)):
                        await asyncio.sleep(0)
                    life.cancel()
                assert house.account.read == house.account.ended + house.account.in_pipeline
                await house.published()
        source = ScriptedSource(dict(objects))
        async with _house(tmp_path, source, _replica(), _replica("http://two"), store=store) as house:
            await house.pipeline.run()
            assert await house.ends() == Counter(scored=lines)
            assert house.account.in_pipeline == 0

    _play(story)


# One stage fails: the whole pipeline ends with that error.


def test_trouble_of_the_source_that_does_not_pass_ends_the_run(tmp_path: Path) -> None:
    """A refusal from the store (no permission) comes out; what was received is in the ledger for the next start."""

    async def story() -> None:
        gate = asyncio.Event()
        source = ScriptedSource({A: [Reading(3)], B: [Reading(2, Permanent(403, "access denied"), gate)]})
        one = _replica("http://one", otherwise=Held())
        async with _house(
            tmp_path, source, one, _replica("http://two", otherwise=Held()), once=False
        ) as house:

            async def forbid() -> None:
                await house.until_at(Stage.IN_FLIGHT, 4)
                gate.set()

            assert await _ended_by(house, forbid) == [Permanent]
            assert one.in_flight == 0

    _play(story)


def test_a_damaged_chain_stops_reading_of_its_source(tmp_path: Path) -> None:
    """Something that is no segment stands in our chain: that is said, and what is in the pipeline is still counted."""

    async def story() -> None:
        store = GatedStore()
        one, two = _replica("http://one"), _replica("http://two")
        async with _house(tmp_path, _lake(claude_cli=40), one, two, store=store, once=False) as house:

            async def spoil() -> None:
                await store.until_waiting(1)
                store.put(segment_key("source=claude_cli/shard=00", 0), b"garbage")
                store.gate.set()
                while not house.pipeline.stages.committer.stopped:
                    await asyncio.sleep(0)
                house.pipeline.drain()

            async with asyncio.TaskGroup() as group:
                group.create_task(house.pipeline.run())
                await spoil()
            assert house.account.read == house.account.ended + house.account.in_pipeline

    _play(story)


def test_a_bug_in_one_stage_ends_the_run_while_others_hang(tmp_path: Path) -> None:
    """The store does not answer and a replica hangs: an assertion elsewhere still tears everything down."""

    async def story() -> None:
        store = GatedStore()

        class Broken(ScriptedReplica):
            async def load(self) -> object:
                if self.looks > 2 and store.waiting:
                    raise AssertionError("a bug")
                return await super().load()

        one = _replica("http://one")
        two = Broken("http://two", [], otherwise=Held(), served=SERVED)
        async with _house(tmp_path, _lake(claude_cli=40), one, two, store=store, once=False) as house:
            assert await _ended_by(house, store.waits.wait) == [AssertionError]
            assert (one.in_flight, two.in_flight, store.waiting) == (0, 0, 0)

    _play(story)


async def _ended_by(house: House, trouble: Callable[[], Coroutine[None, None, object]]) -> list[type]:
    """Run the pipeline while `trouble` makes trouble; the kinds of the errors that come out of it."""
    found: list[type] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(trouble())
            await house.pipeline.run()
    except BaseExceptionGroup as ended:
        errors: list[BaseException] = [ended]
        while errors:
            error = errors.pop()
            if isinstance(error, BaseExceptionGroup):
                errors += error.exceptions
            else:
                found.append(type(error))
    return found


def test_everything_is_published_under_random_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resets, malformed replies and refused connections in turn: each record ends once, and the run ends."""
    monkeypatch.setattr(retry, "_PAUSE_SECONDS", 0.01)

    async def story() -> None:
        turns = iter(range(10**6))

        def answer(body: bytes) -> object:
            turn = next(turns) % 7
            trouble: list[object] = [RESET, "no scores", Transient(TransientKind.REFUSED, "refused")]
            return trouble[turn] if turn < 3 else GOOD

        async with _house(
            tmp_path,
            _lake(claude_cli=60),
            _replica(otherwise=answer),
            _replica("http://two", otherwise=answer),
        ) as house:
            await house.pipeline.run()
            ends = await house.ends()
            assert sum(ends.values()) == 60
            assert ends["scored"] >= 50
            assert house.account.outcomes()[Outcome.SCORED] == ends["scored"]

    _play(story)
