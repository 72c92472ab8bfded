"""What waits to be published: when a partition is due, and which one comes first."""

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.control.known import Backlog
from mira_stream.control.sealing import RollLimits
from mira_stream.pipeline.fills import Fills


class Bench:
    """Fills and their clock."""

    def __init__(self, *, records: int = 3, size: int = 100, seconds: float = 60.0) -> None:
        self.now = 1000.0
        self.fills = Fills(RollLimits(records, size), roll_seconds=seconds, clock=lambda: self.now)

    def due(self, limit: int = 10, *, busy: tuple[str, ...] = (), everything: bool = False) -> list[str]:
        return self.fills.due(limit, busy=busy, everything=everything)

    def add(self, partition: str, *sizes: int) -> list[bool]:
        return [self.fills.add(partition, size) for size in sizes]


def test_a_partition_is_due_when_it_holds_enough_rows() -> None:
    """`roll_records` rows: not one earlier, and somebody is told at the first and at the last of them."""
    bench = Bench(records=3)
    assert bench.add("a", 1, 1, 1, 1) == [True, False, True, False]
    assert bench.due() == ["a"]
    bench.add("b", 1, 1)
    assert bench.due() == ["a"]


def test_a_partition_is_due_when_it_holds_enough_bytes() -> None:
    """`roll_bytes` bytes of rows, whichever comes first."""
    bench = Bench(size=100)
    assert bench.add("a", 99, 1) == [True, True]
    assert bench.due() == ["a"]


def test_a_partition_is_due_when_its_rows_have_waited_long_enough() -> None:
    """`roll_seconds` after the first of them came; the time of the next one is known."""
    bench = Bench(seconds=60.0)
    assert bench.fills.next_due_at(busy=()) is None
    bench.add("a", 1)
    bench.now += 59.9
    bench.add("b", 1)
    assert bench.due() == []
    assert bench.fills.next_due_at(busy=()) == 1060.0
    assert bench.fills.next_due_at(busy=("a",)) == 1119.9
    bench.now = 1060.0
    assert bench.due() == ["a"]


def test_what_is_left_after_a_publication_begins_to_wait_anew() -> None:
    """Rows that came while a segment was published are not due at once, unless they fill another one."""
    bench = Bench(records=3)
    bench.add("a", 1, 2, 3, 4)
    bench.now += 70
    bench.fills.take("a", 3, 6)
    assert (bench.fills.rows, bench.fills.bytes) == (1, 4)
    assert bench.due() == []
    bench.add("b", *[1] * 7)
    bench.fills.take("b", 3, 3)
    assert bench.due() == ["b"]
    bench.fills.take("b", 4, 4)
    bench.fills.take("a", 1, 4)
    assert not bench.fills
    assert (bench.fills.rows, bench.fills.bytes, bench.due(everything=True)) == (0, 0, [])


def test_busy_partitions_are_not_due_again() -> None:
    """At most one plan of a partition is sealed and unconfirmed."""
    bench = Bench(records=1)
    bench.add("a", 1)
    bench.add("b", 1)
    assert bench.due(busy=("a",)) == ["b"]
    assert bench.due(1) == ["a"]
    assert bench.due(0) == []


def test_old_partitions_come_before_full_ones() -> None:
    """A few partitions that are always full must not keep the others waiting for ever."""
    bench = Bench(records=2, seconds=60.0)
    bench.add("quiet", 1)
    bench.now += 60
    for hot in ("hot1", "hot2", "hot3"):
        bench.add(hot, 1, 1)
    assert bench.due(2) == ["quiet", "hot1"]


def test_everything_is_due_while_dispatch_waits_for_the_sink() -> None:
    """No GPU idles until a timer of a half-full segment runs out."""
    bench = Bench()
    bench.add("a", 1)
    bench.add("b", 1)
    assert bench.due() == []
    assert bench.due(everything=True) == ["a", "b"]


def test_a_partition_of_which_nothing_can_be_sealed_is_not_asked_again_at_once() -> None:
    """Full or not: only a new row, another partition's publication, or time can change the answer."""
    for wake in ("row", "publication", "time"):
        bench = Bench(records=1, seconds=60.0)
        bench.add("other", 1)
        bench.add("held", 1)
        bench.fills.hold("held")
        assert bench.due(everything=True) == ["other"]
        assert bench.due() == ["other"]
        if wake == "row":
            assert bench.add("held", 1) == [True]
        elif wake == "publication":
            bench.fills.take("other", 1, 1)
        else:
            bench.now += 60.0
        assert "held" in bench.due(), wake


def test_holding_back_a_partition_that_is_empty_is_no_error() -> None:
    """Its rows may have been dropped by an adoption meanwhile."""
    bench = Bench()
    bench.fills.hold("gone")
    assert not bench.fills


def test_counting_anew_keeps_the_age_of_what_is_there() -> None:
    """After an adoption the ledger's counts hold; what was waiting before is as old as it was."""
    bench = Bench(records=3, seconds=60.0)
    bench.add("a", 1, 1)
    bench.add("dropped", 1)
    bench.now += 50
    bench.fills.reset([Backlog("new", 5, 50, 0.0, sealed=False), Backlog("a", 1, 1, 0.0, sealed=False)])
    assert bench.fills.partitions() == ["a", "new"]
    assert (bench.fills.rows, bench.fills.bytes) == (6, 51)
    assert bench.due() == ["new"]
    bench.now += 10
    assert bench.due() == ["a", "new"]


_steps = st.lists(
    st.tuples(st.sampled_from(["add", "take", "hold", "wait"]), st.sampled_from("abc"), st.integers(1, 5)),
    max_size=60,
)


@given(_steps)
def test_sums_and_dues_follow_from_the_rows(steps: list[tuple[str, str, int]]) -> None:
    """Whatever happens, the sums are those of a plain list of rows, and nothing old enough is forgotten."""
    bench = Bench(records=4, size=12, seconds=10.0)
    rows: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for what, partition, number in steps:
        held = rows[partition]
        if what == "add":
            bench.fills.add(partition, number)
            held.append(number)
        elif what == "take" and held:
            count = min(number, len(held))
            bench.fills.take(partition, count, sum(held[:count]))
            del held[:count]
        elif what == "hold":
            bench.fills.hold(partition)
        else:
            bench.now += number
        _check(bench, rows)
    bench.now += 10.0
    assert set(bench.due()) == {partition for partition, held in rows.items() if held}


def _check(bench: Bench, rows: dict[str, list[int]]) -> None:
    assert bench.fills.rows == sum(map(len, rows.values()))
    assert bench.fills.bytes == sum(map(sum, rows.values()))
    assert set(bench.fills.partitions()) == {partition for partition, held in rows.items() if held}
    assert set(bench.due()) <= set(bench.fills.partitions())
