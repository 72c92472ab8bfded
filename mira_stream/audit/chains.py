"""The sink's side of an audit: every segment of every chain is read, and what they hold is summed up per object."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from mira_stream.audit.report import NAMES_KEPT, FaultKind, Findings
from mira_stream.audit.segment_check import SegmentCheck
from mira_stream.audit.spans import Spans, merged, named, size
from mira_stream.core.errors import Corrupt, Missing
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import Trailer
from mira_stream.sink.format import SUFFIX, segment_key
from mira_stream.sink.reader import Segment, SegmentReader


class Published:
    """What the sink holds of one object version."""

    __slots__ = ("first", "lines", "overwritten", "present", "replays", "superseded")

    def __init__(self) -> None:
        self.first = Spans()
        self.replays: dict[int, Spans] = {}
        self.lines: int | None = None
        self.superseded = False
        self.overwritten = False
        self.present = False

    def held(self, generation: int) -> Spans:
        """The ordinals of a generation; 0 is the first pass."""
        return self.first if generation == 0 else self.replays.setdefault(generation, Spans())


class Names:
    """What listings of the sink showed: the seqs of each chain, and what is no segment."""

    def __init__(self) -> None:
        self.chains: dict[str, Spans] = {}
        self.foreign = 0
        self.foreign_names: list[str] = []
        self.stray: set[str] = set()

    def add(self, key: str, place: tuple[str, int] | None) -> None:
        """Take a listed name."""
        if place is not None:
            self.chains.setdefault(place[0], Spans()).add(place[1], place[1] + 1)
        elif key.endswith(SUFFIX):
            self.stray.add(key)
        else:
            self.foreign += 1
            if len(self.foreign_names) < NAMES_KEPT:
                self.foreign_names.append(key)


class Chains:
    """Reads all that is published.

    `objects` are by uri, then etag; memory grows with objects and with gaps in them, not with rows.
    """

    def __init__(self, sink: SegmentReader, findings: Findings, *, on_segment: Callable[[], None]) -> None:
        self.objects: dict[str, dict[str, Published]] = {}
        self.outcomes: Counter[Outcome] = Counter()
        self.reasons: Counter[Reason] = Counter()
        self.segments = 0
        self.rows = 0
        self.names = Names()
        self._sink = sink
        self._findings = findings
        self._on_segment = on_segment

    async def read(self, ledger_chains: Mapping[str, int]) -> None:
        """Read every segment. Raises Transient or Saturated if the store does not answer.

        The sink is listed twice, because a daemon may be publishing: every row that a trailer of the first listing
        calls ended was published before the second, so the ends count from the first and the rows from both.
        """
        early = await self._sink.patience.until_known(self._list)
        for partition, seq in _new(early.chains, {}):
            await self._segment(partition, seq, ends=True)
        self.names = await self._sink.patience.until_known(self._list)
        for partition, seq in _new(self.names.chains, early.chains):
            await self._segment(partition, seq, ends=False)
        self._judge_names(ledger_chains)

    def items(self) -> Iterator[tuple[ObjectVersion, Published]]:
        """All object versions that the sink knows."""
        for uri, versions in self.objects.items():
            for etag, published in versions.items():
                yield ObjectVersion(uri, etag), published

    async def _list(self) -> Names:
        names = Names()
        async for page in self._sink.names():
            for listed in page:
                names.add(listed.key, listed.place)
        return names

    async def _segment(self, partition: str, seq: int, *, ends: bool) -> None:
        where = segment_key(partition, seq)
        try:
            segment = await self._sink.find(partition, seq)
            if segment is not None:
                self._sum_up(segment.trailer, await self._check(segment), ends=ends)
            else:
                self._findings.add(FaultKind.GAP, where, "it was listed, and is gone now")
        except Missing:
            self._findings.add(FaultKind.GAP, where, "it was there, and vanished while it was read")
        except Corrupt as error:
            self._findings.add(FaultKind.CORRUPT, where, f"{error}; its rows count as absent")
        self._on_segment()

    async def _check(self, segment: Segment) -> SegmentCheck:
        check = SegmentCheck(segment.trailer, self._findings)
        async for lines in self._sink.lines(segment):
            check.take(lines)
        check.close()
        return check

    def _sum_up(self, trailer: Trailer, check: SegmentCheck, *, ends: bool) -> None:
        self.segments += 1
        self.rows += check.rows
        self.outcomes += check.outcomes
        self.reasons += check.reasons
        for (version, generation), ordinals in check.ordinals.items():
            self._add(trailer, version, generation, ordinals)
        for version in check.superseded:
            self._published(version).superseded = True
        for version in check.overwritten:
            self._published(version).overwritten = True
        if ends:
            for lines in trailer.lines:
                published = self._published(ObjectVersion(lines.uri, lines.etag))
                published.lines = max(published.lines or 0, lines.count)

    def _add(self, trailer: Trailer, version: ObjectVersion, generation: int, ordinals: list[int]) -> None:
        distinct = sorted(set(ordinals))
        doubled = len(ordinals) - len(distinct)
        held = self._published(version).held(generation)
        for start, end in merged(distinct):
            doubled += held.add(start, end)
        if doubled:
            self._findings.add(
                FaultKind.DOUBLED,
                segment_key(trailer.partition, trailer.seq),
                f"{doubled} of its rows of {version.uri} (etag {version.etag}, generation {generation}) "
                f"are published already; its ordinals are {named(merged(distinct))}",
                count=doubled,
            )

    def _published(self, version: ObjectVersion) -> Published:
        versions = self.objects.setdefault(version.uri, {})
        if version.etag not in versions:
            versions[version.etag] = Published()
        return versions[version.etag]

    def _judge_names(self, ledger_chains: Mapping[str, int]) -> None:
        for key in sorted(self.names.stray):
            self._findings.add(
                FaultKind.STRAY, key, "readers take it for a segment, and no chain has it: move it away"
            )
        for partition in sorted({*self.names.chains, *ledger_chains}):
            seqs = self.names.chains.get(partition, Spans())
            known = ledger_chains.get(partition, 0)
            gaps = seqs.missing(0, max(seqs.end, known))
            if gaps:
                told = " (the ledger knows it as published)" if known > seqs.end else ""
                self._findings.add(
                    FaultKind.GAP,
                    partition,
                    f"no segment {named(gaps)}{told}: restore from a backup of the sink",
                    count=size(gaps),
                )


def _new(chains: Mapping[str, Spans], read: Mapping[str, Spans]) -> Iterator[tuple[str, int]]:
    """The segments of `chains` that are not in `read`, chain by chain, in order."""
    for partition, seqs in sorted(chains.items()):
        known = read.get(partition, Spans())
        for listed in seqs:
            for start, end in known.missing(*listed):
                for seq in range(start, end):
                    yield partition, seq
