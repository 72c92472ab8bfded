"""Two pools in one daemon: one that cannot work does not keep the other from its records."""

from pathlib import Path

from tests.e2e.daemon import running
from tests.e2e.harness import NOWHERE, Lab, Row, conversation
from tests.e2e.simulators import Simulator
from tests.e2e.test_reload import groups_toml

OBJECTS = 12
RECORDS = {"absent": 60, "present": 5}
"""Of each object; more of the first source than is read ahead."""
EAGER = {"scrape_seconds": 0.05, "breaker_seconds_min": 0.1, "breaker_seconds_max": 0.2}


def land(lab: Lab, source: str) -> None:
    """All objects of a source."""
    for number in range(OBJECTS):
        lines = (conversation(f"Mend part {n} of {source} {number}.") for n in range(RECORDS[source]))
        lab.land(f"{source}/{number:02}.jsonl", b"".join(lines))


def test_a_pool_without_replicas_does_not_starve_another(tmp_path: Path) -> None:
    """Though it has more objects than are read at once, and they come first; it goes on when its replica is there."""
    lab = Lab(tmp_path)
    groups_toml(lab.folder / "anchors", "whw06/other")
    land(lab, "absent")
    with (
        Simulator(lab.folder / "a.log") as absent,
        Simulator(lab.folder / "b.log", "--model", "whw06/other") as one,
    ):
        pools: list[Row] = [
            {"group": "agent/A", "sources": ["absent"], "replicas": [NOWHERE]},
            {"group": "agent/B", "sources": ["present"], "replicas": [one.start().url]},
        ]
        options: dict[str, Row] = {
            "admission": EAGER,
            "log": {"level": "info"},
            "anchors": {"path": str(lab.folder / "anchors")},
        }
        lab.configure([], pools=pools, **options)
        with running(lab) as daemon:
            daemon.until_read_ahead_is_full()
            land(lab, "present")
            daemon.until_scored(OBJECTS * RECORDS["present"])
            assert daemon.terminate() == 0
        assert {row["source"] for row in lab.rows()} == {"present"}
        pools[0]["replicas"] = [absent.start().url]
        lab.configure([], pools=pools, **options)
        assert lab.run_once().code == 0
    rows = lab.audited()
    assert len(rows) == OBJECTS * sum(RECORDS.values())
    assert {row["attempts"] for row in rows} == {1}
