"""What a source shows: objects as discovery finds them, their lines, and how they end."""

import msgspec

from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line, ObjectVersion

UNSETTLED = "?"
"""Stands behind a change mark where the object is to be shown again even if that has not changed."""


def change_of(mark: str) -> str:
    """The change mark itself, whether it has settled or not."""
    return mark.removesuffix(UNSETTLED)


class StoredObject(msgspec.Struct, frozen=True):
    """One entry of a listing. `modified` is seconds since the epoch; `etag` is without quotes and `W/`.

    For a local file `etag` is only a change mark (device, inode, mtime, size), never an identity.
    """

    key: str
    etag: str
    size: int
    modified: float


class Beside(msgspec.Struct, frozen=True):
    """A file in the same folder that is no object itself: the identity of its first line, and its change mark.

    Args:
        shape: its name without digits and codec: files that were rotated one after another have the same.
        is_newer: it was written to since the object's name was seen last.
    """

    etag: str
    change: str
    shape: str = ""
    is_newer: bool = False


class Prefix(msgspec.Struct, frozen=True):
    """How a local file begins: the digest of what it has at both ends of its first `bytes` bytes."""

    bytes: int
    digest: str


class FileSight(msgspec.Struct, frozen=True):
    """What a reading saw of a local file beside its lines.

    Args:
        prefix: of what was read; growth does not change it. None if that cannot be told.
        quiet: as in `SeenObject`.
        closed: it is no longer the version it was: nothing more may be read of it.
    """

    prefix: Prefix | None = None
    quiet: bool = True
    closed: bool = False


class SeenObject(msgspec.Struct, frozen=True):
    """One object version as discovery found it. `change` tells one sight of a growing local file from the next.

    Args:
        quiet: nobody has written to it for `grow_settle_seconds`.
        beside: where another file had its name: what a rotation may have left beside it.
    """

    version: ObjectVersion
    key: str
    source: str
    size: int
    modified: float
    change: str
    quiet: bool = True
    beside: tuple[Beside, ...] = ()


class ObjectEnd(msgspec.Struct, frozen=True):
    """Where reading stopped. `reason` None and `settled`: a clean end, `lines` rows in all.

    `settled` False: more may come (a growing file, `lines` so far). A `reason`: the object ends badly, its dead letter
    stands at ordinal `lines`.
    """

    lines: int
    settled: bool = True
    reason: Reason | None = None
    message: str = ""


class LineBatch(msgspec.Struct, frozen=True):
    """Some lines in order, at most about 1 MiB of them unless one line is longer.

    `end` is set on the last batch, and `file` too if it is of a local one.
    """

    lines: tuple[Line, ...]
    end: ObjectEnd | None = None
    file: FileSight | None = None
