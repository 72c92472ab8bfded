"""Dead letters as they stand in the sink: read in a stream, each only while no later generation has replaced it."""

from collections.abc import AsyncIterator, Callable, Mapping
from fnmatch import fnmatchcase

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Chain
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.partition import source_prefix
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import Span
from mira_stream.sink.reader import SegmentReader

_SCORED = b'"outcome":"scored"'
"""Inside a string its quotes would be escaped, so this is the column."""
_ID_BYTES = 64
"""The first column is the record's id."""
_SPANS_ADDED_MAX = 4096
_DAMAGE_KEPT = 100


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A row, as far as it says how a record ended; columns as in `core.row.Row`."""

    record_id: str
    generation: int
    source: str
    group: str | None
    object: str
    etag: str
    ordinal: int
    shape: str | None
    outcome: Outcome
    reason: Reason | None
    overall: float | None
    missing: tuple[str, ...]
    model: str | None
    replica: str | None
    attempts: int
    finish_reason: str | None
    truncated_tokens: int
    prompt_tokens: int | None
    scored_at: str
    reply: str | None
    segment: str

    @property
    def version(self) -> ObjectVersion:
        return ObjectVersion(self.object, self.etag)

    @property
    def is_dead(self) -> bool:
        """Whether it is a dead letter, or was skipped because nobody could score it."""
        return self.outcome is Outcome.DEAD_LETTERED or self.reason is Reason.NO_POOL


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant: those that fit each filter that is not empty.

    Args:
        objects: patterns as of a shell, on the uri or on the end of it behind a `/`.
        since: RFC 3339, UTC, milliseconds, as in `scored_at`.
    """

    reasons: frozenset[Reason] = frozenset()
    sources: frozenset[str] = frozenset()
    objects: tuple[str, ...] = ()
    since: str = ""
    ids: frozenset[str] = frozenset()

    def fits(self, letter: Letter) -> bool:
        """Whether that letter is meant."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.sources or letter.source in self.sources)
            and (not self.ids or letter.record_id in self.ids)
            and letter.scored_at >= self.since
            and (not self.objects or any(_names(one, letter.object) for one in self.objects))
        )

    def may_be_in(self, partition: str) -> bool:
        """Whether a letter that is meant can be in that chain."""
        return not self.sources or any(partition.startswith(source_prefix(one)) for one in self.sources)


class Replayed:
    """Which records have a generation above 0; memory grows with the gaps in these."""

    def __init__(self) -> None:
        self._added: dict[tuple[ObjectVersion, int], list[Span]] = {}
        self._held: dict[ObjectVersion, dict[int, IntervalSet]] = {}

    def add(self, version: ObjectVersion, generation: int, spans: tuple[Span, ...]) -> None:
        """These are published, or asked for, in that generation."""
        if generation == 0:
            return
        added = self._added.setdefault((version, generation), [])
        added.extend(spans)
        if len(added) > _SPANS_ADDED_MAX:
            self._fold()

    def has_later(self, version: ObjectVersion, ordinal: int, generation: int) -> bool:
        """Whether that record is there in a generation above that one."""
        self._fold()
        held = self._held.get(version, {})
        return any(one > generation and ordinal in ordinals for one, ordinals in held.items())

    def _fold(self) -> None:
        for (version, generation), spans in self._added.items():
            held = self._held.setdefault(version, {})
            before = held.get(generation, IntervalSet())
            held[generation] = before.union(IntervalSet.from_spans(spans))
        self._added.clear()


class DeadLetters:
    """Reads the dead letters of a sink, while a daemon may be publishing. Call `open` first.

    `damaged` says which segments could not be read; what they hold is left out.
    """

    def __init__(self, sink: SegmentReader) -> None:
        self.damaged: list[str] = []
        self.replayed = Replayed()
        self._sink = sink
        self._chains: Mapping[str, Chain] = {}

    async def open(self) -> None:
        """Learn from trailers and checkpoints what was replayed."""
        self._chains = await self._sink.survey()
        for partition, chain in sorted(self._chains.items()):
            await self._learn(partition, chain)

    async def letters(self, query: Query) -> AsyncIterator[Letter]:
        """Those that are meant and that nothing has replaced, chain by chain in the order of receipt."""
        async for line in self._lines(query.may_be_in):
            if _SCORED in line or (query.ids and not _begins_with_one(line, query.ids)):
                continue
            letter = self._decoded(line)
            if letter and letter.is_dead and query.fits(letter) and not self._is_replaced(letter):
                yield letter

    async def history(self, ids: frozenset[str], query: Query) -> list[Letter]:
        """Every row of those records, scored ones too, by record and generation."""
        found = [_decode(line) async for line in self._lines(query.may_be_in) if _begins_with_one(line, ids)]
        return sorted(found, key=lambda letter: (letter.record_id, letter.generation))

    def _decoded(self, line: bytes) -> Letter | None:
        try:
            return _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._note(f"a row cannot be decoded: {error}")
            return None

    def _note(self, damage: str) -> None:
        if damage not in self.damaged and len(self.damaged) < _DAMAGE_KEPT:
            self.damaged.append(damage)

    def _is_replaced(self, letter: Letter) -> bool:
        return self.replayed.has_later(letter.version, letter.ordinal, letter.generation)

    async def _learn(self, partition: str, chain: Chain) -> None:
        if chain.checkpoint >= 0:
            try:
                file = await self._sink.open_checkpoint(partition, chain.checkpoint)
                for entry in file.entries():
                    self.replayed.add(ObjectVersion(entry.uri, entry.etag), entry.generation, entry.spans)
            except (Corrupt, Missing) as error:
                self._note(str(error))
        for seq in chain.held.minus(IntervalSet.from_spans([(0, chain.checkpoint + 1)])).ordinals():
            try:
                trailer = await self._sink.trailer(partition, seq)
            except Corrupt as error:
                self._note(str(error))
                continue
            for held in trailer.ranges if trailer is not None else ():
                self.replayed.add(ObjectVersion(held.uri, held.etag), held.generation, held.spans)

    async def _lines(self, wanted: Callable[[str], bool]) -> AsyncIterator[bytes]:
        for partition, chain in sorted(self._chains.items()):
            for seq in chain.held.ordinals() if wanted(partition) else ():
                try:
                    segment = await self._sink.find(partition, seq)
                    if segment is None:
                        continue  # expired since it was listed
                    async for lines in self._sink.lines(segment):
                        for line in lines:
                            yield line
                except Missing:
                    continue
                except Corrupt as error:
                    self._note(str(error))


def _names(pattern: str, uri: str) -> bool:
    return fnmatchcase(uri, pattern) or fnmatchcase(uri, f"*/{pattern}")


def _begins_with_one(line: bytes, ids: frozenset[str]) -> bool:
    found = line[:_ID_BYTES].split(b'"', 4)
    return len(found) > 3 and found[3].decode("utf-8", "replace") in ids


_decode = msgspec.json.Decoder(Letter).decode
