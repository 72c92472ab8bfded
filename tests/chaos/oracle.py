"""The oracle: reads what is published as any user would, and believes neither the daemon nor its ledger."""

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from mira_stream.core.row import SLOTS
from tests.chaos.lakes import GrowingLake, Line, rows_of

INNOCENT = {"malformed_reply", "cut_reply", "poison"}
"""How a good record may end where replies are damaged and replicas die: rarely, see `INNOCENT_SHARE_MAX`."""
INNOCENT_SHARE_MAX = 0.02

Row = dict[str, Any]


class Violation(AssertionError):
    """A promise was broken."""


class Oracle:
    """Sees every segment once, and that it never changes afterwards."""

    def __init__(self, lake: GrowingLake) -> None:
        self._lake = lake
        self._marks: dict[str, str] = {}
        self._where: dict[tuple[str, int], str] = {}
        self._ids: set[str] = set()
        self.ends: Counter[str] = Counter()
        self._read = 0

    @property
    def rows(self) -> int:
        return len(self._where)

    @property
    def doubled(self) -> int:
        return self._read - len(self._ids)

    @property
    def segments(self) -> int:
        return len(self._marks)

    def look(self) -> int:
        """Read what is new; returns how many segments that is. Raises Violation."""
        found = self._lake.shelf.published()
        if changed := [key for key, mark in self._marks.items() if found.get(key) != mark]:
            raise Violation(f"published segments were changed or removed: {changed}")
        new = sorted(found.keys() - self._marks.keys())
        for key in new:
            for row in rows_of(self._lake.shelf.segment(key)):
                self._take(row, key)
            self._marks[key] = found[key]
        return len(new)

    def expect(self, sizes: Mapping[str, int], when: str) -> None:
        """All of the first lines of these objects must be published. Raises Violation."""
        lost = [
            (key, number)
            for key, size in sizes.items()
            for number in range(size)
            if (key, number) not in self._where
        ]
        if lost:
            raise Violation(f"{when}, {len(lost)} records are in no published file, such as {lost[:10]}")

    def expect_all(self) -> None:
        """Every line once, and none beside. Raises Violation."""
        self.look()
        self.expect(self._lake.sizes(), "at the end")
        if self.rows != self._lake.total:
            raise Violation(f"{self.rows} rows are published of {self._lake.total} lines")
        unlucky = sum(self.ends[reason] for reason in INNOCENT)
        if unlucky > max(3, INNOCENT_SHARE_MAX * self.rows):
            raise Violation(f"{unlucky} of {self.rows} good records were not scored: {dict(self.ends)}")

    def _take(self, row: Row, segment: str) -> None:
        self._read += 1
        uri = row["object"]
        if not uri.startswith(self._lake.shelf.raw_uri):
            raise Violation(f"{segment} has a row of {uri}, which is not of this lake")
        key, ordinal = uri.removeprefix(self._lake.shelf.raw_uri), row["ordinal"]
        lines = self._lake.lines.get(key, [])
        if not 0 <= ordinal < len(lines):
            raise Violation(f"{segment} has a row of line {ordinal} of {key}, which has {len(lines)} lines")
        if other := self._where.get((key, ordinal)):
            raise Violation(f"line {ordinal} of {key} is published twice: in {other} and in {segment}")
        if row["record_id"] in self._ids:
            raise Violation(f"the record id {row['record_id']} is published twice, again in {segment}")
        if problem := _problem(row, lines[ordinal], key):
            raise Violation(f"{segment}, line {ordinal} of {key}: {problem}")
        self._where[key, ordinal] = segment
        self._ids.add(row["record_id"])
        self.ends[row["reason"] or row["outcome"]] += 1


def _problem(row: Row, line: Line, key: str) -> str | None:
    """What is wrong with one row."""
    identity = json.dumps(
        [row["object"], row["etag"], row["ordinal"]], separators=(",", ":"), ensure_ascii=False
    )
    if row["record_id"] != blake2b(identity.encode(), digest_size=16).hexdigest():
        return f"its record_id is not that of {identity}"
    if row["generation"] != 0 or row["source"] != key.partition("/")[0]:
        return f"generation {row['generation']} of source {row['source']}"
    if line.name is None:
        return None if row["reason"] == line.reason else f"{row['reason']} where {line.reason} was written"
    if row["meta"] != json.dumps({"name": line.name}, separators=(",", ":")):
        return f"it is of {row['meta']} where {line.name} was written"
    if row["outcome"] != "scored":
        return None if row["reason"] in INNOCENT else f"{row['outcome']}, {row['reason']}"
    numbers = [row["scores"][slot] for slot in SLOTS]
    if not all(isinstance(number, int | float) and 0 <= number <= 10 for number in numbers):
        return f"its scores are {numbers}"
    whole = (
        isinstance(row["overall"], int | float) and row["training_recommendation"] and row["attempts"] >= 1
    )
    return None if whole else "it is scored, but not wholly"
