"""One checkpoint against the segments that it covers, as far as they are still there."""

from collections.abc import Iterator

from mira_stream.audit.report import FaultKind, Findings
from mira_stream.audit.segment_check import Held, SegmentCheck
from mira_stream.audit.spans import Spans, merged, named, size
from mira_stream.core.errors import Corrupt
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import Cumulated, Trailer
from mira_stream.sink.checkpoints import CheckpointFile, checkpoint_key

Absent = tuple[ObjectVersion, Cumulated, list[tuple[int, int]]]
"""An entry of a checkpoint, and which of its ordinals no segment holds any more."""


class CoverCheck:
    """Takes the segments that a checkpoint covers, then tells which of its rows they do not hold.

    Args:
        file: None if it cannot be read; then nothing is found wrong with it beyond that.
    """

    def __init__(self, file: CheckpointFile | None, partition: str, seq: int, findings: Findings) -> None:
        self.segments = 0
        self.where = checkpoint_key(partition, seq)
        self._file = file
        self._findings = findings
        self._kept: dict[Held, Spans] = {}

    def take(self, trailer: Trailer, check: SegmentCheck) -> None:
        """A segment that is still there."""
        self.segments += 1
        if self._file is None:
            return
        told = self._file.plan_id(trailer.seq)
        if told not in (None, trailer.plan_id):
            self._changed(f"segment {trailer.seq} is not the one that it covers (plan_id differs)")
        for held, ordinals in check.ordinals.items():
            spans = self._kept.setdefault(held, Spans())
            for start, end in merged(sorted(set(ordinals))):
                spans.add(start, end)

    def absent(self, *, has_expired: bool) -> Iterator[Absent]:
        """Every entry with what it alone tells of; with all segments there, there must be nothing."""
        assert self._file is not None
        try:
            for entry in self._file.entries():
                version = ObjectVersion(entry.uri, entry.etag)
                kept = self._kept.pop((version, entry.generation), Spans())
                self._compare(version, kept, entry)
                gone = [gap for start, end in entry.spans for gap in kept.missing(start, end)]
                if gone and not has_expired:
                    self._changed(f"{size(gone)} rows that it tells of {entry.uri} are in no segment")
                    gone = []
                yield version, entry, gone
        except Corrupt as error:
            self._findings.add(FaultKind.CORRUPT, self.where, str(error))
            return
        for (version, _), kept in self._kept.items():
            self._changed(f"it lacks {size(kept)} rows of {version.uri} (etag {version.etag})")

    def _compare(self, version: ObjectVersion, kept: Spans, entry: Cumulated) -> None:
        told = Spans()
        for start, end in entry.spans:
            told.add(start, end)
        lacking = [gap for start, end in kept for gap in told.missing(start, end)]
        if lacking:
            self._changed(
                f"it lacks {size(lacking)} rows of {version.uri} (etag {version.etag}), ordinals {named(lacking)}"
            )

    def _changed(self, message: str) -> None:
        self._findings.add(FaultKind.CHANGED, self.where, message)
