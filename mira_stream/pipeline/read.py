"""Discovery and reading: objects become raw records, nothing is read before a place downstream is free."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from itertools import chain

import msgspec
import structlog

from mira_stream.control.known import PendingObject
from mira_stream.core.errors import Saturated, Transient
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.left_objects import LeftObjects, ReadSettings
from mira_stream.pipeline.object_reading import ObjectReading, PutOff, Vanished
from mira_stream.pipeline.raw import RawChannel, RawRecord, Route
from mira_stream.ports import Clock, Ledger, Source
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_PENDING_PAGE = 16
_LIST_RETRY_SECONDS = 1.0
_RETRY_SECONDS_MAX = 30.0


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
        left: LeftObjects,
    ) -> None:
        self.left = left
        self._source = source
        self._ledger = ledger
        self._committer = committer
        self._route = route
        self._meters = meters
        self._settings = left.settings
        self._waiting: defaultdict[RawChannel, deque[PendingObject]] = defaultdict(deque)
        self._open: dict[str, float] = {}
        """When each object that is read was written, by its uri."""
        self._places_taken: Counter[RawChannel] = Counter()
        self.postponed = 0
        meters.refresh_with(self._refresh)

    async def run(self, discovery: Discovery) -> None:
        """Read what discovery finds; return when a single listing is read to its end."""
        async with asyncio.TaskGroup() as group:
            while (pending := await self._next(discovery)) is not None:
                channel = self._route(pending.seen.source)
                self._open[pending.seen.version.uri] = pending.seen.modified
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
            self.left.resting().union(self._open),
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
            if not await reading.run(once=self._settings.once, trial=self.left.trial(version)):
                self.postponed += 1
            self.left.is_well(version)
        except PutOff as trouble:
            await self.left.put_off(version, str(trouble))
        except Vanished:
            await self.left.wait_for(version)
        except Closed:
            return  # shutting down: what was not handed on is read again at the next start
        finally:
            self._committer.under_way.release(version)
            del self._open[version.uri]
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
        next_ones = (one.seen.modified for waiting in self._waiting.values() for one in waiting)
        oldest = min(chain(self._open.values(), next_ones), default=0.0)
        self._meters.set(metrics.SOURCE_OLDEST_OBJECT_TIMESTAMP_SECONDS, oldest)
