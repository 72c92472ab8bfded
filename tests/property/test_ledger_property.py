"""Whatever happens in whatever order, restarts and rivals included: each row is published once, each end once."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.sealing import RollLimits
from mira_stream.core.outcome import Outcome
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import ObjectLines, ObjectRange, Plan, PublishedKey, Trailer
from tests.fakes.ledgers import open_ledger, outcome, seen, version

MEMORY = Path("/dev/shm")  # thousands of commits: on a disk each one is synced
PARTITIONS = ("source=p0/shard=00", "source=p1/shard=00")
OBJECTS = tuple(version(name) for name in "abc")
ORDINALS = st.integers(0, 5)
VERSIONS = st.sampled_from(OBJECTS)
NAMES = st.sampled_from(PARTITIONS)


def _partition(key: RecordKey) -> str:
    """Rows of one object are in both partitions, as when the source is a field of the record."""
    return PARTITIONS[(key.ordinal + (key.version == OBJECTS[0])) % 2 if key.version != OBJECTS[1] else 0]


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside the simplest model of it: sets and lists of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=MEMORY if MEMORY.is_dir() else None))
        self.loop = asyncio.Runner()
        self.listed: list[ObjectVersion] = []
        self.stored: list[RecordKey] = []
        self.published: dict[RecordKey, str] = {}
        self.plans: dict[str, Plan] = {}
        self.next_seq: dict[str, int] = {}
        self.lines: dict[ObjectVersion, int] = {}
        self.told: list[ObjectLines] = []
        self.ended_here: set[ObjectVersion] = set()
        self.finished: set[ObjectVersion] = set()

    @initialize(records=st.sampled_from((1, 3, 9)))
    def begin(self, records: int) -> None:
        self.roll = RollLimits(records, 1 << 20)
        self._open()

    def _open(self) -> None:
        self.ledger = open_ledger(self.folder / "ledger.sqlite3", roll=self.roll)

    @rule()
    def reopen(self) -> None:
        """A restart."""
        self.loop.run(self.ledger.close())
        self.ended_here.clear()
        self._open()

    @rule(one=VERSIONS)
    def discover(self, one: ObjectVersion) -> None:
        is_new = one not in self.listed
        assert self.loop.run(self.ledger.discover([seen(one)])) == is_new
        assert self.ledger.known([one.uri]).get(one.uri) == one.etag
        if is_new:
            self.listed.append(one)

    @rule(keys=st.lists(st.builds(RecordKey, VERSIONS, ORDINALS, st.integers(0, 1)), min_size=1, max_size=6))
    def receive(self, keys: list[RecordKey]) -> None:
        # The end is told before the last row of an object is received: so no row above it comes.
        keys = [key for key in keys if key.ordinal < self.lines.get(key.version, 6)]
        if not keys:
            return
        rows = [
            outcome(key.version, key.ordinal, generation=key.generation, partition=_partition(key))
            for key in keys
        ]
        answers = self.loop.run(self.ledger.receive(rows))
        for key, answer in zip(keys, answers, strict=True):
            assert answer == (key not in self.stored and key not in self.published)
            if answer:
                self.stored.append(key)

    @rule(one=VERSIONS)
    def end(self, one: ObjectVersion) -> None:
        if one in self.listed and one not in self.lines:
            done = [key.ordinal for key in (*self.stored, *self.published) if key.version == one]
            self.lines[one] = max(done, default=-1) + 1
            self.ended_here.add(one)
            self.loop.run(self.ledger.end_object(one, self.lines[one]))

    @rule(one=VERSIONS, start=ORDINALS, stop=ORDINALS)
    def receive_many(self, one: ObjectVersion, start: int, stop: int) -> None:
        self.receive([RecordKey(one, n) for n in range(start, stop + 1)])

    @rule()
    def seal_all(self) -> None:
        for partition in PARTITIONS:
            self.seal(partition)

    @rule(partition=NAMES)
    def seal(self, partition: str) -> None:
        plan = self.loop.run(self.ledger.seal(partition))
        if partition in self.plans:
            assert plan == self.plans[partition]
        elif plan is not None:
            self._check_new(plan)
            self.plans[partition] = plan

    def _check_new(self, plan: Plan) -> None:
        keys = [row.key for row in plan.rows]
        assert 1 <= len(keys) <= self.roll.records
        assert keys == [key for key in self.stored if key in keys], "order of receipt"
        assert all(_partition(key) == plan.partition for key in keys)
        assert plan.seq == self.next_seq.get(plan.partition, 0)
        assert _keys(plan.trailer) == set(keys)

    @precondition(lambda self: self.plans)
    @rule(partition=NAMES)
    def advance(self, partition: str) -> None:
        plan = self.plans.pop(partition, None)
        if plan is not None:
            self.loop.run(self.ledger.advance(plan))
            self._publish(plan.trailer)

    @rule(keys=st.sets(st.builds(RecordKey, VERSIONS, ORDINALS), min_size=1, max_size=4), partition=NAMES)
    def adopt(self, keys: set[RecordKey], partition: str) -> None:
        """A rival that obeys the protocol: nothing that is published, of its own partition, below known ends."""
        mine = sorted(
            key
            for key in keys - set(self.published)
            if _partition(key) == partition and key.ordinal < self.lines.get(key.version, 6)
        )
        if not mine:
            return
        trailer = Trailer(partition, self.next_seq.get(partition, 0), "f" * 32, _ranges(mine))
        rows = [
            PublishedKey(key.version, key.ordinal, 0, key.record_id, Outcome.SCORED, None) for key in mine
        ]
        dropped = self.loop.run(self.ledger.adopt(trailer, rows))
        assert sorted(dropped) == [key for key in mine if key in self.stored]
        self.plans.pop(partition, None)
        self._publish(trailer)

    def _publish(self, trailer: Trailer) -> None:
        self.next_seq[trailer.partition] = trailer.seq + 1
        self.told += trailer.lines
        for key in _keys(trailer):
            assert key not in self.published, "published twice"
            self.published[key] = trailer.partition
        self.stored = [key for key in self.stored if key not in self.published]
        for end in trailer.lines:
            one = ObjectVersion(end.uri, end.etag)
            assert end.count == self.lines[one]
            assert self._done(one, stored=False).covers(end.count), "an end is told when all rows are there"

    def _done(self, one: ObjectVersion, *, stored: bool = True) -> IntervalSet:
        keys = (*self.stored, *self.published) if stored else tuple(self.published)
        return IntervalSet.from_ordinals(
            key.ordinal for key in keys if key.version == one and key.generation == 0
        )

    @invariant()
    def it_says_what_the_model_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.loop.run(self.ledger.unpublished()) == self.stored
        chains = self.loop.run(self.ledger.chains())
        assert {name: seq for name, seq in chains.items() if seq} == self.next_seq
        backlogs = self.loop.run(self.ledger.backlogs())
        assert {one.partition: (one.rows, one.sealed) for one in backlogs} == {
            name: (len(rows), name in self.plans)
            for name in PARTITIONS
            if (rows := [key for key in self.stored if _partition(key) == name])
        }

    @invariant()
    def what_is_pending_is_not_done(self) -> None:
        if not hasattr(self, "ledger"):
            return
        pending = self.loop.run(self.ledger.next_pending(9, frozenset()))
        for one in pending:
            assert one.done == self._done(one.seen.version)
        names = {one.seen.version for one in pending}
        assert not names & self.ended_here, "what is missing is on its way"
        self.finished |= {one for one in self.ended_here if self._done(one).covers(self.lines[one])}
        assert not names & self.finished
        unread = {
            one
            for one in self.listed
            if one not in self.ended_here
            and (one not in self.lines or not self._done(one).covers(self.lines[one]))
        }
        assert unread <= names

    def teardown(self) -> None:
        """Score and publish all the rest: every row ends in one segment, and every end is told once."""
        if hasattr(self, "ledger"):
            self._finish()
            self.loop.run(self.ledger.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def _finish(self) -> None:
        for one in OBJECTS:
            self.discover(one)
            self.end(one)
            self.receive([RecordKey(one, n) for n in range(6)])
        # One more object, so that ends that came late find a segment to travel with.
        last = version("last")
        for ordinal, partition in enumerate(PARTITIONS):
            self.loop.run(self.ledger.receive([outcome(last, ordinal, partition=partition)]))
            self.stored.append(RecordKey(last, ordinal))
        while self.stored:
            before = len(self.published)
            self.seal_all()
            for partition in PARTITIONS:
                self.advance(partition)
            assert len(self.published) > before, "both partitions wait for each other"
        expected = sorted((one.uri, count) for one, count in self.lines.items() if count)
        assert sorted((end.uri, end.count) for end in self.told) == expected


def _keys(trailer: Trailer) -> set[RecordKey]:
    return {
        RecordKey(ObjectVersion(held.uri, held.etag), ordinal, held.generation)
        for held in trailer.ranges
        for ordinal in IntervalSet(held.spans).ordinals()
    }


def _ranges(keys: list[RecordKey]) -> tuple[ObjectRange, ...]:
    return tuple(
        ObjectRange(
            one.uri,
            one.etag,
            0,
            IntervalSet.from_ordinals(key.ordinal for key in keys if key.version == one).spans,
        )
        for one in sorted({key.version for key in keys})
    )


pytestmark = pytest.mark.timeout(400)  # it takes seconds, but making a failure small takes minutes

TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
