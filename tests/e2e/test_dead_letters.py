"""Dead letters are listed, explained and replayed by commands beside the real daemon; nothing is lost or doubled."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import running, scrape
from tests.e2e.harness import NOWHERE, Ended, Lab, Row, cli, conversation, replicas, started
from tests.e2e.simulators import Simulator

KNOWN, OTHER = 6, 40
PROBES = 4
"""Requests by which a replica that came back is tried, and its prefix cache warmed."""
ONE_SOURCE = ({"sources": ["known"]},)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake of two sources; the one that a pool knows has two bad lines."""
    lab = Lab(tmp_path)
    bad = b"not json\n" + b'{"messages": []}\n'
    lab.land("known/a.jsonl", b"".join(conversation(f"Mend part {n}.") for n in range(KNOWN)) + bad)
    lab.land("other/b.jsonl", b"".join(conversation(f"Write part {n}.") for n in range(OTHER)))
    return lab


def letters(lab: Lab, name: str, *arguments: str) -> Ended:
    """`mira-stream dead-letters <name>`."""
    return cli("dead-letters", name, "--config", str(lab.config), *arguments)


def listed(lab: Lab, *arguments: str) -> list[Row]:
    """What `list --json` prints."""
    ended = letters(lab, "list", "--json", *arguments)
    assert ended.code == 0, ended
    return [json.loads(line) for line in ended.stdout.splitlines()]


def replayed(lab: Lab, *arguments: str, code: int = 0) -> Row:
    """What `replay --json` prints."""
    ended = letters(lab, "replay", "--json", *arguments)
    assert ended.code == code, ended
    found: Row = json.loads(ended.stdout)
    return found


def assert_once(lab: Lab, *, replays: int) -> list[Row]:
    """The rows, with so many replays, and each record once in each of its generations; the audit is clean."""
    audit, rows = lab.audit(), lab.rows()
    assert max(Counter((row["record_id"], row["generation"]) for row in rows).values()) == 1
    assert audit["rows"] == len(rows) == audit["source_lines"] + replays
    assert audit["replayed_rows"] == replays
    return rows


def last(rows: list[Row]) -> dict[str, Row]:
    """The rows that count: those of the highest generation."""
    return {row["record_id"]: row for row in sorted(rows, key=lambda row: row["generation"])}


@contextmanager
def without_a_pool(lab: Lab) -> Iterator[list[str]]:
    """The lake is scored by a pool that knows one of its sources; afterwards a pool knows both."""
    with replicas(count=1) as urls:
        lab.configure(urls, pools=ONE_SOURCE)
        assert lab.run_once().code == 0
        lab.configure(urls)
        yield urls


def test_they_are_listed_and_explained(lab: Lab) -> None:
    """By every filter, as a table and as JSON; an explanation says where the line is, what is wrong and what helps."""
    with without_a_pool(lab):
        assert Counter(row["reason"] for row in listed(lab)) == {
            "no_pool": OTHER,
            "invalid_json": 1,
            "no_text": 1,
        }
        assert {row["ordinal"] for row in listed(lab, "--source", "known")} == {KNOWN, KNOWN + 1}
        assert len(listed(lab, "--object", "b.jsonl", "--reason", "no_pool", "--since", "1h")) == OTHER
        assert listed(lab, "--since", "2999-01-01") == []
        (row,) = listed(lab, "--reason", "no_text")
        assert listed(lab, "--id", row["record_id"]) == [row]
        table = letters(lab, "list", "--reason", "no_text")
        assert row["record_id"] in table.stdout
        assert "1 letters: no_text 1" in table.stderr
        told = letters(lab, "explain", row["record_id"])
        assert told.code == 0, told
        assert "no text in it to judge" in told.stdout
        assert f"known/a.jsonl, line {KNOWN + 1}, still there" in told.stdout
        assert json.loads(letters(lab, "explain", row["record_id"], "--json").stdout)["is_replayable"] is True
        assert letters(lab, "explain", "f" * 32).code == 1
        assert letters(lab, "list", "--since", "soon").code == 2
        assert letters(lab, "replay").code == 2


def test_records_without_a_pool_are_scored_once_there_is_one(lab: Lab) -> None:
    """Not before; then each once in generation 1, whatever was asked for twice; afterwards none is left to replay."""
    with replicas(count=1) as urls:
        lab.configure(urls, pools=ONE_SOURCE)
        assert lab.run_once().code == 0
        assert replayed(lab, "--reason", "no_pool", code=1)["refused"] == {"no_pool": OTHER}
        lab.configure(urls)
        assert replayed(lab, "--reason", "no_pool", "--dry-run")["requests"] == []
        asked = replayed(lab, "--reason", "no_pool")
        assert (asked["records"], len(asked["requests"])) == (OTHER, 1)
        again = replayed(lab, "--all")
        assert (again["records"], again["refused"]) == (2, {"requested": OTHER})
        assert "not answered yet" in letters(lab, "requests").stdout
        assert lab.run_once().code == 0
        rows = assert_once(lab, replays=OTHER + 2)
        assert Counter(row["outcome"] for row in last(rows).values()) == {
            "scored": KNOWN + OTHER,
            "dead_lettered": 2,
        }
        assert replayed(lab, "--reason", "no_pool")["records"] == 0
        assert {row["generation"] for row in listed(lab)} == {1}
        assert f"{OTHER} published" in letters(lab, "requests").stdout
        assert lab.run_once().code == 0
        assert_once(lab, replays=OTHER + 2)


def test_a_running_daemon_replays(lab: Lab) -> None:
    """Two commands at the same moment ask for the same records: scored once more each, and asked about once."""
    damage = ("--damage-share", "1", "--set", "damage_kinds=missing_tail")
    with Simulator(lab.folder / "one.log", *damage) as sim:
        lab.configure(
            [sim.future_url],
            log={"level": "info"},
            request={"reasks_max": 0},
            admission={"scrape_seconds": 0.05, "breaker_seconds_min": 0.05, "breaker_seconds_max": 0.1},
        )
        sim.start()
        rows = KNOWN + OTHER + 2
        with running(lab) as daemon:
            daemon.until(lambda status: sum(status["outcomes"].values()) == rows, "all are dead letters")
            assert Counter(row["reason"] for row in listed(lab))["malformed_reply"] == KNOWN + OTHER
            sim.kill()
            sim.start("--damage-share", "0")
            before = len(sim.requests())
            filters = ("--reason", "malformed_reply", "--wait", "40")
            with ThreadPoolExecutor(2) as threads:
                both = list(threads.map(lambda _: letters(lab, "replay", "--json", *filters), range(2)))
            assert [ended.code for ended in both] == [0, 0], both
            assert any(json.loads(ended.stdout)["records"] == KNOWN + OTHER for ended in both)
            scraped = scrape(daemon)
            assert scraped.read == scraped.accounted == rows + KNOWN + OTHER
            assert scraped.sum("mira_stream_records_replayed_total") == KNOWN + OTHER
            assert daemon.terminate() == 0
        assert len(sim.requests()) - before <= KNOWN + OTHER + PROBES
        found = last(assert_once(lab, replays=KNOWN + OTHER)).values()
        assert Counter(row["outcome"] for row in found) == {"scored": KNOWN + OTHER, "dead_lettered": 2}


@pytest.mark.parametrize(
    "step",
    ["receive.before", "receive.after", "seal.after", "publish.before", "publish.after", "advance.before"],
)
def test_a_kill_in_the_midst_of_a_replay_doubles_nothing(lab: Lab, step: str) -> None:
    """Started again, also without its ledger, it ends what was asked for: once for each record."""
    with without_a_pool(lab):
        replayed(lab, "--reason", "no_pool")
        killed = lab.run_once(extra={"MIRA_STREAM_FAILPOINT": step})
        assert killed.code == -9, killed.stderr
        if step == "publish.after":
            for file in (lab.folder / "ledger").iterdir():
                file.unlink()
        assert lab.run_once().code == 0
        rows = assert_once(lab, replays=OTHER)
        assert {row["outcome"] for row in rows if row["generation"] == 1} == {"scored"}


def test_rivals_that_see_one_request_double_nothing(lab: Lab) -> None:
    """Two daemons with ledgers of their own replay the same records at the same time: one row of each is published."""
    with without_a_pool(lab) as urls:
        lab.configure(urls, sink={"roll_records": 5})
        replayed(lab, "--all")
        rival = lab.folder / "rival.toml"
        rival.write_text(lab.config.read_text("utf-8").replace("ledger.sqlite", "rival.sqlite"), "utf-8")
        with started("run", "--once", "--config", str(rival), stream="stderr") as other:
            ours = lab.run_once()
            _, errors = other.communicate(timeout=30)
            assert (ours.code, other.returncode) == (0, 0), ours.stderr + errors
        rows = assert_once(lab, replays=OTHER + 2)
        assert Counter(row["outcome"] for row in last(rows).values())["scored"] == KNOWN + OTHER


def test_what_is_gone_is_refused(lab: Lab) -> None:
    """When it is asked for, or, if it went after that, in the answer; its last outcome goes on standing."""
    with without_a_pool(lab):
        gone = lab.lake / "other" / "b.jsonl"
        data = gone.read_bytes()
        asked = replayed(lab, "--reason", "no_pool")
        gone.unlink()
        refused = replayed(lab, "--reason", "no_pool", "--reason", "invalid_json", code=0)
        assert (refused["records"], refused["refused"]) == (1, {"requested": OTHER})
        assert lab.run_once().code == 0
        told = letters(lab, "requests", "--json").stdout.splitlines()
        answers = {one["request"]: one["answer"] for one in map(json.loads, told)}
        (name,) = asked["requests"]
        assert answers[name]["records"] == 0
        assert [(one[0], one[4]) for one in answers[name]["refused"]] == [("gone", [[0, OTHER]])]
        refused = replayed(lab, "--reason", "no_pool", code=1)
        assert (refused["records"], refused["refused"]) == (0, {"gone": OTHER})
        assert "gone" in letters(lab, "explain", refused["shown"][0]["record_id"]).stdout
        lab.land("other/b.jsonl", conversation("Something else.") + data)
        assert replayed(lab, "--reason", "no_pool", code=1)["refused"] == {"overwritten": OTHER}
        lab.land("other/b.jsonl", data)
        assert replayed(lab, "--reason", "no_pool")["records"] == OTHER
        assert lab.run_once().code == 0
        assert_once(lab, replays=OTHER + 1)


def test_a_request_that_nobody_wrote_harms_nothing(lab: Lab) -> None:
    """Whoever may write to the sink may ask for anything: names that leave the source, lines that are not there."""
    with without_a_pool(lab):
        (row,) = listed(lab, "--reason", "no_text")
        folder = lab.scores / "_mira_stream" / "replays"
        folder.mkdir(parents=True)
        ranges = [
            [f"file://{lab.lake}/../mira.toml", "e", 1, [[0, 5]]],
            [row["object"], row["etag"], 1, [[KNOWN, KNOWN + 1], [10**6, 10**9]]],
            [row["object"], row["etag"], 7, [[0, 1]]],
        ]
        request = {"version": 1, "asked_at": "2026-01-01T00:00:00.000Z", "ranges": ranges}
        (folder / "a.request.json").write_text(json.dumps(request))
        (folder / "b.request.json").write_bytes(b"\xff{")
        (folder / "c.request.json").write_text(json.dumps(request | {"ranges": [["u", "e", 1, [[5, 2]]]]}))
        assert lab.run_once().code == 0
        answer = json.loads((folder / "a.answer.json").read_text())
        assert answer["records"] == 1
        assert Counter(one[0] for one in answer["refused"]) == {"gone": 1, "unpublished": 2}
        assert "cannot be understood" in (folder / "b.answer.json").read_text()
        assert "cannot be" in (folder / "c.answer.json").read_text()
        assert_once(lab, replays=1)


def test_nothing_can_be_listed_where_nothing_is(lab: Lab) -> None:
    """A sink that does not exist yet has no letters; a segment that cannot be read is said, with exit 1."""
    lab.configure([NOWHERE])
    assert listed(lab) == []
    with without_a_pool(lab):
        segment = next(lab.scores.glob("source=other/shard=*/*.jsonl.zst"))
        segment.write_bytes(segment.read_bytes()[:-3])
        ended = letters(lab, "list", "--json")
        assert (ended.code, len(ended.stdout.splitlines())) == (1, 2)
        assert "not read:" in ended.stderr


def test_a_line_that_was_cut_and_is_whole_now(tmp_path: Path) -> None:
    """An object ended inside a line and was closed; its writer went on after all. The rest is read by itself, and the
    line that was cut once somebody asks for it."""
    lab = Lab(tmp_path)
    members = [gzip.compress(conversation(f"Mend part {n}.")) for n in range(4)]
    with replicas(count=1) as urls:
        lab.configure(urls)
        lab.land("known/a.jsonl.gz", members[0] + members[1][: len(members[1]) // 2])
        assert lab.run_once().code == 0
        lab.land("known/a.jsonl.gz", b"".join(members))
        assert lab.run_once().code == 0
        (letter,) = listed(lab)
        assert (letter["reason"], letter["ordinal"]) == ("truncated", 1)
        assert replayed(lab, "--all")["records"] == 1
        assert lab.run_once().code == 0
        rows = assert_once(lab, replays=1)
        assert {row["outcome"] for row in last(rows).values()} == {"scored"}
        assert len(last(rows)) == 4
