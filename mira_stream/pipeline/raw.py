"""What the read stage hands to the prepare stage, and by which channel."""

from collections.abc import Callable

import msgspec

from mira_stream.core.outcome import Reason
from mira_stream.core.record import RecordKey
from mira_stream.pipeline.channel import Channel


class RawRecord(msgspec.Struct, frozen=True):
    """One line to prepare; `source` is the object's, by its key.

    `reason` is set where there is nothing to prepare: a line over the limit, or the row that closes an object which
    ends badly or is superseded (`message` says more).
    """

    key: RecordKey
    source: str
    raw: bytes
    reason: Reason | None = None
    message: str = ""


RawChannel = Channel[RawRecord]
Route = Callable[[str], RawChannel]
"""The channel for an object's source: one per pool, so that a full pool does not hold up the others."""
