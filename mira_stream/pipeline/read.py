"""Discovery and reading: objects become raw records, nothing is read before a place downstream is free."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import structlog

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import PendingObject
from mira_stream.core.errors import Elsewhere, Missing, Saturated, Transient
from mira_stream.core.outcome import Reason
from mira_stream.core.record import Line, ObjectVersion, RecordKey
from mira_stream.core.sight import FileSight, ObjectEnd
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.raw import RawChannel, RawRecord, Route
from mira_stream.ports import Clock, Ledger, Source
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_PENDING_PAGE = 16
_LIST_RETRY_SECONDS = 1.0
_READ_RETRY_SECONDS = 0.5
_RETRY_SECONDS_MAX = 30.0


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often to list, how many objects of one pool to read at once, and whether to stop when all is read."""

    list_seconds: float
    open_objects_max: int
    once: bool


class Discovery:
    """Lists the source into the ledger, for ever or once."""

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        *,
        meters: Meters,
        settings: ReadSettings,
        clock: Clock,
        wall: Clock,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._meters = meters
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self.first_page = asyncio.Event()
        self.found = asyncio.Event()
        self.finished = False

    async def run(self) -> None:
        """List every `list_seconds`; return after one whole listing if `once`."""
        delay = _LIST_RETRY_SECONDS
        while not self.finished:
            try:
                await self._list()
            except (Transient, Saturated) as error:
                self._meters.add(metrics.SOURCE_RETRIES)
                _log.warning("listing failed, trying again", error=str(error), retry_seconds=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_SECONDS_MAX)
                continue
            delay = _LIST_RETRY_SECONDS
            self.finished = self._settings.once
            self.found.set()
            if not self.finished:
                await asyncio.sleep(self._settings.list_seconds)

    async def _list(self) -> None:
        began = self._clock()
        await self._ledger.begin_listing()
        async for page in self._source.discover(known=self._ledger.known, newest=self._ledger.newest):
            new = await self._ledger.discover(page)
            self._meters.add(metrics.SOURCE_OBJECTS_DISCOVERED, new)
            self.first_page.set()
            self.found.set()
        await self._ledger.end_listing()
        self.first_page.set()
        self._meters.set(metrics.SOURCE_LISTING_SECONDS, self._clock() - began)
        self._meters.set(metrics.SOURCE_LISTED_TIMESTAMP_SECONDS, self._wall())


class Reader:
    """Reads pending objects, a few at a time, into the channels of the prepare stage.

    Each channel, so each pool, has places of its own: one that stands still does not hold up the others.
    """

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        committer: Committer,
        *,
        route: Route,
        meters: Meters,
        settings: ReadSettings,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._committer = committer
        self._route = route
        self._meters = meters
        self._settings = settings
        self._waiting: defaultdict[RawChannel, deque[PendingObject]] = defaultdict(deque)
        self._open: set[str] = set()
        self._places_taken: Counter[RawChannel] = Counter()
        self.postponed = 0
        meters.refresh_with(self._refresh)

    async def run(self, discovery: Discovery) -> None:
        """Read what discovery finds; return when a single listing is read to its end."""
        async with asyncio.TaskGroup() as group:
            while (pending := await self._next(discovery)) is not None:
                channel = self._route(pending.seen.source)
                self._open.add(pending.seen.version.uri)
                self._places_taken[channel] += 1

                def done(channel: RawChannel = channel) -> None:
                    self._places_taken[channel] -= 1
                    discovery.found.set()  # its place is free, and another version of its uri may wait for it

                group.create_task(self._read_object(pending, done), name=f"read {pending.seen.key}")

    async def _next(self, discovery: Discovery) -> PendingObject | None:
        while True:
            if (pending := self._that_has_a_place()) is not None:
                return pending
            discovery.found.clear()
            # Before the ledger is asked: it leaves out what is open, and that may end while it answers.
            exhausted = discovery.finished and not self._open
            if await self._fetch():
                continue
            if exhausted:
                return None
            await discovery.found.wait()

    def _that_has_a_place(self) -> PendingObject | None:
        for channel, waiting in self._waiting.items():
            # Two versions of one uri take turns: what is open is known by its uri.
            free = (one for one in waiting if one.seen.version.uri not in self._open)
            if self._has_place(channel) and (pending := next(free, None)) is not None:
                waiting.remove(pending)
                return pending
        return None

    async def _fetch(self) -> bool:
        """Ask the ledger for objects of pools that have a place and nothing to read in it; whether there are any."""
        supplied = {channel for channel, waiting in self._waiting.items() if waiting}
        supplied.update(channel for channel in self._places_taken if not self._has_place(channel))
        found = await self._ledger.next_pending(
            _PENDING_PAGE,
            frozenset(self._open),
            wanted=lambda source: (
                self._route(source) not in supplied and not self._committer.is_stopped(source)
            ),
        )
        for pending in found:
            self._waiting[self._route(pending.seen.source)].append(self._in_use(pending))
        return bool(found)

    def _has_place(self, channel: RawChannel) -> bool:
        return self._places_taken[channel] < self._settings.open_objects_max

    def _in_use(self, pending: PendingObject) -> PendingObject:
        """In use from here on, and without what an earlier reading of a growing object has handed on already."""
        under_way = self._committer.under_way
        under_way.use(pending.seen.version)
        done = pending.done.union(under_way.ordinals(pending.seen.version))
        return msgspec.structs.replace(pending, done=done)

    async def _read_object(self, pending: PendingObject, done: Callable[[], None]) -> None:
        version = pending.seen.version
        try:
            reading = ObjectReading(pending, self._source, self._ledger, self.emit, self._meters)
            if not await reading.run(once=self._settings.once):
                self.postponed += 1
        except Closed:
            return  # shutting down: what was not handed on is read again at the next start
        finally:
            self._committer.under_way.release(version)
            self._open.discard(version.uri)
            done()

    async def emit(self, record: RawRecord) -> None:
        """Hand it on as soon as there is a place, unless a rival has published it; its object must be in use."""
        if self._committer.under_way.adopted(record.key):
            return
        await self._route(record.source).put(record, len(record.raw) + 1)
        self._committer.enter(record.key)

    def _refresh(self) -> None:
        self._meters.set(metrics.SOURCE_OBJECTS_OPEN, len(self._open))
        self._meters.set(metrics.SOURCE_OBJECTS_OPEN_LIMIT, self._settings.open_objects_max)


Emit = Callable[[RawRecord], Awaitable[None]]


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

    async def run(self, *, once: bool) -> bool:
        """Emit all records that are not done yet, then close the object; False if its tail is not settled yet."""
        if self._pending.superseded:
            await self._close_superseded()
            return True
        found = await self._read_to_end(once=once)
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

    async def _read_to_end(self, *, once: bool) -> ObjectEnd | None:
        """None if it was gone before anything of it was read, or nothing at all is below `source.uri`."""
        delay, reached = _READ_RETRY_SECONDS, self._next
        while True:
            try:
                return await self._read_lines(once=once)
            except Elsewhere:
                return None
            except Missing:
                return self._end_of_missing()
            except (Transient, Saturated) as error:
                self._meters.add(metrics.SOURCE_RETRIES)
                if self._next > reached:
                    delay, reached = _READ_RETRY_SECONDS, self._next
                _log.warning(
                    "read failed, trying again", object=self._version.uri, error=str(error), seconds=delay
                )
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_SECONDS_MAX)

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
