"""Records that are scored once more because somebody asked: read again, and handed on in the generation asked for."""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec
import structlog

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Holding
from mira_stream.core.errors import Corrupt, Denied, Missing, Saturated, Transient
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.replay import Refused, RefusedRange, ReplayAnswer
from mira_stream.core.segment import ObjectRange
from mira_stream.core.sight import LineBatch
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.left_objects import ReadSettings
from mira_stream.pipeline.object_reading import Emit
from mira_stream.pipeline.raw import RawChannel, RawRecord, Route
from mira_stream.ports import Ledger, Replays, Source
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_REQUESTS_OPEN_MAX = 32
_RETRY_SECONDS = 0.5
_RETRY_SECONDS_MAX = 30.0
_TRIES_MAX = 5


class ReplayTools(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay works with.

    Args:
        source_of: the source of the object at a uri; None if there can be no such object.
        can_score: whether a source has a pool, or its records say theirs themselves.
        route: the channel of a source.
        emit: takes a record into the pipeline, when it has a place.
        settings: how often to look for requests, and whether once is all.
    """

    source_of: Callable[[str], str | None]
    can_score: Callable[[str], bool]
    route: Route
    emit: Emit
    settings: ReadSettings
    meters: Meters


class _Asked:
    """A range of a request, and what is known of it so far."""

    def __init__(self, asked: ObjectRange) -> None:
        self.version = ObjectVersion(asked.uri, asked.etag)
        self.generation = asked.generation
        self.wanted = IntervalSet.from_spans(asked.spans)
        self.refused: dict[Refused, IntervalSet] = {}

    @property
    def open(self) -> IntervalSet:
        """What is not refused."""
        rest = self.wanted
        for refused in self.refused.values():
            rest = rest.minus(refused)
        return rest

    def refuse(self, because: Refused, ordinals: IntervalSet) -> None:
        """These will not be scored."""
        if ordinals:
            self.refused[because] = self.refused.get(because, IntervalSet()).union(ordinals)

    def told(self) -> list[RefusedRange]:
        """What was refused, for the answer."""
        return [
            RefusedRange(because, self.version.uri, self.version.etag, self.generation, refused.spans)
            for because, refused in sorted(self.refused.items())
        ]


class _Found(NamedTuple):
    """The records of a range that nobody has scored in its generation, their object's source, and what is held of it."""

    ordinals: IntervalSet
    source: str
    holding: Holding


class Replayer:
    """Does what replay requests ask for, again and again until each is answered.

    A record is known by (record_id, generation), so that asking twice, starting again and a rival change nothing: what
    is received or published is not read again, and the ledger takes nothing twice. A request is answered when each of
    its records is published or refused.
    """

    def __init__(
        self,
        requests: Replays,
        source: Source,
        ledger: Ledger,
        *,
        committer: Committer,
        tools: ReplayTools,
    ) -> None:
        self._requests = requests
        self._source = source
        self._ledger = ledger
        self._committer = committer
        self._tools = tools
        self._open: dict[str, list[_Asked]] = {}
        self._told: set[str] = set()
        self._turn = ""

    async def run(self) -> None:
        """Look for requests every `list_seconds`, for ever; once if so set."""
        while True:
            await self._look()
            await self._replay_all()
            await self.answer_finished()
            if self._tools.settings.once:
                return
            await asyncio.sleep(self._tools.settings.list_seconds)

    async def answer_finished(self) -> None:
        """Answer each request of which all is published or refused."""
        for name, ranges in list(self._open.items()):
            if await self._is_finished(ranges):
                await self._answer(name, ranges)
        self._tools.meters.set(metrics.SOURCE_REPLAY_REQUESTS, len(self._open))

    async def _look(self) -> None:
        names = await self._requests.unanswered()
        self._told.intersection_update(names)
        chosen = self._in_turn(names)
        for name in self._open.keys() - set(chosen):
            del self._open[name]  # somebody else has answered it, or it is another's turn
        for name in chosen:
            if name not in self._open:
                await self._begin(name)

    def _in_turn(self, names: Sequence[str]) -> Sequence[str]:
        """Those to look at now. Of more than are looked at at once the next ones: some may have no answer for long.

        Nothing is lost where a turn ends: what was handed on goes its way, and is known by the ledger at the next.
        """
        if len(names) <= _REQUESTS_OPEN_MAX:
            return names
        first = bisect_right(names, self._turn) % len(names)
        chosen = [*names[first:], *names[:first]][:_REQUESTS_OPEN_MAX]
        self._turn = chosen[-1]
        return chosen

    async def _begin(self, name: str) -> None:
        try:
            request = await self._requests.request(name)
        except Missing:
            return
        except Corrupt as error:
            _log.error("a replay request cannot be understood", request=name, error=str(error))
            await self._requests.answer(name, ReplayAnswer(records=0, problem=str(error)))
            return
        self._open[name] = [_Asked(one) for one in request.ranges]
        records = sum(IntervalSet.from_spans(one.spans).count for one in request.ranges)
        waiting = sum(one.wanted.count for one in self._open[name] if not self._is_scorable(one))
        if name not in self._told:
            self._told.add(name)
            _log.info("replay requested", request=name, records=records, waiting_for_a_pool=waiting)

    def _is_scorable(self, asked: _Asked) -> bool:
        source = self._tools.source_of(asked.version.uri)
        return source is None or self._tools.can_score(source)

    async def _is_finished(self, ranges: list[_Asked]) -> bool:
        for asked in ranges:
            if rest := asked.open:
                holding = await self._ledger.holding(asked.version, asked.generation)
                if rest.minus(holding.published):
                    return False
        return True

    async def _answer(self, name: str, ranges: list[_Asked]) -> None:
        refused = tuple(one for asked in ranges for one in asked.told())
        records = sum(asked.open.count for asked in ranges)
        await self._requests.answer(name, ReplayAnswer(records=records, refused=refused))
        del self._open[name]
        told = {one.because.value: IntervalSet.from_spans(one.spans).count for one in refused}
        _log.info("replay answered", request=name, records=records, **told)

    # Reading.

    async def _replay_all(self) -> None:
        """Pool by pool side by side, so that one which stands still holds up its own replays alone."""
        lanes: defaultdict[RawChannel, list[tuple[_Asked, str]]] = defaultdict(list)
        for ranges in self._open.values():
            for asked in ranges:
                source = self._tools.source_of(asked.version.uri)
                if source is None:
                    asked.refuse(Refused.GONE, asked.open)
                elif self._tools.can_score(source) and not self._committer.is_stopped(source):
                    lanes[self._tools.route(source)].append((asked, source))
        async with asyncio.TaskGroup() as group:
            for lane in lanes.values():
                group.create_task(self._replay_lane(lane), name="replay")

    async def _replay_lane(self, lane: list[tuple[_Asked, str]]) -> None:
        under_way = self._committer.under_way
        for asked, source in lane:
            under_way.use(asked.version)
            try:
                await self._read(asked, await self._find(asked, source))
            except Closed:
                return  # shutting down: what was not handed on is read again at the next start
            finally:
                under_way.release(asked.version)

    async def _find(self, asked: _Asked, source: str) -> _Found:
        # What is under way comes first: it may be received while the ledger is asked.
        passing = self._committer.under_way.ordinals(asked.version, asked.generation)
        holding = await self._ledger.holding(asked.version, asked.generation)
        before = await self._ledger.holding(asked.version, asked.generation - 1)
        absent = asked.open.minus(holding.published).minus(holding.received).minus(passing)
        asked.refuse(Refused.UNPUBLISHED, absent.minus(before.published).minus(before.received))
        return _Found(absent.intersection(before.published), source, holding)

    async def _read(self, asked: _Asked, found: _Found) -> None:
        """What cannot be had in some tries is left for the next look, and holds up no other replay."""
        delay, rest = _RETRY_SECONDS, found.ordinals
        for tries in range(1, _TRIES_MAX + 1):
            if rest:
                rest = await self._try_to_read(asked, found._replace(ordinals=rest))
            if not rest or tries == _TRIES_MAX:
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_SECONDS_MAX)

    async def _try_to_read(self, asked: _Asked, found: _Found) -> IntervalSet:
        """The lines that have to be tried again."""
        reading = _Reading(self._source, asked, found, emit=self._tools.emit)
        try:
            await reading.run()
        except Missing:
            asked.refuse(Refused.GONE, reading.rest)
        except (Transient, Saturated, Denied) as error:
            self._tools.meters.add(metrics.SOURCE_RETRIES)
            _log.warning("replay: read failed, trying again", object=asked.version.uri, error=str(error))
            return reading.rest
        finally:
            self._tools.meters.add(metrics.RECORDS_REPLAYED, reading.records)
        return IntervalSet()


class _Reading:
    """One reading of an object for some of its lines."""

    def __init__(self, source: Source, asked: _Asked, found: _Found, *, emit: Emit) -> None:
        self.records = 0
        self._source = source
        self._asked = asked
        self._found = found
        self._emit = emit
        self._next = 0

    @property
    def rest(self) -> IntervalSet:
        """The lines that were not handed on."""
        return self._found.ordinals.minus(IntervalSet.from_spans([(0, self._next)]))

    async def run(self) -> None:
        """Hand on those lines; refuse what the object does not have. Raises Missing, Transient or Saturated."""
        reading = self._source.read(self._asked.version, once=True, prefix=self._found.holding.prefix)
        async with aclosing(reading) as batches:
            async for batch in batches:
                await self._take(batch)
                if self._next >= self._found.ordinals.end:
                    return
                if batch.end is not None and batch.end.settled:
                    is_other = batch.end.reason is Reason.OVERWRITTEN
                    self._asked.refuse(Refused.OVERWRITTEN if is_other else Refused.UNREADABLE, self.rest)

    async def _take(self, batch: LineBatch) -> None:
        for line in batch.lines:
            if line.ordinal in self._found.ordinals:
                key = RecordKey(self._asked.version, line.ordinal, self._asked.generation)
                reason = Reason.LINE_TOO_LONG if line.oversized else None
                await self._emit(RawRecord(key, self._found.source, line.raw, reason))
                self.records += 1
            self._next = line.ordinal + 1
