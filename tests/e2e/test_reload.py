"""Replicas come, go and move between pools by SIGHUP, under load, and no record is lost or asked about twice."""

import json
import os
import signal
import subprocess
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running, scrape
from tests.e2e.harness import CLI, NOWHERE, RUN_SECONDS, Lab, Row, conversation, until
from tests.e2e.simulators import Simulator

RECORDS = 128
EAGER = {
    "scrape_seconds": 0.05,
    "scrape_seconds_min": 0.02,
    "requests_max": 4,
    "breaker_seconds_min": 0.1,
    "breaker_seconds_max": 0.2,
}
SLOW = ("--time-scale", "0.01")
"""Answers take some tenths of a second: long enough to be in the midst of them."""
OTHER_MODEL = "whw06/other"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake of two sources, each of one object."""
    lab = Lab(tmp_path)
    for source in ("known", "other"):
        lines = (conversation(f"Mend part {n} of {source}.") for n in range(RECORDS // 2))
        lab.land(f"{source}/a.jsonl", b"".join(lines))
    return lab


def reload(daemon: Daemon, reloads: int, outcome: str = "done") -> None:
    """SIGHUP, and wait until the file has been read so often with that outcome."""
    daemon.process.send_signal(signal.SIGHUP)
    name = "mira_stream_config_reloads_total"
    until(lambda: scrape(daemon).sum(name, outcome=outcome) == reloads, f"reload {reloads} is {outcome}")


def names(status: Row) -> dict[str, set[str]]:
    return {pool["group"]: {one["name"] for one in pool["replicas"]} for pool in status["pools"]}


def assert_each_once(lab: Lab) -> None:
    """Every record is scored, by its first request."""
    rows = lab.audited()
    assert len(rows) == RECORDS
    assert {row["outcome"] for row in rows} == {"scored"}
    assert {row["attempts"] for row in rows} == {1}


def test_a_replica_comes_and_another_goes(lab: Lab) -> None:
    """The one that comes gets work; the one that goes ends its requests, and is not shown any more."""
    with (
        Simulator(lab.folder / "one.log", *SLOW) as one,
        Simulator(lab.folder / "two.log", *SLOW) as two,
    ):
        urls = [one.start().url, two.start().url]
        lab.configure(urls[:1], admission=EAGER, log={"level": "info"})
        with running(lab, "--once") as daemon:
            daemon.until(lambda status: len(one.requests()) > 8, "the first replica works")
            lab.configure(urls, admission=EAGER, log={"level": "info"})
            reload(daemon, 1)
            until(lambda: len(two.requests()) > 8, "the second replica works")
            lab.configure(urls[1:], admission=EAGER, log={"level": "info"})
            reload(daemon, 2)
            daemon.until(lambda status: names(status) == {"agent/A": {two.url}}, "the first replica has left")
            seen_by = scrape(daemon)
            shown = {sample.labels["replica"] for sample in seen_by.samples["mira_stream_replica_requests"]}
            assert shown == {two.url}
            assert seen_by.sum("mira_stream_replica_answers_total", replica=one.url) == len(one.requests())
            seen = len(one.requests())
            assert daemon.wait() == 0
        assert len(one.requests()) == seen
        assert {row["outcome"] for row in one.requests()} == {"answered"}
    assert_each_once(lab)


def groups_toml(folder: Path, second_model: str) -> None:
    """Two groups with rubrics of their own; the second one's names differ."""
    anchors = resources.files("mira_stream.anchor_data").joinpath("agent", "group_A_dim_anchors.jsonl")
    lines = [json.loads(line) for line in anchors.read_text("utf-8").splitlines()]
    (folder / "agent").mkdir(parents=True)
    text = ""
    for name, model in (("A", "whw06/MIRA-Agent-Group1"), ("B", second_model)):
        file = f"agent/group_{name}_dim_anchors.jsonl"
        told = [{**line, "name": f"{line['name']} {name}"} for line in lines]
        (folder / file).write_text("\n".join(map(json.dumps, told)) + "\n", "utf-8")
        keys = {
            "title": "a test",
            "model": model,
            "prompt_family": "agent",
            "anchors": file,
            "dimensions": 15,
            "context_tokens": 65_536,
            "records": 1,
            "sources": [],
            "sources_complete": False,
        }
        lines_of = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        text += f'[[group]]\nid = "agent/{name}"\n{lines_of}\n'
    (folder / "groups.toml").write_text(text, "utf-8")


def configure_two(lab: Lab, a: list[str], b: list[str]) -> None:
    """Each source has a pool, and each pool these replicas."""
    pools: list[Row] = [
        {"group": "agent/A", "sources": ["known"], "replicas": a},
        {"group": "agent/B", "sources": ["other"], "replicas": b},
    ]
    anchors = {"path": str(lab.folder / "anchors")}
    lab.configure([], pools=pools, admission=EAGER, log={"level": "info"}, anchors=anchors)


def test_a_replica_moves_between_pools_of_two_groups(lab: Lab) -> None:
    """Two rubrics in one daemon: one pool is nearly starved until the replica that moves works for it, and its last
    request for the other pool has ended when the first one for this pool comes."""
    groups_toml(lab.folder / "anchors", "whw06/MIRA-Agent-Group1")
    with (
        Simulator(lab.folder / "a.log", *SLOW) as first,
        Simulator(lab.folder / "b.log", "--time-scale", "0.1") as second,
        Simulator(lab.folder / "c.log", *SLOW) as moving,
    ):
        for sim in (first, second, moving):
            sim.start()
        configure_two(lab, [first.url, moving.url], [second.url])
        with running(lab, "--once") as daemon:
            until(lambda: len(moving.requests()) > 4, "the replica works in the first pool")
            configure_two(lab, [first.url], [second.url, moving.url])
            reload(daemon, 1)
            both = {"agent/A": {first.url}, "agent/B": {second.url, moving.url}}
            daemon.until(lambda status: names(status) == both, "the replica has moved")
            assert daemon.wait() == 0
        asked = sorted(moving.requests(), key=lambda one: one["arrived"])
    rows = lab.audited()
    assert {(row["group"], row["source"]) for row in rows} == {("agent/A", "known"), ("agent/B", "other")}
    assert len({row["rubric_fingerprint"] for row in rows}) == 2
    assert {row["attempts"] for row in rows} == {1}
    by_moving = Counter(row["group"] for row in rows if row["replica"] == moving.url)
    assert by_moving["agent/B"] > 0
    for_first = by_moving["agent/A"]
    last_end = max(one["arrived"] + one["seconds"] for one in asked[:for_first])
    assert last_end <= asked[for_first]["arrived"]


def test_a_replica_that_does_not_fit_its_new_pool_is_shut_out_there(lab: Lab) -> None:
    """It serves the model of the pool that it comes from: no record is sent to it, and none is blamed."""
    groups_toml(lab.folder / "anchors", OTHER_MODEL)
    with (
        Simulator(lab.folder / "a.log", *SLOW) as first,
        Simulator(lab.folder / "b.log", *SLOW, "--model", OTHER_MODEL) as second,
        Simulator(lab.folder / "c.log", *SLOW) as moving,
    ):
        for sim in (first, second, moving):
            sim.start()
        configure_two(lab, [first.url, moving.url], [second.url])
        with running(lab, "--once") as daemon:
            until(lambda: len(moving.requests()) > 4, "the replica works in the first pool")
            configure_two(lab, [first.url], [second.url, moving.url])
            reload(daemon, 1)
            both = {"agent/A": {first.url}, "agent/B": {second.url, moving.url}}
            daemon.until(lambda status: names(status) == both, "the replica has moved")
            asked = len(moving.requests())
            assert daemon.wait() == 0
        assert len(moving.requests()) == asked
    rows = lab.audited()
    assert {(row["group"], row["source"], row["model"]) for row in rows} == {
        ("agent/A", "known", "whw06/MIRA-Agent-Group1"),
        ("agent/B", "other", OTHER_MODEL),
    }
    assert {row["attempts"] for row in rows} == {1}


def test_a_bad_configuration_changes_nothing(lab: Lab) -> None:
    """It is refused in words, the run goes on, and a good one is taken after it."""
    with Simulator(lab.folder / "one.log", *SLOW) as one:
        url = one.start().url
        lab.configure([url], admission=EAGER, log={"level": "info"})
        with running(lab, "--once") as daemon:
            until(lambda: len(one.requests()) > 4, "it works")
            good = lab.config.read_text("utf-8")
            lab.config.write_text("this is no TOML", "utf-8")
            reload(daemon, 1, "refused")
            lab.configure([url], admission=EAGER | {"requests_max": 9}, log={"level": "info"})
            reload(daemon, 2, "refused")
            assert "admission.requests_max" in daemon.status()["reload_refused"]
            lab.config.write_text(good, "utf-8")
            reload(daemon, 1)
            assert daemon.status()["reload_refused"] is None
            assert daemon.wait() == 0
            refused = [event for event in daemon.events() if "not taken over" in event["event"]]
        assert len(refused) == 2
        assert "admission.requests_max" in refused[1]["error"]
        assert all(event["hint"] for event in refused)
    assert_each_once(lab)


def test_a_reload_while_draining_is_harmless(lab: Lab) -> None:
    """The daemon ends as it would have, whatever the file says; the next start does the rest."""
    with Simulator(lab.folder / "one.log", "--time-scale", "0.1") as one:
        lab.configure([one.start().url], admission=EAGER, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until(lambda status: status["pools"][0]["replicas"][0]["requests"] > 0, "it works")
            daemon.process.send_signal(signal.SIGTERM)
            daemon.until(lambda status: status["state"] == "draining", "it drains")
            lab.configure([NOWHERE], admission=EAGER, log={"level": "info"})
            daemon.process.send_signal(signal.SIGHUP)
            assert daemon.wait() == 0
            assert any("not read again" in event["event"] for event in daemon.events())
        assert {entry["outcome"] for entry in one.requests()} == {"answered"}
    with Simulator(lab.folder / "two.log") as two:
        lab.configure([two.start().url], admission=EAGER)
        assert lab.run_once().code == 0
    assert_each_once(lab)


def test_a_reload_that_comes_early_is_not_lost(lab: Lab) -> None:
    """SIGHUP before the daemon has looked at anything does not end it; what the file says then is what counts."""
    with Simulator(lab.folder / "one.log") as one:
        lab.configure([NOWHERE], admission=EAGER, log={"level": "info"})
        with running(lab, "--once") as daemon:
            daemon.get("/healthz")
            lab.configure([one.start().url], admission=EAGER, log={"level": "info"})
            reload(daemon, 1)
            assert daemon.wait() == 0
    assert_each_once(lab)


def test_a_reload_that_is_asked_for_while_the_file_is_read_ends_nobody(tmp_path: Path) -> None:
    """So early nobody listens for it; a signal that nobody handles would end the process."""
    config = tmp_path / "mira.toml"
    os.mkfifo(config)
    with subprocess.Popen(
        (*CLI, "run", "--config", str(config)), stderr=subprocess.PIPE, text=True
    ) as process:
        with config.open("w", encoding="utf-8") as file:  # waits until it is opened at the other end
            process.send_signal(signal.SIGHUP)
            file.write("[nonsense]")
        _, errors = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 2, errors
    assert "nonsense" in errors
