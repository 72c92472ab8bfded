"""Whatever partitions seal and confirm in whatever order, each object's end is published once, with its last row."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.sealing import Progress, RollLimits, Sealed, Stored, seal_plan
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import ObjectLines, Trailer
from tests.fakes.ledgers import outcome, version

PARTITIONS = ("p0", "p1", "p2")
OBJECTS = tuple(version(name) for name in "abc")


class World:
    """Some objects, whose rows belong to partitions at random, on their way to the sink."""

    def __init__(self, owners: list[list[int]], roll: RollLimits) -> None:
        self.roll = roll
        self.lines = {OBJECTS[n]: len(rows) for n, rows in enumerate(owners)}
        self.owners = {
            RecordKey(OBJECTS[n], m): PARTITIONS[p]
            for n, rows in enumerate(owners)
            for m, p in enumerate(rows)
        }
        self.unread = sorted(self.owners)
        self.stored: dict[str, list[Stored]] = {name: [] for name in PARTITIONS}
        self.sealed: dict[str, Sealed] = {}
        self.published: set[RecordKey] = set()
        self.trailers: list[Trailer] = []
        self.number = 0

    def receive(self, choice: int) -> None:
        """One more outcome, out of order."""
        if self.unread:
            key = self.unread.pop(choice % len(self.unread))
            self.number += 1
            row = outcome(key.version, key.ordinal, partition=self.owners[key])
            self.stored[self.owners[key]].append(Stored(self.number, row))

    def step(self, partition: str) -> bool:
        """Confirm the sealed plan of the partition, or seal the next; whether anything happened."""
        sealed = self.sealed.pop(partition, None)
        if sealed is not None:
            self._confirm(partition, sealed)
            return True
        new = seal_plan(
            partition, 0, stored=self.stored[partition], roll=self.roll, progress=self._progress(partition)
        )
        if new is None:
            return False
        assert 1 <= len(new.plan.rows) <= self.roll.records
        self.sealed[partition] = new
        return True

    def _progress(self, partition: str) -> Callable[[ObjectVersion], Progress | None]:
        others = [one.plan for name, one in self.sealed.items() if name != partition]

        def progress(one: ObjectVersion) -> Progress | None:
            if any(key.version == one for key in self.unread):
                return None  # the end is known before the last row is received, not earlier
            elsewhere = [row.key.ordinal for plan in others for row in plan.rows if row.key.version == one]
            return Progress(
                self.lines[one],
                IntervalSet.from_ordinals(key.ordinal for key in self.published if key.version == one),
                IntervalSet.from_ordinals(elsewhere),
            )

        return progress

    def _confirm(self, partition: str, sealed: Sealed) -> None:
        keys = {row.key for row in sealed.plan.rows}
        assert not keys & self.published
        self.published |= keys
        self.stored[partition] = [row for row in self.stored[partition] if row.received.key not in keys]
        self.trailers.append(sealed.plan.trailer)
        for one, count in self.lines.items():
            is_complete = sum(key.version == one for key in self.published) == count
            touched = any(key.version == one for key in keys)
            carried = ObjectLines(one.uri, one.etag, count) in sealed.plan.trailer.lines
            assert carried == (is_complete and touched), "lines travel with the completing segment"


@given(
    owners=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=3),
    records=st.integers(1, 4),
    moves=st.lists(st.integers(0, 11), max_size=60),
)
def test_every_end_is_published_with_the_completing_segment(
    owners: list[list[int]], records: int, moves: list[int]
) -> None:
    """In all interleavings; and as long as anything waits, some partition can go on."""
    world = World(owners, RollLimits(records, 1 << 20))
    for move in moves:
        if move < 6:
            world.receive(move)
        else:
            world.step(PARTITIONS[move % 3])
    while world.unread:
        world.receive(0)
    while any(world.stored.values()):
        assert any(world.step(partition) for partition in PARTITIONS), "all partitions wait for each other"
    told = [end for trailer in world.trailers for end in trailer.lines]
    assert sorted((end.uri, end.count) for end in told) == sorted(
        (one.uri, n) for one, n in world.lines.items()
    )
