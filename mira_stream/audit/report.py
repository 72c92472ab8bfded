"""What an audit found, as a value for `--json` and as lines for a terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from mira_stream.core.outcome import Outcome, Reason

FAULTS_KEPT = 100
NAMES_KEPT = 20


class FaultKind(StrEnum):
    """What is wrong with the published files; each kind makes the audit fail."""

    LOST = "lost"  # a row below the end of an object that the sink marks as ended
    DOUBLED = "doubled"  # a (record, generation) that is published more than once
    CHANGED = "changed"  # rows, trailer and names that do not agree
    MISCOUNTED = "miscounted"  # the sink and the source disagree about how many rows an object has
    CORRUPT = "corrupt"  # a segment that cannot be read
    GAP = "gap"  # a segment that should exist and does not
    STRAY = "stray"  # a file that readers take for a segment, and that is none


class Fault(msgspec.Struct, frozen=True):
    """One finding: how many rows or files it is about, where, and what exactly."""

    kind: FaultKind
    count: int
    where: str
    message: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`. Counts are rows unless the name says otherwise.

    Args:
        outcomes: rows by outcome; reasons: rows by reason, scored ones left out.
        replayed_rows: those of `rows` in a generation above 0; each has the generation below it too.
        objects: object versions now in the source; source_lines: what they hold.
        ended_objects: object versions that the sink marks as ended.
        faults: the first findings; `found` sums all of them by kind.
        pending: source lines that are not yet in the sink, in `pending_objects` objects.
        gone_objects, overwritten_objects: in the sink, and no longer that version in the source: noted, not counted.
        unfinished_objects: those among them whose end the sink has not seen.
        expired_segments: removed, as a checkpoint that covers them allows; expired_rows: what they held by its word,
            not among `rows`.
        unchecked_objects: those whose number of rows cannot be compared, because their closing row has expired.
        written_over_objects: in the source under the identity that the sink knows, and with other contents: what they
            hold now beyond that is in no row, and will not be.
        unsettled_objects: files whose end may still be written to; of a torn line there no row is expected yet.
        unread: objects that could not be read now, with why; the audit is incomplete.
        foreign_files: names in the sink that readers do not take for segments; the first ones.
    """

    strict: bool
    partitions: int
    segments: int
    rows: int
    outcomes: Mapping[Outcome, int]
    reasons: Mapping[Reason, int]
    replayed_rows: int = 0
    objects: int
    source_lines: int
    ended_objects: int
    found: Mapping[FaultKind, int]
    faults: tuple[Fault, ...]
    pending: int
    pending_objects: int
    gone_objects: int
    overwritten_objects: int
    unfinished_objects: int
    expired_segments: int = 0
    expired_rows: int = 0
    unchecked_objects: int = 0
    written_over_objects: int = 0
    unsettled_objects: int = 0
    unread: tuple[str, ...]
    foreign_files: int
    foreign_names: tuple[str, ...]

    @property
    def lost(self) -> int:
        """Rows that the sink should hold and does not."""
        return self.found.get(FaultKind.LOST, 0)

    @property
    def doubled(self) -> int:
        """Rows beyond the first of their (record_id, generation)."""
        return self.found.get(FaultKind.DOUBLED, 0)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 something is wrong (with `strict`: or not complete), 2 the audit is incomplete."""
        if self.found:
            return 1
        if self.unread:
            return 2
        return 1 if self.strict and self.incomplete else 0

    @property
    def incomplete(self) -> str:
        """Why not every line of the source has its row; empty if each has."""
        if self.pending:
            return f"{self.pending:,} pending"
        if self.written_over_objects:
            return f"{_some(self.written_over_objects, 'object')} written over"
        return f"{_some(self.unsettled_objects, 'object')} still written to" if self.unsettled_objects else ""


class Findings:
    """Collects faults in bounded memory."""

    def __init__(self) -> None:
        self.found: Counter[FaultKind] = Counter()
        self.kept: list[Fault] = []

    def add(self, kind: FaultKind, where: str, message: str, *, count: int = 1) -> None:
        """Count a fault, and keep it while there are few."""
        assert count >= 1
        self.found[kind] += count
        if len(self.kept) < FAULTS_KEPT:
            self.kept.append(Fault(kind, count, where, message))


def lines(audit: Audit) -> list[str]:
    """The audit for a person, the verdict last."""
    sink = f"{_some(audit.segments, 'segment')} in {_some(audit.partitions, 'partition')}"
    pending = f"{audit.pending:,} of them pending in {_some(audit.pending_objects, 'object')}"
    return [
        f"sink     {sink}: {_some(audit.rows, 'row')}{_outcomes(audit)}",
        f"source   {_some(audit.objects, 'object')}: {_some(audit.source_lines, 'row')} to expect, {pending}",
        *_notes(audit),
        *(f"{fault.kind.value:<11}{fault.where}: {fault.message}" for fault in audit.faults),
        *_unshown(audit),
        _verdict(audit),
    ]


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _outcomes(audit: Audit) -> str:
    parts = [f"{audit.outcomes.get(outcome, 0):,} {outcome.value}" for outcome in Outcome]
    reasons = [f"{reason.value} {count:,}" for reason, count in sorted(audit.reasons.items())]
    return " = " + " + ".join(parts) + (f" ({', '.join(reasons)})" if reasons else "")


def _notes(audit: Audit) -> Sequence[str]:
    notes = []
    if audit.gone_objects or audit.overwritten_objects:
        notes.append(
            f"note     {_some(audit.gone_objects, 'object')} of the sink gone from the source, "
            f"{audit.overwritten_objects:,} overwritten, {audit.unfinished_objects:,} of them before their end was read"
        )
    if audit.written_over_objects:
        notes.append(
            f"note     {_some(audit.written_over_objects, 'object')} written over under an unchanged first line: what "
            "of it is new is not scored; give each file a name of its own, or a first line"
        )
    if audit.replayed_rows:
        notes.append(
            f"note     {_some(audit.replayed_rows, 'row')} of replays among them: of a record the highest generation counts"
        )
    if audit.expired_segments:
        notes.append(
            f"note     {_some(audit.expired_segments, 'segment')} expired under checkpoints: how "
            f"{_some(audit.expired_rows, 'row')} ended cannot be read any more; that each is there once rests on "
            f"the checkpoints; {_some(audit.unchecked_objects, 'object')} could not be compared with the source"
        )
    if audit.foreign_files:
        names = ", ".join(audit.foreign_names)
        notes.append(f"note     {_some(audit.foreign_files, 'foreign file')} in the sink: {names}")
    notes.extend(f"unread   {what}" for what in audit.unread)
    return notes


def _unshown(audit: Audit) -> Sequence[str]:
    if len(audit.faults) < FAULTS_KEPT:
        return ()
    return (f"…        only the first {FAULTS_KEPT} findings are shown",)


def _verdict(audit: Audit) -> str:
    if audit.found:
        wrong = ", ".join(f"{kind.value} {count:,}" for kind, count in sorted(audit.found.items()))
        return f"FAILED   {wrong}"
    if audit.unread:
        return f"UNKNOWN  {_some(len(audit.unread), 'object')} could not be read; nothing wrong in the rest"
    if audit.strict and audit.incomplete:
        return f"FAILED   {audit.incomplete} (--strict)"
    return "CLEAN    every row exactly once, none lost" + (
        f"; {audit.pending:,} pending" if audit.pending else ""
    )
