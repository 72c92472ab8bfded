"""What `ports.Sink` promises, held against the segment sink over every store at hand."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.partition import partition_name
from mira_stream.core.record import ObjectVersion
from mira_stream.ports import ObjectStore, Sink
from mira_stream.sink.format import encode_segment, segment_key, trailer_bytes
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.sink.settings import SinkSettings
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.s3_server import S3Lake, s3_lake
from tests.fakes.segments import PARTITION, A, plan, row

SETTINGS = SinkSettings(uri="unused")
Story = Callable[[Sink, ObjectStore], Coroutine[None, None, None]]
Play = Callable[[Story], None]


@pytest.fixture(scope="module")
def lake() -> Iterator[S3Lake]:
    """One server for all tests here."""
    with s3_lake() as running:
        yield running


@pytest.fixture(params=["memory", "local", "s3"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs a story on a new sink."""

    def new_store(executor: Executor) -> ObjectStore:
        if request.param == "memory":
            return MemoryStore()
        if request.param == "local":
            return open_store(str(tmp_path), StoreSettings(), executor=executor)
        running: S3Lake = request.getfixturevalue("lake")
        return running.store(running.new_bucket())

    def run(story: Story) -> None:
        with ThreadPoolExecutor(2) as executor:
            store = new_store(executor)
            sink = SegmentSink(store, settings=SETTINGS, patience=Patience(SETTINGS), executor=executor)
            asyncio.run(story(sink, store))

    return run


PLAN = plan(
    [row(A, 0), row(A, 1, reason=Reason.BLANK), row(A, 2, reason=Reason.TRUNCATED), row(A, 0, generation=1)],
    lines=[(A, 3)],
)


def test_a_published_segment_is_there(play: Play) -> None:
    """Publishing returns our trailer, and the same trailer is read back."""

    async def story(sink: Sink, _: ObjectStore) -> None:
        assert await sink.trailer(PARTITION, 0) is None
        assert await sink.publish(PLAN) == PLAN.trailer
        assert await sink.trailer(PARTITION, 0) == PLAN.trailer
        assert await sink.trailer(PARTITION, 1) is None

    play(story)


def test_publishing_a_plan_twice_publishes_it_once(play: Play) -> None:
    """After a crash between publish and advance the same plan is published again, without effect."""

    async def story(sink: Sink, store: ObjectStore) -> None:
        await sink.publish(PLAN)
        before = await store.get(segment_key(PARTITION, 0))
        assert await sink.publish(PLAN) == PLAN.trailer
        assert await store.get(segment_key(PARTITION, 0)) == before

    play(story)


def test_a_rivals_segment_is_returned_and_left_alone(play: Play) -> None:
    """Publishing where somebody else did returns their trailer."""
    rival = plan([row(A, 7)])

    async def story(sink: Sink, _: ObjectStore) -> None:
        await sink.publish(rival)
        assert await sink.publish(PLAN) == rival.trailer
        assert await sink.trailer(PARTITION, 0) == rival.trailer

    play(story)


def test_rows_tell_keys_and_outcomes_in_order(play: Play) -> None:
    """Adoption learns which records a rival published and how they ended."""

    async def story(sink: Sink, _: ObjectStore) -> None:
        await sink.publish(PLAN)
        rows = await sink.rows(PARTITION, 0)
        assert [(r.version, r.ordinal, r.generation) for r in rows] == [
            (A, 0, 0),
            (A, 1, 0),
            (A, 2, 0),
            (A, 0, 1),
        ]
        assert [r.outcome for r in rows] == [
            Outcome.SCORED,
            Outcome.SKIPPED,
            Outcome.DEAD_LETTERED,
            Outcome.SCORED,
        ]
        assert [r.reason for r in rows] == [None, Reason.BLANK, Reason.TRUNCATED, None]
        assert rows[0].record_id == rows[3].record_id == PLAN.rows[0].key.record_id
        with pytest.raises(Missing):
            await sink.rows(PARTITION, 1)

    play(story)


def test_partitions_are_those_with_a_segment(play: Play) -> None:
    """Our own folder and foreign files are no partitions; each chain ends behind its last segment."""
    other = partition_name("../über", "s3://lake/raw/x", 4)

    async def story(sink: Sink, store: ObjectStore) -> None:
        assert await sink.partitions() == []
        for seq in range(5):
            await sink.publish(plan([row(A, seq)], seq=seq))
        await sink.publish(plan([row(A, 99)], partition=other))
        await store.create("_mira_stream/layout.json", b"{}")
        await store.create("source=notes/README.txt", b"hello")
        await store.create("source=notes/shard=00/scores.jsonl.zst", b"hello")
        assert sorted(await sink.partitions()) == sorted([PARTITION, other])
        assert await sink.chains() == {PARTITION: 5, other: 1}

    play(story)


def test_a_long_trailer_is_read_whole(play: Play) -> None:
    """A segment over very many objects has a trailer longer than one small range read."""
    versions = [ObjectVersion(f"s3://lake/raw/claude_cli/{n:05d}.jsonl.zst", "e" * 32) for n in range(1200)]
    wide = plan([row(v, 0) for v in versions], lines=[(v, 1) for v in versions])

    async def story(sink: Sink, _: ObjectStore) -> None:
        await sink.publish(wide)
        assert await sink.trailer(PARTITION, 0) == wide.trailer
        assert len(await sink.rows(PARTITION, 0)) == 1200

    play(story)


def test_what_is_no_segment_of_that_place_is_corrupt(play: Play) -> None:
    """A foreign file, a cut one and a misplaced one are refused by name, with what to do."""

    async def story(sink: Sink, store: ObjectStore) -> None:
        await sink.publish(PLAN)
        whole = await store.get(segment_key(PARTITION, 0))
        for seq, data in enumerate((b"", b"hello", whole[:-3], whole[:5], whole), start=1):
            await store.create(segment_key(PARTITION, seq), data)
            with pytest.raises(Corrupt, match=f"{seq:08d}.*restore the segment"):
                await sink.trailer(PARTITION, seq)
            with pytest.raises(Corrupt):
                await sink.rows(PARTITION, seq)
            with pytest.raises(Corrupt):
                await sink.publish(plan([row(A, 50)], seq=seq))

    play(story)


def test_rows_that_are_not_those_of_the_plan_are_corrupt(play: Play) -> None:
    """A trailer in front of other rows is never adopted."""

    async def story(sink: Sink, store: ObjectStore) -> None:
        await sink.publish(PLAN)
        whole = await store.get(segment_key(PARTITION, 0))
        other = encode_segment(plan([row(A, 0)]), level=3)
        mixed = other[: -trailer_bytes(other)] + whole[-trailer_bytes(whole) :]
        await store.delete(segment_key(PARTITION, 0))
        await store.create(segment_key(PARTITION, 0), mixed)
        with pytest.raises(Corrupt, match="not those of its plan"):
            await sink.rows(PARTITION, 0)

    play(story)
