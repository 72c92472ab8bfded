"""Asking for replays: which letters can be scored once more, which cannot and why, in requests of bounded size."""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from mira_stream.audit.dead_letters import Letter, Replayed
from mira_stream.control.intervals import IntervalSet
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.replay import REPLAYABLE, Refused, ReplayRequest
from mira_stream.core.segment import ObjectRange
from mira_stream.ports import Source
from mira_stream.sink.replays import ReplayFolder
from mira_stream.sink.retry import Patience

RECORDS_PER_REQUEST = 10_000
_SHOWN_MAX = 20

NOT_REPLAYABLE = "not_replayable"
NO_POOL = "no_pool"
REQUESTED = "requested"


class NotReplayed(msgspec.Struct, frozen=True):
    """A letter that was not asked for, and why."""

    record_id: str
    because: str
    reason: Reason | None
    object: str
    ordinal: int


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: `records` in the `requests` of these names; of what was `refused` the first are `shown`.

    Args:
        refused: letters by cause: those of `core.replay.Refused`, `not_replayable`, `no_pool`, or `requested` already.
    """

    records: int
    requests: tuple[str, ...]
    refused: dict[str, int]
    shown: tuple[NotReplayed, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all that was meant is asked for, now or before."""
        return not self.refused.keys() - {REQUESTED}


class Presence:
    """Whether objects are still there, each looked at once; memory grows with objects, not with records."""

    def __init__(self, source: Source, source_of: Callable[[str], str | None], *, patience: Patience) -> None:
        self._source = source
        self._source_of = source_of
        self._patience = patience
        self._known: dict[ObjectVersion, Refused | None] = {}

    async def trouble(self, version: ObjectVersion) -> Refused | None:
        """Why nothing of that version can be read, or None. Raises Transient or Saturated if that cannot be told."""
        if version not in self._known:
            self._known[version] = await self._patience.until_known(lambda: self._look(version))
        return self._known[version]

    async def _look(self, version: ObjectVersion) -> Refused | None:
        if self._source_of(version.uri) is None:
            return Refused.GONE
        async with aclosing(self._source.read(version, once=True)) as batches:
            try:
                first = await anext(batches)
            except Missing:
                return Refused.GONE
        overwritten = first.end is not None and first.end.reason is Reason.OVERWRITTEN
        return Refused.OVERWRITTEN if overwritten else None


class ReplayRequests:
    """Takes letters, and asks for them in requests of at most `RECORDS_PER_REQUEST` records.

    Args:
        folder: where requests are made; None only looks what would be asked for.
        pending: what is asked for and not answered yet.
        can_score: whether a source has a pool.
        now: RFC 3339, UTC.
    """

    def __init__(
        self,
        folder: ReplayFolder | None,
        *,
        presence: Presence,
        pending: Replayed,
        can_score: Callable[[str], bool],
        now: Callable[[], str],
    ) -> None:
        self._folder = folder
        self._presence = presence
        self._pending = pending
        self._can_score = can_score
        self._now = now
        self._chosen: dict[tuple[ObjectVersion, int], list[int]] = {}
        self._waiting = 0
        self._records = 0
        self._names: list[str] = []
        self._refused: Counter[str] = Counter()
        self._shown: list[NotReplayed] = []

    async def take(self, letter: Letter) -> None:
        """Ask for that record, or note why not."""
        because = await self._because(letter)
        if because is not None:
            self._refuse(letter, because)
            return
        self._chosen.setdefault((letter.version, letter.generation + 1), []).append(letter.ordinal)
        self._waiting += 1
        if self._waiting >= RECORDS_PER_REQUEST:
            await self._ask()

    async def close(self) -> Asked:
        """Ask for the rest; what was asked for in all."""
        if self._waiting:
            await self._ask()
        return Asked(
            records=self._records,
            requests=tuple(self._names),
            refused=dict(sorted(self._refused.items())),
            shown=tuple(self._shown),
        )

    async def _because(self, letter: Letter) -> str | None:
        if letter.reason not in REPLAYABLE:
            return NOT_REPLAYABLE
        if letter.reason is Reason.NO_POOL and not self._can_score(letter.source):
            return NO_POOL
        if self._pending.has_later(letter.version, letter.ordinal, letter.generation):
            return REQUESTED
        trouble = await self._presence.trouble(letter.version)
        return None if trouble is None else trouble.value

    def _refuse(self, letter: Letter, because: str) -> None:
        self._refused[because] += 1
        if len(self._shown) < _SHOWN_MAX and because != REQUESTED:
            self._shown.append(
                NotReplayed(letter.record_id, because, letter.reason, letter.object, letter.ordinal)
            )

    async def _ask(self) -> None:
        ranges = tuple(
            ObjectRange(version.uri, version.etag, generation, IntervalSet.from_ordinals(ordinals).spans)
            for (version, generation), ordinals in sorted(self._chosen.items())
        )
        if self._folder is not None:
            self._names.append(await self._folder.ask(ReplayRequest(asked_at=self._now(), ranges=ranges)))
        self._records += self._waiting
        self._chosen.clear()
        self._waiting = 0


async def pending_of(folder: ReplayFolder) -> Replayed:
    """What is asked for and not answered yet, as far as it can be understood."""
    pending = Replayed()
    for name in await folder.unanswered():
        try:
            request = await folder.request(name)
        except (Corrupt, Missing):
            continue
        for one in request.ranges:
            pending.add(ObjectVersion(one.uri, one.etag), one.generation, one.spans)
    return pending
