"""The start-up probe of a source: a store that ignores If-Match would mix two versions of an object in silence."""

from mira_stream.core.errors import Missing, Overwritten, Refusal
from mira_stream.core.sight import StoredObject
from mira_stream.ports import ObjectStore

_WRONG_ETAG = "0" * 32
_PROBE_BYTES = 64


async def probe_source(store: ObjectStore) -> list[str]:
    """Ask for the first object that has bytes under a wrong etag, which must fail; what was found, for people.

    Raises Refusal if the store ignores the condition, and what the store raises if it cannot be asked.
    """
    findings: list[str] = []
    first, in_order = await _first_page(store)
    if not in_order:
        findings.append(f"{store.uri} lists its objects unsorted: every listing is a full one")
    if first is None:
        findings.append(f"{store.uri} holds no object yet: If-Match could not be tried")
        return findings
    if not first.etag:
        raise Refusal(
            f"the source {store.uri} gives no etag for {first.key}",
            "an object's version cannot be told without one: use another store, or copy the objects to a folder",
        )
    try:
        await store.get(first.key, start=0, end=min(first.size, _PROBE_BYTES), etag=_WRONG_ETAG)
    except (Overwritten, Missing):
        return findings
    raise Refusal(
        f"the source {store.uri} ignores If-Match: it sent {first.key} under a wrong etag",
        "an object overwritten while it is read would be mixed with its new version: use a store that keeps "
        "conditional requests (AWS S3, GCS, Azure, MinIO, Ceph), or copy the objects to a folder",
    )


async def _first_page(store: ObjectStore) -> tuple[StoredObject | None, bool]:
    """The first object with bytes in the first page that has one, and whether the pages so far were in order."""
    in_order = True
    last = ""
    async for page in store.list():
        keys = [last, *(entry.key for entry in page)]
        in_order = in_order and keys == sorted(keys)
        last = keys[-1]
        first = next((entry for entry in page if entry.size), None)
        if first is not None:
            return first, in_order
    return None, in_order
