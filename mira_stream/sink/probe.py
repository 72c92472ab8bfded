"""The start-up probe: a store that ignores create-if-absent would double records in silence, so it is refused."""

from contextlib import suppress

from mira_stream.core.errors import AlreadyExists, MiraStreamError, Missing, Refusal
from mira_stream.ports import ObjectStore

PROBE_PREFIX = "_mira_stream/probe/"
_FIRST = b"first\n"
_SECOND = b"second\n"


async def probe_sink(store: ObjectStore, name: str) -> None:
    """Create `name` under the probe folder twice; the second must be refused by the store.

    Args:
        store: the sink.
        name: a name that nobody else uses, one path component.

    Raises Refusal if the store does not keep the promise, and what the store raises if it cannot be asked.
    """
    key = PROBE_PREFIX + name
    try:
        await _create_twice(store, key)
    finally:
        # A leftover is harmless; the finding matters more than a store that forbids deleting.
        with suppress(MiraStreamError):
            await store.delete(key)


async def _create_twice(store: ObjectStore, key: str) -> None:
    try:
        await store.create(key, _FIRST)
    except AlreadyExists as error:
        # Ours, if the answer to the client's first try was lost and it has tried again.
        if await _content(store, key) != _FIRST:
            raise Refusal(
                f"the sink {store.uri} says that {key} is there already, though its name is new",
                "start again; if it says so again, the store's create-if-absent cannot be relied on: use another store",
            ) from error
    try:
        await store.create(key, _SECOND)
    except AlreadyExists:
        if await _content(store, key) == _FIRST:
            return
    raise Refusal(
        f"the sink {store.uri} ignores create-if-absent (If-None-Match: *): it let a second write replace {key}",
        "exactly-once needs it: use a store or release that keeps conditional writes (AWS S3, GCS, Azure, MinIO, "
        "Ceph, a local file system), or upgrade this one",
    )


async def _content(store: ObjectStore, key: str) -> bytes | None:
    try:
        return await store.get(key)
    except Missing:
        return None
