"""Reading one object version: its lines on their way, each once, and what it owes where it ends badly."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import structlog

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import PendingObject
from mira_stream.core.errors import Denied, Elsewhere, Missing, Saturated, Transient
from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line, ObjectVersion, RecordKey
from mira_stream.core.sight import FileSight, ObjectEnd
from mira_stream.pipeline.raw import RawRecord
from mira_stream.ports import Ledger, Source
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_READ_RETRY_SECONDS = 0.5
_RETRY_SECONDS_MAX = 30.0

Emit = Callable[[RawRecord], Awaitable[None]]


class PutOff(Exception):
    """Nothing more can be had of the object now, though its source answers. Never leaves the reading stage."""


class Vanished(Exception):
    """The object is gone before its end was read, and may come back. Never leaves the reading stage."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tried before an object is left for later.

    Args:
        tries_max: readings without progress; then it is put off if the source answers, and tried on if it does not.
        close_if_gone: whether one that has gone is closed at once.
    """

    tries_max: int = 5
    close_if_gone: bool = True


PATIENT = Trial()


class ObjectReading:
    """One object version from its first unread line to its end.

    The last line is held back until the end is known to the ledger, so that the segment which completes the object
    always carries its number of lines.
    """

    def __init__(
        self, pending: PendingObject, source: Source, ledger: Ledger, emit: Emit, meters: Meters
    ) -> None:
        self._pending = pending
        self._version: ObjectVersion = pending.seen.version
        self._source = source
        self._ledger = ledger
        self._emit = emit
        self._meters = meters
        self._held: Line | None = None
        self._next = 0
        self._sight: FileSight | None = None

    async def run(self, *, once: bool, trial: Trial = PATIENT) -> bool:
        """Emit all records that are not done yet, then close the object; False if its tail is not settled yet.

        Raises PutOff or Vanished where `trial` says that it is to be left for later; what was read is handed on.
        """
        if self._pending.superseded:
            await self._close_superseded()
            return True
        found = await self._read_to_end(once=once, trial=trial)
        if found is None:
            # Not ended: one that comes back unchanged, with its folder or its mount, must be shown again.
            await self._ledger.postpone(self._version)
            _log.info(
                "object is not below source.uri any more; it is read if it comes back",
                object=self._version.uri,
            )
            return True
        end = self._checked(found)
        if not end.settled:
            await self._release_held()
            await self._ledger.postpone(self._version, self._sight)
            self._meters.add(metrics.SOURCE_OBJECTS_POSTPONED)
            _log.info("object is not settled yet; left for later", object=self._version.uri, lines=end.lines)
            return False
        total = self._total(end)
        await self._ledger.end_object(self._version, total, self._sight)
        await self._release_held()
        for ordinal in self._undelivered(total):
            await self._emit_closing(ordinal, end.reason, end.message)
        self._meters.add(metrics.SOURCE_OBJECTS_ENDED, 1, (end.reason.value if end.reason else "none",))
        if end.reason:
            _log.warning("object ends badly", object=self._version.uri, reason=end.reason, detail=end.message)
        return True

    def _checked(self, end: ObjectEnd) -> ObjectEnd:
        """A version that now has fewer lines than were taken from it is not the version it was."""
        if end.reason is None and end.settled and end.lines < self._pending.done.end:
            self._sight = FileSight(closed=True)
            return ObjectEnd(
                end.lines, reason=Reason.OVERWRITTEN, message="it is shorter than what was read of it"
            )
        return end

    def _total(self, end: ObjectEnd) -> int:
        """How many rows it has in all, a closing dead letter included, which it gets at most once."""
        if end.reason is None:
            return end.lines
        told = self._pending.lines
        if told is not None and end.lines < told:
            # It had an end, which may be published: rows that are missing below it say what happened; only if none
            # is, and nothing else has said it, one more does.
            has_said_it = self._pending.closed or not self._pending.done.covers(told)
            if has_said_it or end.reason is not Reason.OVERWRITTEN:
                return told
        return self._closing_ordinal(end) + 1

    async def _read_to_end(self, *, once: bool, trial: Trial) -> ObjectEnd | None:
        """None if it was gone before anything of it was read, or nothing at all is below `source.uri`."""
        delay, reached, tries = _READ_RETRY_SECONDS, self._next, 0
        while True:
            try:
                return await self._read_lines(once=once)
            except Elsewhere:
                return None
            except Missing as error:
                end = self._end_of_missing()
                if end is None or end.reason is None or trial.close_if_gone:
                    return end
                await self._release_held()
                raise Vanished(str(error)) from error
            except (Transient, Saturated, Denied) as error:
                self._meters.add(metrics.SOURCE_RETRIES)
                if self._next > reached:
                    delay, reached, tries = _READ_RETRY_SECONDS, self._next, 0
                tries += 1
                # A denial does not pass by itself; nothing else is told from an outage before the source was asked.
                is_enough = isinstance(error, Denied) or tries >= trial.tries_max
                if is_enough and await self._source_answers():
                    await self._release_held()
                    raise PutOff(str(error)) from error
                _log.warning(
                    "read failed, trying again", object=self._version.uri, error=str(error), seconds=delay
                )
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_SECONDS_MAX)

    async def _source_answers(self) -> bool:
        """Whether the trouble is this object's alone. Raises Refusal if the source is denied to us as a whole."""
        try:
            await self._source.check()
        except (Transient, Saturated):
            return False
        return True

    async def _read_lines(self, *, once: bool) -> ObjectEnd:
        async with aclosing(
            self._source.read(self._version, once=once, prefix=self._pending.prefix)
        ) as batches:
            async for batch in batches:
                for line in batch.lines:
                    await self._take(line)
                if batch.end is not None:
                    self._sight = batch.file
                    return batch.end
        raise AssertionError(f"{self._version.uri}: the source gave no end")

    async def _take(self, line: Line) -> None:
        if line.ordinal < self._next:
            return  # read before the connection broke
        self._next = line.ordinal + 1
        self._meters.add(metrics.SOURCE_LINE_BYTES, len(line.raw) + 1)
        if line.ordinal in self._pending.done:
            return
        await self._release_held()
        self._held = line

    async def _release_held(self) -> None:
        line = self._held
        if line is None:
            return
        await self._emit(
            RawRecord(
                RecordKey(self._version, line.ordinal),
                self._pending.seen.source,
                line.raw,
                Reason.LINE_TOO_LONG if line.oversized else None,
            )
        )
        self._held = None

    async def _emit_closing(self, ordinal: int, reason: Reason | None, message: str) -> None:
        key = RecordKey(self._version, ordinal)
        await self._emit(RawRecord(key, self._pending.seen.source, b"", reason, message))

    def _closing_ordinal(self, end: ObjectEnd) -> int:
        """Where the dead letter of a bad end stands: at the next ordinal, above everything that is done."""
        last_done = self._pending.done.end - 1
        return end.lines if end.lines >= last_done else last_done + 1

    def _undelivered(self, total: int) -> list[int]:
        """The ordinals below `total` that neither this nor an earlier reading could deliver, and never will."""
        rest = IntervalSet.from_spans([(self._next, total)]) if self._next < total else IntervalSet()
        return [n for start, stop in rest.minus(self._pending.done).spans for n in range(start, stop)]

    def _end_of_missing(self) -> ObjectEnd | None:
        told = self._pending.lines
        if told is not None and self._pending.done.covers(told):
            self._sight = (
                FileSight()
            )  # not closed: it was whole before it went, and may grow if it comes back
            return ObjectEnd(told)
        if not (self._next or self._pending.done):
            return None
        self._sight = FileSight(closed=True)
        return ObjectEnd(
            lines=self._next, reason=Reason.TRUNCATED, message="the object was deleted while it was read"
        )

    async def _close_superseded(self) -> None:
        await self._ledger.end_object(self._version, 1)
        await self._emit_closing(0, Reason.SUPERSEDED, "another version of this object was kept")
        self._meters.add(metrics.SOURCE_OBJECTS_ENDED, 1, (Reason.SUPERSEDED.value,))
        _log.warning("object was overwritten; the first version stays", object=self._version.uri)
