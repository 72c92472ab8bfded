"""The start-up probe of a source: a store that ignores If-Match would mix two versions of an object in silence."""

from mira_stream.core.errors import Denied, Missing, Overwritten, Refusal, Saturated, Transient
from mira_stream.core.sight import StoredObject
from mira_stream.ports import ObjectStore

_WRONG_ETAG = "0" * 32
_PROBE_BYTES = 64
_TRIED_MAX = 4


async def probe_source(store: ObjectStore) -> list[str]:
    """Ask for the first object that has bytes under a wrong etag, which must fail; what was found, for people.

    One that cannot be read, as when it is archived, says nothing: then the next is asked for.

    Raises Refusal if the store ignores the condition, and what the store raises if it cannot be asked.
    """
    findings: list[str] = []
    some, in_order = await _first_page(store)
    if not in_order:
        findings.append(f"{store.uri} lists its objects unsorted: every listing is a full one")
    if not some:
        findings.append(f"{store.uri} holds no object yet: If-Match could not be tried")
        return findings
    for entry in some[:_TRIED_MAX]:
        try:
            await _ask_wrongly(store, entry)
        except (Denied, Transient, Saturated) as error:
            findings.append(f"{error}: objects like it are left for later")
        else:
            return findings
    findings.append(f"{store.uri}: If-Match could not be tried")
    return findings


async def _ask_wrongly(store: ObjectStore, entry: StoredObject) -> None:
    if not entry.etag:
        raise Refusal(
            f"the source {store.uri} gives no etag for {entry.key}",
            "an object's version cannot be told without one: use another store, or copy the objects to a folder",
        )
    try:
        await store.get(entry.key, start=0, end=min(entry.size, _PROBE_BYTES), etag=_WRONG_ETAG)
    except (Overwritten, Missing):
        return
    raise Refusal(
        f"the source {store.uri} ignores If-Match: it sent {entry.key} under a wrong etag",
        "an object overwritten while it is read would be mixed with its new version: use a store that keeps "
        "conditional requests (AWS S3, GCS, Azure, MinIO, Ceph), or copy the objects to a folder",
    )


async def _first_page(store: ObjectStore) -> tuple[list[StoredObject], bool]:
    """The objects with bytes of the first page that has one, and whether the pages so far were in order."""
    in_order = True
    last = ""
    async for page in store.list():
        keys = [last, *(entry.key for entry in page)]
        in_order = in_order and keys == sorted(keys)
        last = keys[-1]
        if some := [entry for entry in page if entry.size]:
            return some, in_order
    return [], in_order
