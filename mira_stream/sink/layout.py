"""The layout of a sink, frozen at first start: a daemon whose configuration disagrees is refused."""

import msgspec

from mira_stream.core.errors import AlreadyExists, Refusal, Transient
from mira_stream.ports import ObjectStore

LAYOUT_KEY = "_mira_stream/layout.json"
LAYOUT_VERSION = 1
_LAYOUT_BYTES_MAX = 64 << 10
_SETTINGS = {
    "version": "the release of mira-stream",
    "source_naming": "source.name_from",
    "shards": "sink.shards",
    "format": "sink.format",
}


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides which chain a record goes to.

    Args:
        source_naming: how the source of a record is found, as configured.
        shards: chains per source.
        format: form of the segments.
    """

    version: int = LAYOUT_VERSION
    source_naming: str
    shards: int
    format: str


async def read_layout(store: ObjectStore) -> Layout | None:
    """The layout of the sink, or None if it is new. Raises Refusal if the file cannot be understood."""
    if await store.head(LAYOUT_KEY) is None:
        return None
    data = await store.get(LAYOUT_KEY, end=_LAYOUT_BYTES_MAX)
    try:
        return msgspec.json.decode(data, type=Layout)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(
            f"{store.uri}/{LAYOUT_KEY} cannot be understood: {error}",
            "a newer mira-stream may have written it: run that one, or restore the file from a backup; "
            "never delete it while the sink holds segments",
        ) from error


async def ensure_layout(store: ObjectStore, layout: Layout) -> None:
    """Write the layout of a new sink, or check that an old one has the same. Raises Refusal, Transient, Saturated."""
    standing = await read_layout(store) or await _write_layout(store, layout)
    if standing != layout:
        raise _disagreement(store.uri, standing, layout)


async def _write_layout(store: ObjectStore, layout: Layout) -> Layout:
    """The layout that stands after we tried to create ours: two daemons may start at once, answers may get lost."""
    data = msgspec.json.format(msgspec.json.encode(layout), indent=2) + b"\n"
    try:
        await store.create(LAYOUT_KEY, data)
    except (AlreadyExists, Transient) as error:
        standing = await read_layout(store)
        if standing is None:
            raise error from None
        return standing
    return layout


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
