"""The records between reading and receiving, and what rivals published of their objects meanwhile."""

from collections import Counter
from collections.abc import Sequence

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.segment import PublishedKey

Ended = tuple[Outcome, Reason | None]


class UnderWay:
    """Bounded by what is read at a time: an object version is forgotten when nobody uses it any more."""

    def __init__(self) -> None:
        self._uses: Counter[ObjectVersion] = Counter()
        self._records: dict[ObjectVersion, set[tuple[int, int]]] = {}
        self._adopted: dict[ObjectVersion, dict[tuple[int, int], Ended]] = {}

    def __bool__(self) -> bool:
        """Whether any object version is in use."""
        return bool(self._uses)

    def __repr__(self) -> str:
        records = sum(map(len, self._records.values()))
        return f"UnderWay({records} records of {len(self._uses)} object versions)"

    def use(self, version: ObjectVersion) -> None:
        """Remember what rivals publish of this object version until it is released as often as used."""
        self._uses[version] += 1

    def release(self, version: ObjectVersion) -> None:
        """The counterpart of `use`."""
        self._uses[version] -= 1
        if self._uses[version] <= 0:
            del self._uses[version]
            self._adopted.pop(version, None)

    def enter(self, key: RecordKey) -> None:
        """A record was read; its object is in use until it leaves."""
        records = self._records.setdefault(key.version, set())
        assert (key.ordinal, key.generation) not in records, f"{key} was read twice"
        records.add((key.ordinal, key.generation))
        self.use(key.version)

    def leave(self, key: RecordKey) -> None:
        """The ledger knows of the record."""
        records = self._records[key.version]
        records.remove((key.ordinal, key.generation))
        if not records:
            del self._records[key.version]
        self.release(key.version)

    def ordinals(self, version: ObjectVersion, generation: int = 0) -> IntervalSet:
        """Which records of that version, in that generation, are under way."""
        records = self._records.get(version, ())
        return IntervalSet.from_ordinals(ordinal for ordinal, of in records if of == generation)

    def adopt(self, rows: Sequence[PublishedKey]) -> None:
        """A rival has published these."""
        for row in rows:
            if row.version in self._uses:
                kept = self._adopted.setdefault(row.version, {})
                kept[row.ordinal, row.generation] = (row.outcome, row.reason)

    def adopted(self, key: RecordKey) -> Ended | None:
        """How a rival's row of this record ended, if one was adopted since its object is in use."""
        return self._adopted.get(key.version, {}).get((key.ordinal, key.generation))
