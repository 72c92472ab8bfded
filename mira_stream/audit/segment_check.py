"""One segment against itself: every row recomputed, and all of them against the trailer."""

from collections import Counter
from collections.abc import Iterable, Mapping

from mira_stream.audit.report import FaultKind, Findings
from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Outcome, Reason, outcome_of
from mira_stream.core.partition import segment_name
from mira_stream.core.record import ObjectVersion, record_id
from mira_stream.core.row import row_digest
from mira_stream.core.segment import Trailer, plan_id
from mira_stream.sink.format import published_key, segment_key, without_segment

Held = tuple[ObjectVersion, int]
"""An object version, and a generation."""


class SegmentCheck:
    """Takes the lines of a segment in order; memory is bounded by the number of its rows."""

    def __init__(self, trailer: Trailer, findings: Findings) -> None:
        self.rows = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.reasons: Counter[Reason] = Counter()
        self.ordinals: dict[Held, list[int]] = {}
        self.superseded: set[ObjectVersion] = set()
        self.overwritten: set[ObjectVersion] = set()
        self._trailer = trailer
        self._findings = findings
        self._segment = segment_name(trailer.partition, trailer.seq, trailer.plan_id)
        self._where = segment_key(trailer.partition, trailer.seq)
        self._digests: list[tuple[str, int, str]] = []

    def take(self, lines: Iterable[bytes]) -> None:
        """Check some rows, each by itself."""
        for line in lines:
            self.rows += 1
            try:
                self._row(line)
            except Corrupt as error:
                self._changed(f"row {self.rows}: {error}")

    def close(self) -> None:
        """All rows are taken: check them against the trailer."""
        if plan_id(self._digests) != self._trailer.plan_id:
            self._changed("its rows are not those that were sealed (plan_id differs)")
        if not self._are_listed():
            self._changed("its rows are not those that its trailer lists")

    def _are_listed(self) -> bool:
        held = {key: frozenset(ordinals) for key, ordinals in self.ordinals.items()}
        listed = sum(end - start for it in self._trailer.ranges for start, end in it.spans)
        # The sum comes first: a damaged trailer may claim more ordinals than fit into memory.
        return listed == sum(map(len, held.values())) and held == _ordinals(self._trailer)

    def _row(self, line: bytes) -> None:
        row = published_key(line)
        version = row.version
        encoded = without_segment(line, self._segment)
        if encoded is None:
            self._changed(f"row {self.rows} does not name this segment")
        if row.record_id != record_id(version.uri, version.etag, row.ordinal):
            self._changed(f"row {self.rows} has a record_id that is not that of its object and ordinal")
        if row.outcome is not outcome_of(row.reason):
            self._changed(f"row {self.rows} is {row.outcome.value} with reason {row.reason or 'none'}")
        self._digests.append((row.record_id, row.generation, row_digest(encoded or line)))
        self.ordinals.setdefault((version, row.generation), []).append(row.ordinal)
        self._count(version, row.outcome, row.reason)

    def _count(self, version: ObjectVersion, outcome: Outcome, reason: Reason | None) -> None:
        self.outcomes[outcome] += 1
        if reason is not None:
            self.reasons[reason] += 1
        if reason is Reason.SUPERSEDED:
            self.superseded.add(version)
        if reason is Reason.OVERWRITTEN:
            self.overwritten.add(version)

    def _changed(self, message: str) -> None:
        self._findings.add(FaultKind.CHANGED, self._where, message)


def _ordinals(trailer: Trailer) -> Mapping[Held, frozenset[int]]:
    return {
        (ObjectVersion(held.uri, held.etag), held.generation): frozenset(
            ordinal for start, end in held.spans for ordinal in range(start, end)
        )
        for held in trailer.ranges
    }
