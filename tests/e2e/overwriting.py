"""Objects that are overwritten while a run is in the midst of them, and what must come of that."""

import json
from collections import Counter

from tests.e2e.harness import Lab, conversation

RECORDS = 160
EAGER = {"breaker_seconds_min": 0.1, "breaker_seconds_max": 0.2, "scrape_seconds": 0.1}
"""Admission that finds a replica quickly which comes late."""


def big(name: str) -> bytes:
    """An object of several reads, of many more records than are read ahead; 64 KiB each, of which few are judged."""
    padding = json.dumps({"padding": "." * (64 << 10)}).encode()[1:]
    lines = (conversation(f"Fix the {name} of service {number}.") for number in range(RECORDS))
    return b"".join(b"%b, %b\n" % (line.rstrip(b"}\n"), padding) for line in lines)


def assert_overwritten(lab: Lab, key: str, *, others: int) -> None:
    """All that was read of the first version is scored, once, with one dead letter behind it; a second run adds a row
    that refuses the second version, and an audit knows of both. `others` records are in other objects."""
    ends = {
        row["ordinal"]: row["reason"] or row["outcome"] for row in lab.rows() if row["object"].endswith(key)
    }
    last = max(ends)
    assert 60 < last < RECORDS
    assert ends == dict.fromkeys(range(last), "scored") | {last: "overwritten"}
    assert lab.run_once().code == 0
    assert lab.audit()["overwritten_objects"] == 1
    rows = lab.rows()
    counts = Counter(row["reason"] or row["outcome"] for row in rows)
    assert counts == {"scored": last + others, "overwritten": 1, "superseded": 1}
    assert {row["attempts"] for row in rows if row["outcome"] == "scored"} == {1}
