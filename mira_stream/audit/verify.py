"""The audit: every line of the source against every row of the sink, without the ledger and without trust."""

from collections.abc import Callable, Mapping

import msgspec

from mira_stream.audit.chains import Chains, Published
from mira_stream.audit.report import NAMES_KEPT, Audit, FaultKind, Findings
from mira_stream.audit.resume import Resume
from mira_stream.audit.spans import named, size
from mira_stream.core.errors import Denied, Missing, Permanent, Saturated, Transient
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.sight import ObjectEnd, SeenObject
from mira_stream.ports import Source
from mira_stream.sink.reader import SegmentReader

_NO_CHAINS: Mapping[str, int] = {}


class Progress(msgspec.Struct, frozen=True):
    """How far an audit is; `source_lines` counts those of objects being read too."""

    segments: int
    rows: int
    objects: int
    source_lines: int


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What is audited, and what is known of it already.

    Args:
        partitions: these alone; empty: all. Then `partition_of` tells where the rows of a source object are.
        resume: what an interrupted audit had learned.
    """

    partitions: frozenset[str] = frozenset()
    partition_of: Callable[[SeenObject], str] = lambda _: ""
    resume: Resume | None = None

    def holds(self, seen: SeenObject) -> bool:
        """Whether that object is to be looked at."""
        return not self.partitions or self.partition_of(seen) in self.partitions


ALL = Scope()


async def verify(
    source: Source,
    sink: SegmentReader,
    *,
    ledger_chains: Mapping[str, int] = _NO_CHAINS,
    strict: bool = False,
    scope: Scope = ALL,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Audit:
    """Read all of the sink, then all of the source, and compare.

    Lost is what is absent below `lines` of an object that the sink marks as ended; what the source has beyond that is
    pending. What has expired under a checkpoint counts as published, by its word. The sink is read first: what a
    running daemon reads and publishes meanwhile is pending, never lost.

    Args:
        source: read in full, `once`.
        sink: a reader (or the sink itself) whose patience has a `tries_max`.
        ledger_chains: for each partition the next seq as the ledger knows it; finds chains whose end was removed.
        strict: pending rows, ends that are open, and objects that were written over make the audit fail.
        scope: only some partitions, or an audit that was interrupted.
        on_progress: called after each segment and each batch of lines.

    Raises Transient, Saturated or Permanent if the audit cannot be made: exit code 2.
    """
    verification = _Verification(source, sink, on_progress, scope=scope)
    if scope.resume is None:
        return await verification.run(ledger_chains, strict=strict)
    try:
        audit = await verification.run(ledger_chains, strict=strict)
    except BaseException:
        scope.resume.save()
        raise
    if audit.unread:
        scope.resume.save()  # the rest is read, and need not be read again
    else:
        scope.resume.finish()
    return audit


class _Verification:
    def __init__(
        self,
        source: Source,
        sink: SegmentReader,
        on_progress: Callable[[Progress], None],
        *,
        scope: Scope,
    ) -> None:
        self._scope = scope
        self._source = source
        self._sink = sink
        self._on_progress = on_progress
        self._findings = Findings()
        self._chains = Chains(
            sink, self._findings, on_segment=self._tell, only=scope.partitions, resume=scope.resume
        )
        self._objects = 0
        self._lines = 0
        self._lines_now = 0
        self._pending = 0
        self._pending_objects = 0
        self._unread: list[str] = []
        self._unchecked = 0
        self._written_over = 0
        self._unsettled = 0
        self._current_uris: set[str] = set()

    async def run(self, ledger_chains: Mapping[str, int], *, strict: bool) -> Audit:
        await self._chains.read(ledger_chains)
        for version, published in self._chains.items():
            self._judge_end(version, published)
        async for page in self._source.discover(known=lambda _: {}):
            for seen in page:
                if self._scope.holds(seen):
                    await self._object(seen)
        return self._audit(strict=strict)

    def _judge_end(self, version: ObjectVersion, published: Published) -> None:
        """What the sink promises by itself: an ended object is there whole."""
        lost = published.first.missing(0, published.lines or 0)
        if lost:
            self._findings.add(
                FaultKind.LOST,
                version.uri,
                f"{size(lost)} of {published.lines} rows are absent (etag {version.etag}), "
                f"ordinals {named(lost)}: restore the segments that held them from a backup of the sink",
                count=size(lost),
            )

        for generation, ordinals in list(published.replays.items()):
            before = published.held(generation - 1) if generation > 1 else published.first
            absent = [gap for start, end in ordinals for gap in before.missing(start, end)]
            if absent:
                told = (
                    f"{size(absent)} rows were replayed as generation {generation} (etag {version.etag}), and generation "
                    f"{generation - 1} of them is absent, ordinals {named(absent)}"
                )
                self._findings.add(FaultKind.LOST, version.uri, told, count=size(absent))

    async def _object(self, seen: SeenObject) -> None:
        version = seen.version
        self._objects += 1
        if version.uri in self._chains.objects:
            self._current_uris.add(version.uri)
        published = self._chains.objects.get(version.uri, {}).get(version.etag)
        if published is not None:
            published.present = True
        if published is not None and published.superseded:
            self._lines += 1  # refused as a whole: its one row stands for it
            return
        end = await self._end_of(seen)
        if end is not None:
            self._compare(version, published or Published(), end)

    async def _end_of(self, seen: SeenObject) -> ObjectEnd | None:
        """As `_read`, or as an interrupted audit has read it."""
        resume = self._scope.resume
        if resume is not None and (known := resume.end_of(seen)) is not None:
            return known
        end = await self._read(seen.version)
        if resume is not None and end is not None and end.settled:
            resume.ended(seen, end)
        return end

    async def _read(self, version: ObjectVersion) -> ObjectEnd | None:
        """Where the object ends now; None if that cannot be told (gone or overwritten meanwhile, unreadable)."""
        try:
            end = await self._sink.patience.until_known(lambda: self._count(version))
        except Missing:
            end = ObjectEnd(0, reason=Reason.OVERWRITTEN)
        except (Transient, Saturated, Permanent, Denied) as error:
            self._unread.append(f"{version.uri}: {error}")
            return None
        finally:
            self._lines_now = 0
        if end.reason is Reason.OVERWRITTEN:
            self._absent(version)
            return None
        return end

    def _absent(self, version: ObjectVersion) -> None:
        published = self._chains.objects.get(version.uri, {}).get(version.etag)
        if published is not None:
            published.present = False

    async def _count(self, version: ObjectVersion) -> ObjectEnd:
        counted = 0
        end: ObjectEnd | None = None
        async for batch in self._source.read(version, once=True):
            for line in batch.lines:
                assert line.ordinal == counted, f"{version.uri}: line {line.ordinal} came as number {counted}"
                counted += 1
            end = batch.end
            self._lines_now = counted
            self._tell()
        assert end is not None, f"{version.uri}: the last batch carries no end"
        assert end.lines == counted, f"{version.uri}: {counted} lines were read, its end says {end.lines}"
        return end

    def _compare(self, version: ObjectVersion, published: Published, end: ObjectEnd) -> None:
        rows = end.lines + (end.reason is not None)
        self._lines += rows
        self._unsettled += not end.settled
        ended = published.lines or 0
        told = max(ended, published.first.end)
        if published.overwritten:
            self._absent(version)  # closed at what could be read of it, and put back since
            self._written_over += 1
        elif version.uri.startswith("file:") or not end.settled:
            self._wait_for(size(published.first.missing(ended, max(ended, rows))))
            if told > rows and end.settled:
                self._absent(version)  # shorter than what was scored: replaced under the same first line
                self._written_over += 1
        elif published.lines is None and told <= rows:
            self._wait_for(size(published.first.missing(0, rows)))
        elif told != rows and published.expired and not published.expired.missing(told - 1, told):
            self._unchecked += 1  # it may have been refused, or overwritten: the row that said so has expired
        elif told != rows:
            self._findings.add(
                FaultKind.MISCOUNTED,
                version.uri,
                f"it has {rows} rows, the sink {'says' if published.lines is not None else 'holds'} {told} "
                f"(etag {version.etag}): the sink's trailers or rows are not of this object",
                count=abs(rows - told),
            )

    def _wait_for(self, rows: int) -> None:
        self._pending += rows
        self._pending_objects += rows > 0

    def _tell(self) -> None:
        chains = self._chains
        self._on_progress(
            Progress(chains.segments, chains.rows, self._objects, self._lines + self._lines_now)
        )

    def _audit(self, *, strict: bool) -> Audit:
        chains, names = self._chains, self._chains.names
        versions = list(chains.items())
        absent = [(version, it) for version, it in versions if not it.present]
        overwritten = sum(version.uri in self._current_uris for version, _ in absent)
        return Audit(
            strict=strict,
            partitions=len(names.chains),
            segments=chains.segments,
            rows=chains.rows,
            outcomes=dict(chains.outcomes),
            reasons=dict(chains.reasons),
            replayed_rows=chains.replayed_rows,
            objects=self._objects,
            source_lines=self._lines,
            ended_objects=sum(it.lines is not None for _, it in versions),
            found=dict(self._findings.found),
            faults=tuple(self._findings.kept),
            pending=self._pending,
            pending_objects=self._pending_objects,
            gone_objects=len(absent) - overwritten,
            overwritten_objects=overwritten,
            unfinished_objects=sum(it.lines is None for _, it in absent),
            expired_segments=chains.expired_segments,
            expired_rows=chains.expired_rows,
            unchecked_objects=self._unchecked,
            written_over_objects=self._written_over,
            unsettled_objects=self._unsettled,
            unread=tuple(self._unread[:NAMES_KEPT]),
            foreign_files=names.foreign,
            foreign_names=tuple(names.foreign_names),
        )
