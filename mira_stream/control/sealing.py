"""Which stored outcomes make up the next segment, and which objects that segment completes."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.record import ObjectVersion
from mira_stream.core.row import row_digest
from mira_stream.core.segment import ObjectLines, ObjectRange, Plan, Received, Trailer, plan_id


class RollLimits(msgspec.Struct, frozen=True):
    """The most rows, and bytes of encoded rows, that one segment holds; one row fits always."""

    records: int
    bytes: int


class Stored(msgspec.Struct, frozen=True):
    """A received outcome and its number in the order of receipt."""

    number: int
    received: Received


class Progress(msgspec.Struct, frozen=True):
    """How far an object is whose end was read and is not yet published; generation 0 only.

    Args:
        lines: rows in all.
        published: ordinals that are in the sink.
        elsewhere: ordinals in the sealed plans of other partitions, which are not confirmed yet.
    """

    lines: int
    published: IntervalSet
    elsewhere: IntervalSet = IntervalSet()


class Sealed(msgspec.Struct, frozen=True):
    """A new plan: the stored outcomes of its partition up to number `through`, but those `held` back."""

    plan: Plan
    through: int
    held: tuple[int, ...] = ()


def seal_plan(
    partition: str,
    seq: int,
    *,
    stored: Iterable[Stored],
    roll: RollLimits,
    progress: Callable[[ObjectVersion], Progress | None],
    late: Sequence[ObjectLines] = (),
) -> Sealed | None:
    """The next plan of a partition that has no unconfirmed one; None if nothing can be sealed now.

    The segment that completes an object, and no earlier one, carries its `lines`: a reader that finds them must find
    all rows. While another partition's sealed plan holds the rest of an object, nobody can know which of the two
    completes it; the last row of the object is then held back, and a later plan completes it.

    Args:
        stored: outcomes of this partition in order of receipt, none of them published; read no further than needed.
        progress: of an object, or None if its end is not known, or published, or too far away for this plan.
        late: ends that became known only after all rows were published; they travel with this segment.
    """
    selection = _Selection(stored, roll)
    while selection.fill():
        held = _rows_to_hold(selection.rows, progress)
        if not held:
            break
        selection.hold_back(held)
    if not selection.rows:
        return None
    rows = tuple(row.received for row in selection.rows)
    trailer = Trailer(
        partition,
        seq,
        plan_id_of(rows),
        ranges_of(rows),
        tuple(sorted([*_completed(rows, progress), *late], key=lambda end: (end.uri, end.etag))),
    )
    return Sealed(Plan(trailer, rows), selection.through, tuple(sorted(selection.held)))


def plan_id_of(rows: Iterable[Received]) -> str:
    """The `plan_id` of rows in that order."""
    return plan_id((row.key.record_id, row.key.generation, row_digest(row.encoded)) for row in rows)


def ranges_of(rows: Iterable[Received]) -> tuple[ObjectRange, ...]:
    """What the rows cover, per object and generation, in the order of these."""
    held: dict[tuple[ObjectVersion, int], list[int]] = {}
    for row in rows:
        held.setdefault((row.key.version, row.key.generation), []).append(row.key.ordinal)
    return tuple(
        ObjectRange(version.uri, version.etag, generation, IntervalSet.from_ordinals(ordinals).spans)
        for (version, generation), ordinals in sorted(held.items())
    )


class _Selection:
    """Rows in order of receipt up to the limits, without those held back."""

    def __init__(self, stored: Iterable[Stored], roll: RollLimits) -> None:
        assert roll.records >= 1, roll
        self.rows: list[Stored] = []
        self.held: set[int] = set()
        self.through = 0
        self._bytes = 0
        self._roll = roll
        self._rest = iter(stored)
        self._next = next(self._rest, None)

    def fill(self) -> bool:
        """Take what fits; whether that was anything."""
        before = len(self.rows)
        while self._next is not None and self._has_room_for(self._next):
            assert self._next.number > self.through, "outcomes come in order of receipt"
            self.through = self._next.number
            self.rows.append(self._next)
            self._bytes += len(self._next.received.encoded)
            self._next = next(self._rest, None)
        return len(self.rows) > before

    def hold_back(self, numbers: set[int]) -> None:
        """Leave these out of this plan, which makes room for others."""
        self.held |= numbers
        self.rows = [row for row in self.rows if row.number not in numbers]
        self._bytes = sum(len(row.received.encoded) for row in self.rows)

    def _has_room_for(self, row: Stored) -> bool:
        if not self.rows:
            return True
        size = self._bytes + len(row.received.encoded)
        return len(self.rows) < self._roll.records and size <= self._roll.bytes


def _rows_to_hold(rows: Sequence[Stored], progress: Callable[[ObjectVersion], Progress | None]) -> set[int]:
    """The last row of each object that these rows complete only together with other partitions' sealed plans."""
    held = set()
    for version, own in _first_generation(row.received for row in rows).items():
        known = progress(version)
        if known is None:
            continue
        published = known.published.union(own)
        if not published.covers(known.lines) and published.union(known.elsewhere).covers(known.lines):
            held.add((version, own.below(known.lines).end - 1, 0))
    if not held:
        return set()
    keys = ((row.number, row.received.key) for row in rows)
    return {number for number, key in keys if (key.version, key.ordinal, key.generation) in held}


def _completed(
    rows: Iterable[Received], progress: Callable[[ObjectVersion], Progress | None]
) -> list[ObjectLines]:
    ends = []
    for version, own in _first_generation(rows).items():
        known = progress(version)
        if known is not None and known.published.union(own).covers(known.lines):
            ends.append(ObjectLines(version.uri, version.etag, known.lines))
    return ends


def _first_generation(rows: Iterable[Received]) -> dict[ObjectVersion, IntervalSet]:
    ordinals: dict[ObjectVersion, list[int]] = {}
    for row in rows:
        if row.key.generation == 0:
            ordinals.setdefault(row.key.version, []).append(row.key.ordinal)
    return {version: IntervalSet.from_ordinals(own) for version, own in ordinals.items()}
