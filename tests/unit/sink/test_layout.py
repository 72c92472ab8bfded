"""The layout of a sink is frozen at first start."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from mira_stream.core.errors import Refusal, Transient, TransientKind
from mira_stream.core.sight import StoredObject
from mira_stream.sink.checkpoints import checkpoint_key
from mira_stream.sink.format import segment_key
from mira_stream.sink.layout import LAYOUT_KEY, Layout, ensure_layout, read_layout
from tests.fakes.memory_store import FaultyStore, MemoryStore, failing
from tests.fakes.segments import PARTITION

LAYOUT = Layout(
    source_naming="first component of the key", shards=2, format="jsonl.zst", source_uri="s3://lake/raw"
)
LOST = Transient(TransientKind.RESET, "connection reset")


def test_a_new_sink_is_laid_out_once() -> None:
    """The first start writes the file, later ones find it and change nothing."""
    store = MemoryStore()

    async def starts() -> None:
        assert await read_layout(store) is None
        await ensure_layout(store, LAYOUT)
        written = store.objects[LAYOUT_KEY]
        await ensure_layout(store, LAYOUT)
        assert store.objects[LAYOUT_KEY] == written
        assert await read_layout(store) == LAYOUT

    asyncio.run(starts())
    assert msgspec.json.decode(store.objects[LAYOUT_KEY]) == {
        "version": 1,
        "source_naming": "first component of the key",
        "shards": 2,
        "format": "jsonl.zst",
        "source_uri": "s3://lake/raw",
    }


def test_a_disagreeing_configuration_is_refused_key_by_key() -> None:
    """The refusal names each differing setting with both values, and how to move."""
    store = MemoryStore()
    other = Layout(source_naming="field repo", shards=4, format="jsonl.zst")

    async def starts() -> None:
        await ensure_layout(store, LAYOUT)
        await ensure_layout(store, other)

    with pytest.raises(Refusal) as refusal:
        asyncio.run(starts())
    message = str(refusal.value)
    assert "shards (sink.shards) is 2 there and 4 here" in message
    assert "'first component of the key' there and 'field repo' here" in message
    assert "sink.format" not in message
    assert "sink.uri" in refusal.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{}", b'{"version":2,"source_naming":"x","shards":1,"format":"y","more":1}']
)
def test_a_layout_that_is_not_understood_is_refused(data: bytes) -> None:
    """A damaged file, or one of a newer release, is never taken for a new sink."""
    store = MemoryStore()
    store.put(LAYOUT_KEY, data)
    with pytest.raises(Refusal, match="cannot be understood"):
        asyncio.run(ensure_layout(store, LAYOUT))


def test_two_daemons_that_start_at_once_agree_or_one_is_refused() -> None:
    """The one that comes second checks against what the first wrote."""
    inner = MemoryStore()
    rival = Layout(source_naming="first component of the key", shards=1, format="jsonl.zst")
    store = FaultyStore(inner, before=[lambda: inner.put(LAYOUT_KEY, msgspec.json.encode(rival))])
    with pytest.raises(Refusal, match="shards"):
        asyncio.run(ensure_layout(store, LAYOUT))


def test_a_lost_answer_is_read_back() -> None:
    """The file landed though its answer did not: the start goes on; a request that was lost is raised."""
    asyncio.run(ensure_layout(FaultyStore(MemoryStore(), after=[failing(LOST)]), LAYOUT))
    with pytest.raises(Transient):
        asyncio.run(ensure_layout(FaultyStore(MemoryStore(), before=[failing(LOST)]), LAYOUT))


ELSEWHERE = msgspec.structs.replace(LAYOUT, source_uri="s3://lake")


def test_another_folder_of_the_same_lake_is_refused() -> None:
    """Below it the same objects have other sources, so other chains: each daemon would publish all of them."""
    store = MemoryStore()
    asyncio.run(ensure_layout(store, LAYOUT))
    with pytest.raises(
        Refusal, match=r"source_uri \(source.uri\) is 's3://lake/raw' there and 's3://lake' here"
    ):
        asyncio.run(ensure_layout(store, ELSEWHERE))


def test_a_layout_of_an_earlier_release_takes_the_first_source_that_comes() -> None:
    """It says none, and is not written over: what was said first stands beside it, and holds from then on."""
    store = MemoryStore()
    old = b'{"version":1,"source_naming":"first component of the key","shards":2,"format":"jsonl.zst"}'
    store.put(LAYOUT_KEY, old)
    asyncio.run(ensure_layout(store, LAYOUT))
    asyncio.run(ensure_layout(store, LAYOUT))
    assert store.objects[LAYOUT_KEY] == old
    with pytest.raises(Refusal, match="'s3://lake/raw' there"):
        asyncio.run(ensure_layout(store, ELSEWHERE))
    assert asyncio.run(read_layout(store)) == LAYOUT


@pytest.mark.parametrize("key", [segment_key(PARTITION, 7), checkpoint_key(PARTITION, 7)])
def test_a_layout_that_was_deleted_is_not_written_anew(key: str) -> None:
    """With other shards all that is published would be published again; what has to be restored is said."""
    store = MemoryStore()
    store.put(key, b"")
    with pytest.raises(Refusal, match=r"layout\.json is gone") as refusal:
        asyncio.run(ensure_layout(store, LAYOUT))
    assert '"shards":2' in refusal.value.hint
    assert LAYOUT_KEY not in store.objects


def test_a_daemon_that_starts_beside_a_quick_one_takes_its_layout() -> None:
    """The other wrote the layout and published after we had looked for it, and before we looked for segments."""
    inner = MemoryStore()

    def publish() -> None:
        inner.put(LAYOUT_KEY, msgspec.json.encode(LAYOUT))
        inner.put(segment_key(PARTITION, 0), b"")

    asyncio.run(ensure_layout(_AfterFirstLook(inner, publish), LAYOUT))


class _AfterFirstLook(FaultyStore):
    """Something happens once the first look has found nothing."""

    def __init__(self, inner: MemoryStore, then: Callable[[], None]) -> None:
        super().__init__(inner)
        self._then: Callable[[], None] | None = then

    async def head(self, key: str) -> StoredObject | None:
        found = await super().head(key)
        if self._then is not None:
            self._then()
            self._then = None
        return found
