"""Plans, by example: what goes in, what completes an object, and what is held back."""

from collections.abc import Sequence

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.sealing import Progress, RollLimits, Sealed, Stored, plan_id_of, seal_plan
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import ObjectLines, ObjectRange, Received
from tests.fakes.ledgers import ONE, outcome, version

A, B = version("a"), version("b")
WIDE = RollLimits(records=100, bytes=1 << 20)


def _seal(
    rows: Sequence[Received],
    *,
    roll: RollLimits = WIDE,
    late: Sequence[ObjectLines] = (),
    **progress: Progress,
) -> Sealed | None:
    known: dict[ObjectVersion, Progress | None] = {A: progress.get("a"), B: progress.get("b")}
    stored = [Stored(number, row) for number, row in enumerate(rows, start=1)]
    return seal_plan(ONE, 4, stored=stored, roll=roll, progress=known.__getitem__, late=late)


def _spans(*spans: tuple[int, int]) -> IntervalSet:
    return IntervalSet.from_spans(spans)


def _ordinals(sealed: Sealed | None) -> list[int]:
    assert sealed is not None
    return [row.key.ordinal for row in sealed.plan.rows]


def test_nothing_stored_is_no_plan() -> None:
    """There are no empty segments, not even to carry late lines."""
    assert _seal([]) is None
    assert _seal([], late=[ObjectLines(A.uri, A.etag, 1)]) is None


def test_rows_keep_the_order_of_receipt_and_ranges_are_sorted() -> None:
    """The plan says partition, seq, what it holds, and an id over its ordered rows."""
    rows = [outcome(B, 1), outcome(A, 5), outcome(A, 4), outcome(A, 4, generation=1)]
    sealed = _seal(rows)
    assert sealed is not None
    trailer = sealed.plan.trailer
    assert (trailer.partition, trailer.seq, trailer.lines) == (ONE, 4, ())
    assert sealed.plan.rows == tuple(rows)
    assert trailer.plan_id == plan_id_of(rows) != plan_id_of(rows[::-1])
    assert trailer.ranges == (
        ObjectRange(A.uri, A.etag, 0, ((4, 6),)),
        ObjectRange(A.uri, A.etag, 1, ((4, 5),)),
        ObjectRange(B.uri, B.etag, 0, ((1, 2),)),
    )


def test_records_limit_a_plan() -> None:
    """`through` is the last one taken."""
    sealed = _seal([outcome(A, n) for n in range(5)], roll=RollLimits(3, 1 << 20))
    assert _ordinals(sealed) == [0, 1, 2]
    assert sealed is not None
    assert sealed.through == 3


def test_bytes_limit_a_plan_but_one_row_fits_always() -> None:
    """A row above the limit makes a segment of its own."""
    rows = [outcome(A, 0, size=500), outcome(A, 1, size=100), outcome(A, 2, size=100)]
    assert _ordinals(_seal(rows, roll=RollLimits(10, 400))) == [0]
    assert _ordinals(_seal(rows[1:], roll=RollLimits(10, 250))) == [1, 2]


def test_only_the_completing_plan_carries_lines() -> None:
    """Published and this plan together cover the object."""
    done = Progress(4, _spans((0, 2)))
    before, completing = _seal([outcome(A, 2)], a=done), _seal([outcome(A, 3), outcome(A, 2)], a=done)
    assert before is not None
    assert before.plan.trailer.lines == ()
    assert completing is not None
    assert completing.plan.trailer.lines == (ObjectLines(A.uri, A.etag, 4),)


def test_a_replay_completes_nothing() -> None:
    """Generation 1 is not the first pass."""
    sealed = _seal([outcome(A, 2, generation=1), outcome(A, 3)], a=Progress(4, _spans((0, 2))))
    assert sealed is not None
    assert sealed.plan.trailer.lines == ()


def test_the_last_row_waits_for_other_partitions() -> None:
    """If this plan and theirs complete the object together, its last row is held back, its others are not."""
    divided = Progress(4, _spans((0, 1)), elsewhere=_spans((1, 2)))
    sealed = _seal([outcome(A, 3), outcome(A, 2), outcome(B, 9)], a=divided)
    assert sealed is not None
    assert [row.key for row in sealed.plan.rows] == [outcome(A, 2).key, outcome(B, 9).key]
    assert (sealed.held, sealed.through) == ((1,), 3)
    assert sealed.plan.trailer.lines == ()


def test_a_plan_of_held_rows_only_waits() -> None:
    """None until the others confirm; afterwards the row completes the object."""
    assert _seal([outcome(A, 1)], a=Progress(2, _spans(), elsewhere=_spans((0, 1)))) is None
    sealed = _seal([outcome(A, 1)], a=Progress(2, _spans((0, 1))))
    assert sealed is not None
    assert sealed.plan.trailer.lines == (ObjectLines(A.uri, A.etag, 2),)


def test_a_held_row_makes_room_for_the_next() -> None:
    """Rows beyond the limit take its place, so that nothing else waits with it."""
    rows = [outcome(A, 1), outcome(B, 0), outcome(B, 1)]
    divided = Progress(2, _spans(), elsewhere=_spans((0, 1)))
    sealed = _seal(rows, roll=RollLimits(1, 1 << 20), a=divided)
    assert sealed is not None
    assert [row.key for row in sealed.plan.rows] == [rows[1].key]
    assert (sealed.held, sealed.through) == ((1,), 2)


def test_unsealed_rows_of_other_partitions_hold_nothing_back() -> None:
    """Whoever seals last completes the object."""
    sealed = _seal([outcome(A, 1)], a=Progress(3, _spans(), elsewhere=_spans((0, 1))))
    assert _ordinals(sealed) == [1]


def test_late_lines_travel_with_any_plan() -> None:
    """An end that became known after all rows were published."""
    sealed = _seal([outcome(B, 0)], late=[ObjectLines(A.uri, A.etag, 7)], b=Progress(1, _spans()))
    assert sealed is not None
    assert sealed.plan.trailer.lines == (ObjectLines(A.uri, A.etag, 7), ObjectLines(B.uri, B.etag, 1))
