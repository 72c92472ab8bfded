"""Replays: which records are to be scored once more, and what came of that, as values that both sides agree on."""

from enum import StrEnum

import msgspec

from mira_stream.core.outcome import OBJECT_REASONS, Reason
from mira_stream.core.segment import ObjectRange, Span

REPLAY_VERSION = 1
REPLAYABLE = (frozenset(Reason) - OBJECT_REASONS - {Reason.BLANK}) | {Reason.TRUNCATED}
"""Reasons that may not come again: the others are about a line that is blank, or about no line at all.

Where an object was truncated a line may stand by now: it was put back, or its writer went on after all.
"""


class Refused(StrEnum):
    """Why a record is not replayed; nothing is published for it, so that its last outcome goes on standing."""

    GONE = "gone"  # the object is not there, or not below source.uri
    OVERWRITTEN = "overwritten"  # the object is another version now
    UNREADABLE = "unreadable"  # the object cannot be read as far as that line
    UNPUBLISHED = "unpublished"  # there is no generation before the one that is asked for


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records to be scored once more.

    Args:
        asked_at: RFC 3339, UTC.
        ranges: `generation` of each is the one to be made, one above the last that is published.
    """

    version: int = REPLAY_VERSION
    asked_at: str
    ranges: tuple[ObjectRange, ...]


class RefusedRange(msgspec.Struct, frozen=True, array_like=True):
    """Records of a request that were not replayed, and why."""

    because: Refused
    uri: str
    etag: str
    generation: int
    spans: tuple[Span, ...]


class ReplayAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of a request: `records` of it are published in the generation that was asked for.

    Args:
        problem: why the request as a whole could not be understood; empty if it could.
    """

    version: int = REPLAY_VERSION
    records: int
    refused: tuple[RefusedRange, ...] = ()
    problem: str = ""
