"""What cannot work is refused before any work, with exit code 2 and a message that says what to change."""

import json
import signal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import NOWHERE, Lab, Row, conversation, line_with, replicas, started

RECORDS = b"".join(conversation(f"Rename module {number} and run the tests.") for number in range(5))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake of five records; its replica is nowhere, for runs that must not get as far as asking it."""
    lab = Lab(tmp_path)
    lab.land("known/a.jsonl", RECORDS)
    lab.configure([NOWHERE])
    return lab


def assert_refused(lab: Lab, *words: str) -> None:
    """`run --once` exits 2, says all of `words` on stderr and no traceback, and writes no segment."""
    ended = lab.run_once()
    assert ended.code == 2, ended
    assert [word for word in words if word not in ended.stderr] == [], ended.stderr
    assert ended.stderr.startswith("mira-stream: ")
    assert "Traceback" not in ended.stderr
    assert lab.rows() == []


def test_an_unknown_key_names_its_nearest(lab: Lab) -> None:
    """A misspelt key is refused with its section and the key that was meant."""
    lab.configure([NOWHERE], source={"list_second": 5})
    assert_refused(lab, "unknown key source.list_second", "did you mean list_seconds?")


@pytest.mark.parametrize(
    ("section", "key", "value", "unit"),
    [("source", "list_seconds", "5s", "seconds"), ("sink", "roll_bytes", "64MB", "bytes")],
)
def test_a_unit_in_a_number(lab: Lab, section: str, key: str, value: str, unit: str) -> None:
    """A number with a unit is refused with the form it must have."""
    sections: dict[str, Any] = {section: {key: value}}
    lab.configure([NOWHERE], **sections)
    assert_refused(lab, f"{section}.{key}", f"give a plain number of {unit}, without quotes or a unit")


def test_a_missing_secret(lab: Lab) -> None:
    """An API key that is nowhere is refused with both places where it can be put."""
    lab.configure([NOWHERE], pools=[{"api_key_env": "E2E_NO_SUCH_KEY"}])
    assert_refused(lab, "the secret E2E_NO_SUCH_KEY is not there", "LoadCredential=E2E_NO_SUCH_KEY:")


def groups_toml(anchors: str) -> str:
    """Two groups of which everything is known, on one anchors file."""
    keys = {
        "title": "a test",
        "model": "whw06/MIRA-Agent-Group1",
        "prompt_family": "agent",
        "anchors": anchors,
        "dimensions": 15,
        "context_tokens": 65_536,
        "records": 1,
        "sources": [],
        "sources_complete": False,
    }
    common = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    return "".join(f'[[group]]\nid = "agent/{name}"\n{common}\n' for name in "AB")


def test_two_pools_that_claim_one_source(lab: Lab) -> None:
    """A source that two pools would score is refused with its name and both pools."""
    name = "group_A_dim_anchors.jsonl"
    anchors = resources.files("mira_stream.anchor_data").joinpath("agent", name).read_text("utf-8")
    folder = lab.folder / "anchors"
    folder.mkdir()
    (folder / name).write_text(anchors, "utf-8")
    (folder / "groups.toml").write_text(groups_toml(name), "utf-8")
    pools: list[Row] = [
        {"group": "agent/A", "sources": ["known", "other"], "replicas": ["http://127.0.0.1:9"]},
        {"group": "agent/B", "sources": ["known"], "replicas": ["http://127.0.0.1:10"]},
    ]
    lab.configure([], pools=pools, anchors={"path": str(folder)})
    assert_refused(lab, "source known is claimed by two pools, agent/A and agent/B")


def test_a_group_without_anchors(lab: Lab) -> None:
    """A group whose rubric nobody has is refused with the way to supply it."""
    lab.configure([NOWHERE], pools=[{"group": "agent/B"}])
    assert_refused(lab, "the anchors of group agent/B are not known", "[anchors] path")


def test_a_sink_inside_the_source(lab: Lab) -> None:
    """A daemon that would score its own output is refused, and writes nothing into the lake."""
    before = sorted(lab.lake.rglob("*"))
    lab.configure([NOWHERE], sink={"uri": str(lab.lake / "scores")})
    assert_refused(lab, "lie inside each other", "would score its own output")
    assert sorted(lab.lake.rglob("*")) == before


def test_a_layout_that_disagrees(lab: Lab) -> None:
    """A sink laid out with other shards is refused with both values, and keeps what it has."""
    with replicas(count=1) as urls:
        lab.configure(urls)
        before = lab.scored()
        lab.configure(urls, sink={"shards": 2})
        ended = lab.run_once()
        assert ended.code == 2, ended
        assert "shards (sink.shards) is 1 there and 2 here" in ended.stderr
        assert lab.rows() == before


@pytest.mark.parametrize("folder", ["lake/known", "lake/../other"])
def test_another_folder_of_the_lake(lab: Lab, folder: str) -> None:
    """Below another `source.uri` the same records would go to other chains: refused, also with a ledger of its own."""
    with replicas(count=1) as urls:
        lab.configure(urls)
        before = lab.scored()
        ledger = {"path": str(lab.folder / "another" / "ledger.sqlite")}
        lab.configure(urls, source={"uri": str(lab.folder / folder)}, ledger=ledger)
        ended = lab.run_once()
        assert ended.code == 2, ended
        assert f"source_uri (source.uri) is 'file://{lab.lake}' there" in ended.stderr
        assert lab.rows() == before


def test_a_partition_that_is_a_link(lab: Lab) -> None:
    """No listing shows what is behind it: a rebuild would publish it again, and an audit would miss it."""
    with replicas(count=1) as urls:
        lab.configure(urls)
        rows = lab.scored()
        (partition,) = lab.scores.glob("source=*")
        partition.rename(lab.folder / "moved")
        partition.symlink_to(lab.folder / "moved")
        for command in (["run", "--once"], ["verify"]):
            ended = lab.command(*command)
            assert (ended.code, "symbolic link" in ended.stderr) == (2, True), ended
        partition.unlink()
        (lab.folder / "moved").rename(partition)
        assert lab.scored() == rows


def test_a_folder_where_a_segment_is_to_be(lab: Lab) -> None:
    """It stops its partition, and the run ends and says so; moved away, nothing is lost."""
    with replicas(count=1) as urls:
        lab.configure(urls)
        stray = lab.scores / "source=known/shard=00/00000000.jsonl.zst"
        stray.mkdir(parents=True)
        ended = lab.run_once()
        assert (ended.code, "is no file, and stands where one is to be" in ended.stderr) == (1, True), ended
        stray.rmdir()
        assert len(lab.scored()) == 5


def test_an_audit_makes_no_ledger(lab: Lab) -> None:
    """One that is asked to compare with a ledger that is not there says so, and leaves nothing behind."""
    ended = lab.command("verify", "--ledger")
    assert (ended.code, "there is no ledger at" in ended.stderr) == (2, True), ended
    assert not (lab.folder / "ledger").exists()


def test_a_second_daemon_on_one_ledger(lab: Lab) -> None:
    """A second daemon is refused with the process that holds the ledger; the first goes on and ends well."""
    with replicas(count=1) as urls:
        lab.configure(urls, log={"level": "info"})
        with started("run", "--config", str(lab.config), stream="stderr") as first:
            line_with(first, "stderr", '"ready"')
            second = lab.run_once()
            assert second.code == 2, second
            assert "another daemon holds the ledger lock" in second.stderr
            assert f"(process {first.pid})" in second.stderr
            first.send_signal(signal.SIGTERM)
            _, rest = first.communicate(timeout=20)
            assert first.returncode == 0, rest
        assert len(lab.scored()) == 5
