"""What `ports.ObjectStore` promises, held against every store at hand: memory, a folder, S3."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from mira_stream.core.errors import AlreadyExists, Missing, Overwritten
from mira_stream.core.sight import StoredObject
from mira_stream.ports import ObjectStore
from mira_stream.source.local_store import LocalStore
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.s3_server import S3Lake, s3_lake

Story = Callable[[ObjectStore], Coroutine[None, None, Any]]
Play = Callable[[Story], Any]


@pytest.fixture(scope="module")
def lake() -> Iterator[S3Lake]:
    """One server for all tests here."""
    with s3_lake() as running:
        yield running


@pytest.fixture(params=["memory", "local", "s3"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs a story on a new, empty store."""

    def store() -> ObjectStore:
        if request.param == "memory":
            return MemoryStore()
        if request.param == "local":
            return open_store(str(tmp_path / "lake"), StoreSettings())
        running: S3Lake = request.getfixturevalue("lake")
        return running.store(running.new_bucket())

    return lambda story: asyncio.run(story(store()))


async def _listed(store: ObjectStore, prefix: str = "", after: str | None = None) -> list[StoredObject]:
    return [entry async for page in store.list(prefix, after) for entry in page]


async def _keys(store: ObjectStore, prefix: str = "", after: str | None = None) -> set[str]:
    entries = await _listed(store, prefix, after)
    keys = {entry.key for entry in entries}
    assert len(keys) == len(entries), "each object once"
    return keys


def test_an_empty_store_lists_nothing(play: Play) -> None:
    """A store in which nothing was created is empty, not an error."""
    assert play(_keys) == set()


def test_what_was_created_is_read_back(play: Play) -> None:
    """create makes an object whose bytes, size and key the store gives back; keys may hold odd characters."""

    async def story(store: ObjectStore) -> None:
        keys = {"a/b.jsonl", "a/sp ace+%41#?.jsonl", "ä/名.jsonl", "top.jsonl"}
        for key in keys:
            await store.create(key, key.encode())
        assert {entry.key: entry.size for entry in await _listed(store)} == {k: len(k.encode()) for k in keys}
        for key in keys:
            assert await store.get(key) == key.encode()

    play(story)


def test_the_second_create_is_refused(play: Play) -> None:
    """create never replaces: the second raises AlreadyExists and the first stays."""

    async def story(store: ObjectStore) -> None:
        await store.create("x", b"first")
        with pytest.raises(AlreadyExists):
            await store.create("x", b"second")
        assert await store.get("x") == b"first"

    play(story)


def test_of_concurrent_creates_exactly_one_wins(play: Play) -> None:
    """Sixteen creates of one key at once: one lands, fifteen raise AlreadyExists, and the bytes are the winner's."""

    async def attempt(store: ObjectStore, number: int, won: list[int]) -> None:
        try:
            await store.create("slot", b"%d" % number)
        except AlreadyExists:
            return
        won.append(number)

    async def story(store: ObjectStore) -> None:
        won: list[int] = []
        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(attempt(store, number, won))
        assert len(won) == 1
        assert await store.get("slot") == b"%d" % won[0]

    play(story)


def test_ranges_are_half_open_and_may_pass_the_end(play: Play) -> None:
    """get gives [start, end), shorter at the end, empty past it and for an empty object."""

    async def story(store: ObjectStore) -> None:
        await store.create("x", b"0123456789")
        await store.create("empty", b"")
        assert await store.get("x", start=2, end=5) == b"234"
        assert await store.get("x", start=8) == b"89"
        assert await store.get("x", start=8, end=99) == b"89"
        assert await store.get("x", start=10, end=20) == b""
        assert await store.get("x", start=50, end=60) == b""
        assert await store.get("x", start=4, end=4) == b""
        assert await store.get("empty", start=0, end=10) == b""
        etag = (await _listed(store, ""))[0].etag
        assert etag == etag.strip('"')

    play(story)


def test_a_wrong_etag_is_overwritten(play: Play) -> None:
    """get under the listed etag works, under another one it raises Overwritten, also at and past the end."""

    async def story(store: ObjectStore) -> None:
        await store.create("x", b"0123456789")
        entry = await store.head("x")
        assert entry is not None
        assert entry == (await _listed(store))[0]
        assert await store.get("x", start=0, end=4, etag=entry.etag) == b"0123"
        assert await store.get("x", start=10, end=14, etag=entry.etag) == b""
        for start in (0, 10, 50):
            with pytest.raises(Overwritten):
                await store.get("x", start=start, end=start + 4, etag="0" * 32)

    play(story)


def test_missing_objects_are_told_apart(play: Play) -> None:
    """get of nothing raises Missing, head gives None, delete is no error."""

    async def story(store: ObjectStore) -> None:
        for key in ("nope", "no/such/folder"):
            with pytest.raises(Missing):
                await store.get(key)
            with pytest.raises(Missing):
                await store.get(key, start=0, end=10, etag="0" * 32)
            assert await store.head(key) is None
            await store.delete(key)

    play(story)


def test_deleted_objects_are_gone_and_may_be_created_again(play: Play) -> None:
    """delete removes the object from listings and reads."""

    async def story(store: ObjectStore) -> None:
        await store.create("a/x", b"1")
        await store.delete("a/x")
        assert await store.head("a/x") is None
        assert await _keys(store) == set()
        await store.create("a/x", b"2")
        assert await store.get("a/x") == b"2"

    play(story)


def test_a_prefix_ends_at_a_path_boundary(play: Play) -> None:
    """list(prefix) gives what is under that folder, with or without its slash, and no namesakes."""

    async def story(store: ObjectStore) -> None:
        for key in ("a/1", "a/b/2", "ab/3", "a-b/4", "c"):
            await store.create(key, b"")
        assert await _keys(store, "a") == await _keys(store, "a/") == {"a/1", "a/b/2"}
        assert await _keys(store, "a/b") == {"a/b/2"}
        assert await _keys(store, "nope") == set()

    play(story)


def test_after_is_exclusive_and_always_filtered(play: Play) -> None:
    """list(after) gives only keys above it, alone and below a prefix, whether or not such a key exists."""

    async def story(store: ObjectStore) -> None:
        for key in ("a/1", "a/2", "a/3", "b/1", "z"):
            await store.create(key, b"")
        assert await _keys(store, after="a/2") == {"a/3", "b/1", "z"}
        assert await _keys(store, after="a/25") == {"a/3", "b/1", "z"}
        assert await _keys(store, "a", "a/1") == {"a/2", "a/3"}
        assert await _keys(store, after="zz") == set()

    play(story)


def test_many_objects_come_in_pages(play: Play) -> None:
    """A long listing comes page by page and is complete."""

    async def story(store: ObjectStore) -> None:
        keys = {f"d{n % 3}/{n:04}" for n in range(1100 if isinstance(store, LocalStore) else 60)}
        for key in keys:
            await store.create(key, b"")
        pages = [page async for page in store.list()]
        assert all(pages)
        assert {entry.key for page in pages for entry in page} == keys

    play(story)


def test_settling_changes_nothing_that_can_be_seen(play: Play) -> None:
    """settle keeps what is there, and an empty store has nothing to keep."""

    async def story(store: ObjectStore) -> None:
        await store.settle()
        await store.create("a/b/x", b"1")
        await store.settle()
        assert await _keys(store) == {"a/b/x"}
        assert await store.get("a/b/x") == b"1"

    play(story)
