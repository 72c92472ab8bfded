"""The layout of a sink, frozen at first start: a daemon whose configuration disagrees is refused."""

from typing import TypeVar

import msgspec

from mira_stream.core.errors import AlreadyExists, Refusal, Transient
from mira_stream.ports import ObjectStore
from mira_stream.sink.checkpoints import parse_checkpoint_key
from mira_stream.sink.format import parse_segment_key

T = TypeVar("T")
LAYOUT_KEY = "_mira_stream/layout.json"
LAYOUT_SOURCE_KEY = "_mira_stream/layout-source.json"
"""Beside a layout that was written before it said its source: files of a sink are never written over."""
LAYOUT_VERSION = 1
_LAYOUT_BYTES_MAX = 64 << 10
_SETTINGS = {
    "version": "the release of mira-stream",
    "source_naming": "source.name_from",
    "shards": "sink.shards",
    "format": "sink.format",
    "source_uri": "source.uri",
}


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides which chain a record goes to.

    Args:
        source_naming: how the source of a record is found, as configured.
        shards: chains per source.
        format: form of the segments.
        source_uri: what keys are relative to: below another folder of the same lake an object has another source, so
            another chain, and two daemons would each publish it. None in a file that an earlier release wrote.
    """

    version: int = LAYOUT_VERSION
    source_naming: str
    shards: int
    format: str
    source_uri: str | None = None


class _LayoutSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an earlier layout lacks."""

    source_uri: str


async def read_layout(store: ObjectStore) -> Layout | None:
    """The layout of the sink, or None if it is new. Raises Refusal if a file of it cannot be understood."""
    standing = await _read(store, LAYOUT_KEY, Layout)
    if standing is None or standing.source_uri is not None:
        return standing
    beside = await _read(store, LAYOUT_SOURCE_KEY, _LayoutSource)
    return standing if beside is None else msgspec.structs.replace(standing, source_uri=beside.source_uri)


async def ensure_layout(store: ObjectStore, layout: Layout) -> None:
    """Write the layout of a new sink, or check that an old one has the same.

    A layout that does not say its source takes the first that comes. Raises Refusal, Transient, Saturated.
    """
    standing = await read_layout(store) or await _write_layout(store, layout)
    if standing.source_uri is None and layout.source_uri is not None:
        said = await _stands(store, LAYOUT_SOURCE_KEY, _LayoutSource(source_uri=layout.source_uri))
        standing = msgspec.structs.replace(standing, source_uri=said.source_uri)
    if standing != layout:
        raise _disagreement(store.uri, standing, layout)


async def _write_layout(store: ObjectStore, layout: Layout) -> Layout:
    """The layout that stands after ours was tried to be created. Raises Refusal if there was one, and it is gone."""
    if await _is_in_use(store) and await read_layout(store) is None:
        raise Refusal(
            f"the sink {store.uri} holds segments, and {LAYOUT_KEY} is gone",
            "restore that file from a backup. Without one, and only if no setting has changed since: put this there: "
            + msgspec.json.encode(layout).decode(),
        )
    return await _stands(store, LAYOUT_KEY, layout)


async def _is_in_use(store: ObjectStore) -> bool:
    async for page in store.list():
        if any(parse_segment_key(one.key) or parse_checkpoint_key(one.key) for one in page):
            return True
    return False


async def _read(store: ObjectStore, key: str, kind: type[T]) -> T | None:
    if await store.head(key) is None:
        return None
    data = await store.get(key, end=_LAYOUT_BYTES_MAX)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(
            f"{store.uri}/{key} cannot be understood: {error}",
            "a newer mira-stream may have written it: run that one, or restore the file from a backup; "
            "never delete it while the sink holds segments",
        ) from error


async def _stands(store: ObjectStore, key: str, wanted: T) -> T:
    """What stands after we tried to create ours: two daemons may start at once, answers may get lost."""
    data = msgspec.json.format(msgspec.json.encode(wanted), indent=2) + b"\n"
    try:
        await store.create(key, data)
    except (AlreadyExists, Transient) as error:
        standing = await _read(store, key, type(wanted))
        if standing is None:
            raise error from None
        return standing
    return wanted


def _disagreement(uri: str, standing: Layout, wanted: Layout) -> Refusal:
    old, new = msgspec.structs.asdict(standing), msgspec.structs.asdict(wanted)
    differing = [key for key in old if old[key] != new[key]]
    said = "; ".join(
        f"{key} ({_SETTINGS[key]}) is {old[key]!r} there and {new[key]!r} here" for key in differing
    )
    return Refusal(
        f"the sink {uri} was laid out differently: {said}",
        "records would go to other chains and be scored twice. Either go back to the values of the sink, or move: "
        "point sink.uri at a new, empty prefix and ledger.path at a new file, and let it score there from the start",
    )
