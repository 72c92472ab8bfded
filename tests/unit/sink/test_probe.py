"""A store that ignores create-if-absent is refused before anything is published to it."""

import asyncio

import pytest

from mira_stream.core.errors import AlreadyExists, Permanent, Refusal, Transient, TransientKind
from mira_stream.sink.probe import PROBE_PREFIX, probe_sink
from tests.fakes.memory_store import FaultyStore, MemoryStore, failing


class CarelessStore(MemoryStore):
    """Overwrites, whatever the condition says."""

    async def create(self, key: str, data: bytes) -> None:
        self.put(key, data)


class LyingStore(MemoryStore):
    """Overwrites, and then says that it did not."""

    async def create(self, key: str, data: bytes) -> None:
        there = key in self.objects
        self.put(key, data)
        if there:
            raise AlreadyExists(key)


class KeepingStore(MemoryStore):
    """Forbids deleting."""

    async def delete(self, key: str) -> None:
        raise Permanent(403, "no s3:DeleteObject")


def test_a_store_that_keeps_conditions_passes_and_is_left_clean() -> None:
    """The probe's file is gone afterwards; one that may not be deleted does no harm."""
    store, keeping = MemoryStore(), KeepingStore()
    asyncio.run(probe_sink(store, "one"))
    asyncio.run(probe_sink(keeping, "one"))
    assert store.objects == {}
    assert set(keeping.objects) == {PROBE_PREFIX + "one"}


@pytest.mark.parametrize("store", [CarelessStore(), LyingStore()])
def test_a_store_that_overwrites_is_refused(store: MemoryStore) -> None:
    """The refusal names the store, what it did, and what to do."""
    with pytest.raises(Refusal, match="s3://lake/scores ignores create-if-absent") as refusal:
        asyncio.run(probe_sink(store, "one"))
    assert "conditional writes" in refusal.value.hint
    assert store.objects == {}


def test_a_name_that_cannot_be_there_is_refused() -> None:
    """A store that claims every name exists cannot be published to."""
    store = MemoryStore()
    store.put(PROBE_PREFIX + "one", b"?")
    with pytest.raises(Refusal, match="its name is new"):
        asyncio.run(probe_sink(store, "one"))
    claiming = FaultyStore(MemoryStore(), before=[failing(AlreadyExists("there"))])
    with pytest.raises(Refusal, match="its name is new"):
        asyncio.run(probe_sink(claiming, "one"))


def test_a_clients_own_second_try_is_no_finding() -> None:
    """Where the first answer is lost the client tries again by itself, and the store rightly refuses that."""
    store = FaultyStore(MemoryStore(), after=[failing(AlreadyExists("there"))])
    asyncio.run(probe_sink(store, "one"))


def test_a_store_that_does_not_answer_is_not_judged() -> None:
    """Passing trouble is passed on: it says nothing about conditions."""
    lost = Transient(TransientKind.RESET, "connection reset")
    with pytest.raises(Transient):
        asyncio.run(probe_sink(FaultyStore(MemoryStore(), before=[None, failing(lost)]), "one"))
