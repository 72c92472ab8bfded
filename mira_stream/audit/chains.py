"""The sink's side of an audit: every segment of every chain is read, and what they hold is summed up per object."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from mira_stream.audit.cover_check import CoverCheck
from mira_stream.audit.report import NAMES_KEPT, FaultKind, Findings
from mira_stream.audit.resume import Resume, restore, state_of
from mira_stream.audit.segment_check import SegmentCheck
from mira_stream.audit.spans import Spans, merged, named, size
from mira_stream.core.errors import Corrupt, Missing, Refusal
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import Trailer
from mira_stream.sink.checkpoints import checkpoint_key
from mira_stream.sink.format import SUFFIX, segment_key
from mira_stream.sink.reader import Listed, Segment, SegmentReader


class Published:
    """What the sink holds of one object version."""

    __slots__ = ("expired", "first", "lines", "overwritten", "present", "replays", "superseded")

    def __init__(self) -> None:
        self.first = Spans()
        self.expired: Spans | None = None  # those of the first pass that a checkpoint alone tells of
        self.replays: dict[int, Spans] = {}
        self.lines: int | None = None
        self.superseded = False
        self.overwritten = False
        self.present = False

    def held(self, generation: int) -> Spans:
        """The ordinals of a generation; 0 is the first pass."""
        return self.first if generation == 0 else self.replays.setdefault(generation, Spans())

    def expire(self, generation: int, start: int, end: int) -> int:
        """Rows whose segments were removed, by a checkpoint's word; returns how many of them stand elsewhere too."""
        if generation == 0:
            self.expired = self.expired or Spans()
            self.expired.add(start, end)
        return self.held(generation).add(start, end)


class Names:
    """What listings of the sink showed: the seqs of each chain, and what is no segment."""

    def __init__(self) -> None:
        self.chains: dict[str, Spans] = {}
        self.checkpoints: dict[str, int] = {}
        self.foreign = 0
        self.foreign_names: list[str] = []
        self.stray: set[str] = set()

    def add(self, listed: Listed) -> None:
        """Take a listed name."""
        if listed.place is not None:
            partition, seq = listed.place
            self.chains.setdefault(partition, Spans()).add(seq, seq + 1)
        elif listed.checkpoint is not None:
            partition, seq = listed.checkpoint
            self.chains.setdefault(partition, Spans())
            self.checkpoints[partition] = max(self.checkpoints.get(partition, -1), seq)
        elif listed.key.endswith(SUFFIX):
            self.stray.add(listed.key)
        else:
            self.foreign += 1
            if len(self.foreign_names) < NAMES_KEPT:
                self.foreign_names.append(listed.key)

    def covered(self, partition: str) -> int:
        """The seq behind what its newest checkpoint covers, 0 without one."""
        return self.checkpoints.get(partition, -1) + 1


class Chains:
    """Reads all that is published.

    `objects` are by uri, then etag; memory grows with objects and with gaps in them, not with rows.

    Args:
        only: the partitions to look at; empty: all.
        resume: where partitions that are read are remembered, for the next try.
    """

    def __init__(
        self,
        sink: SegmentReader,
        findings: Findings,
        *,
        on_segment: Callable[[], None],
        only: frozenset[str] = frozenset(),
        resume: Resume | None = None,
    ) -> None:
        self.findings = findings
        self.done: dict[str, int] = {}
        self.objects: dict[str, dict[str, Published]] = {}
        self.outcomes: Counter[Outcome] = Counter()
        self.reasons: Counter[Reason] = Counter()
        self.segments = 0
        self.rows = 0
        self.replayed_rows = 0
        self.expired_segments = 0
        self.expired_rows = 0
        self.names = Names()
        self._sink = sink
        self._on_segment = on_segment
        self._only = only
        self._resume = resume

    async def read(self, ledger_chains: Mapping[str, int]) -> None:
        """Read every segment. Raises Transient or Saturated if the store does not answer.

        The sink is listed twice, because a daemon may be publishing: every row that a trailer of the first listing
        calls ended was published before the second, so the ends count from the first and the rows from both.
        """
        early = await self._sink.patience.until_known(self._list)
        await self._refuse_unknown(early)
        self._begin(early)
        partitions = sorted(early.chains)
        for partition in partitions:
            await self._chain(partition, early)
            self.done[partition] = max(early.chains[partition].end, early.covered(partition))
            if self._resume is not None:
                self._resume.took(lambda: state_of(self), is_last=partition == partitions[-1])
        self.names = await self._sink.patience.until_known(self._list)
        for partition, seq in _new(self.names.chains, early.chains):
            await self._segment(partition, seq, ends=False)
        self._judge_names(
            {name: seq for name, seq in ledger_chains.items() if name in self._only or not self._only}
        )

    def _begin(self, names: Names) -> None:
        """Go on where an earlier try was interrupted, unless segments that it did not read may have expired since."""
        if self._resume is None:
            return
        done = self._resume.chains.done
        if any(names.covered(partition) > seq for partition, seq in done.items()):
            self._resume.forget()
        restore(self, self._resume.chains)

    async def _refuse_unknown(self, names: Names) -> None:
        unknown = sorted(self._only - names.chains.keys())
        if unknown:
            known = ", ".join((await self._sink.partitions())[:NAMES_KEPT]) or "none"
            raise Refusal(f"the sink has no partition {unknown[0]}", f"partitions of it: {known}")

    async def _chain(self, partition: str, names: Names) -> None:
        """What its newest checkpoint covers, then what stands above; of a partition that was read, what came since."""
        seqs, covered, done = names.chains[partition], names.covered(partition), self.done.get(partition)
        if covered and done is None:
            await self._covered(partition, seqs, covered)
        for start, end in seqs:
            for seq in range(max(start, covered, done or 0), end):
                await self._segment(partition, seq, ends=True)

    async def _covered(self, partition: str, seqs: Spans, covered: int) -> None:
        """Each against the other: a checkpoint, and the segments it covers, as far as they are still there."""
        try:
            file = await self._sink.open_checkpoint(partition, covered - 1)
        except (Corrupt, Missing) as error:
            told = f"{error}; what it covers counts as absent where its segments are gone"
            self.findings.add(FaultKind.CORRUPT, checkpoint_key(partition, covered - 1), told)
            file = None
        check = CoverCheck(file, partition, covered - 1, self.findings)
        for start, end in seqs:
            for seq in range(start, min(end, covered)):
                await self._segment(partition, seq, ends=True, cover=check)
        if file is not None:
            self._expire(check, has_expired=check.segments < covered)
        self.expired_segments += covered - check.segments

    def _expire(self, check: CoverCheck, *, has_expired: bool) -> None:
        """Take the checkpoint's word for the rows whose segments are gone."""
        for version, entry, spans in check.absent(has_expired=has_expired):
            published = self._published(version)
            for start, end in spans:
                doubled = published.expire(entry.generation, start, end)
                self.expired_rows += end - start
                if doubled:
                    told = (
                        f"{doubled} rows of {version.uri} (etag {version.etag}) are published elsewhere too"
                    )
                    self.findings.add(FaultKind.DOUBLED, check.where, told, count=doubled)
            if entry.lines is not None:
                published.lines = max(published.lines or 0, entry.lines)

    def items(self) -> Iterator[tuple[ObjectVersion, Published]]:
        """All object versions that the sink knows."""
        for uri, versions in self.objects.items():
            for etag, published in versions.items():
                yield ObjectVersion(uri, etag), published

    async def _list(self) -> Names:
        names = Names()
        async for page in self._sink.names():
            for listed in page:
                if not self._only or _partition(listed) in self._only:
                    names.add(listed)
        return names

    async def _segment(
        self, partition: str, seq: int, *, ends: bool, cover: CoverCheck | None = None
    ) -> None:
        where = segment_key(partition, seq)
        try:
            segment = await self._sink.find(partition, seq)
            if segment is not None:
                check = await self._check(segment)
                self._sum_up(segment.trailer, check, ends=ends)
                if cover is not None:
                    cover.take(segment.trailer, check)
            elif cover is None:
                self.findings.add(FaultKind.GAP, where, "it was listed, and is gone now")
        except Missing:
            if cover is None:  # else it may go at any time
                self.findings.add(FaultKind.GAP, where, "it was there, and vanished while it was read")
        except Corrupt as error:
            self.findings.add(FaultKind.CORRUPT, where, f"{error}; its rows count as absent")
        self._on_segment()

    async def _check(self, segment: Segment) -> SegmentCheck:
        check = SegmentCheck(segment.trailer, self.findings)
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
            self.replayed_rows += len(ordinals) if generation else 0
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
            self.findings.add(
                FaultKind.DOUBLED,
                segment_key(trailer.partition, trailer.seq),
                f"{doubled} of its rows of {version.uri} (etag {version.etag}, generation {generation}) "
                f"are published already; its ordinals are {named(merged(distinct))}",
                count=doubled,
            )

    def published(self, uri: str, etag: str) -> Published:
        """What is known of a version, to be added to."""
        versions = self.objects.setdefault(uri, {})
        if etag not in versions:
            versions[etag] = Published()
        return versions[etag]

    def _published(self, version: ObjectVersion) -> Published:
        return self.published(version.uri, version.etag)

    def _judge_names(self, ledger_chains: Mapping[str, int]) -> None:
        for key in sorted(self.names.stray):
            self.findings.add(
                FaultKind.STRAY, key, "readers take it for a segment, and no chain has it: move it away"
            )
        for partition in sorted({*self.names.chains, *ledger_chains}):
            seqs = self.names.chains.get(partition, Spans())
            known = ledger_chains.get(partition, 0)
            gaps = seqs.missing(self.names.covered(partition), max(seqs.end, known))
            if gaps:
                told = " (the ledger knows it as published)" if known > seqs.end else ""
                self.findings.add(
                    FaultKind.GAP,
                    partition,
                    f"no segment {named(gaps)}{told}: restore from a backup of the sink",
                    count=size(gaps),
                )


def _partition(listed: Listed) -> str:
    """Whose folder a name is in, whatever it is."""
    place = listed.place or listed.checkpoint
    return place[0] if place else listed.key.rpartition("/")[0]


def _new(chains: Mapping[str, Spans], read: Mapping[str, Spans]) -> Iterator[tuple[str, int]]:
    """The segments of `chains` that are not in `read`, chain by chain, in order."""
    for partition, seqs in sorted(chains.items()):
        known = read.get(partition, Spans())
        for listed in seqs:
            for start, end in known.missing(*listed):
                for seq in range(start, end):
                    yield partition, seq
