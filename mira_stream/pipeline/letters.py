"""The latest dead letters, as far as a person wants to see them at once; all of them stand in the sink."""

from collections import deque
from collections.abc import Iterator

import msgspec

from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.segment import Received
from mira_stream.core.visible import clipped

_KEPT = 50
_NAME_CHARS, _SAID_CHARS = 200, 300


class LatestLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: columns as in `core.row.Row`, each clipped to one visible line. `said` begins the reply."""

    record_id: str
    object: str
    ordinal: int
    source: str
    group: str | None
    reason: Reason
    replica: str | None
    attempts: int
    scored_at: str
    said: str | None


class _Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a row."""

    source: str
    group: str | None
    replica: str | None
    attempts: int
    scored_at: str
    reply: str | None


_read = msgspec.json.Decoder(_Columns).decode


class LatestLetters:
    """Iterates over the last fifty, the newest first."""

    def __init__(self) -> None:
        self._kept: deque[LatestLetter] = deque(maxlen=_KEPT)

    def __iter__(self) -> Iterator[LatestLetter]:
        return reversed(self._kept)

    def see(self, received: Received) -> None:
        """An outcome was made durable; it is kept if it is a dead letter."""
        if received.outcome is not Outcome.DEAD_LETTERED:
            return
        assert received.reason is not None, "a dead letter has a reason"
        key, row = received.key, _read(received.encoded)
        self._kept.append(
            LatestLetter(
                record_id=key.record_id,
                object=clipped(key.version.uri, _NAME_CHARS),
                ordinal=key.ordinal,
                source=clipped(row.source, _NAME_CHARS),
                group=row.group,
                reason=received.reason,
                replica=None if row.replica is None else clipped(row.replica, _NAME_CHARS),
                attempts=row.attempts,
                scored_at=row.scored_at,
                said=None if row.reply is None else clipped(row.reply, _SAID_CHARS),
            )
        )
