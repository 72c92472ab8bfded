"""Exactly once, seen from outside: kills at every step, rivals, a lost ledger, follow mode, and all real traces."""

import json
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from mira_stream.core.failpoint import FAILPOINTS
from tests.e2e.harness import CLI, Lab, conversation, environment, line_with, replicas, started

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
RECORDS = b"".join(conversation(f"Rename module {number} and run the tests.") for number in range(40))


def _killed_at(lab: Lab, step: str) -> int:
    """The exit code of a run that kills itself at `step`."""
    command = (*CLI, "run", "--once", "--config", str(lab.config))
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=30,
        check=False,
        env=environment() | {"MIRA_STREAM_FAILPOINT": step},
    )
    return done.returncode


@pytest.mark.slow
def test_every_real_trace_is_scored_once_by_two_replicas(tmp_path: Path) -> None:
    """All records of all shapes end in the sink, once, and the audit is clean."""
    if not TRACES.is_dir():
        pytest.skip(f"REAL TRACES ARE ABSENT ({TRACES}): no real record was scored end to end")
    lab = Lab(tmp_path)
    files = list(TRACES.rglob("*.jsonl*"))
    for file in files:
        lab.land(str(file.relative_to(TRACES)), file.read_bytes())
    with replicas("--damage-share", "0.05") as urls:
        lab.configure(urls, sink={"roll_records": 100})
        rows = lab.scored()
    ids = [(row["record_id"], row["generation"]) for row in rows]
    assert len(ids) == len(set(ids)) > 0
    assert len({row["object"] for row in rows}) == len(files)
    assert {row["replica"] for row in rows} >= set(urls)
    assert all(row["shape"] not in (None, "unknown") for row in rows)
    assert all(
        row["outcome"] == "scored" or row["reason"] in ("malformed_reply", "cut_reply") for row in rows
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_kill_at_any_step_of_the_commit_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed before and after each step, one run after the other on one ledger, then run to its end."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas() as urls:
        lab.configure(urls, sink={"roll_records": 4})
        for step in FAILPOINTS:
            assert _killed_at(lab, step) == -signal.SIGKILL, step
        rows = lab.scored()
    assert sorted(row["ordinal"] for row in rows) == list(range(40))


def test_without_its_ledger_progress_is_rebuilt_from_the_sink(tmp_path: Path) -> None:
    """A lost ledger scores nothing again and doubles nothing."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas() as urls:
        lab.configure(urls)
        before = lab.scored()
        shutil.rmtree(tmp_path / "ledger")
        lab.land("claude_cli/b.jsonl", conversation("One more."))
        after = lab.scored()
    assert len(after) == len(before) + 1
    assert {row["segment"] for row in before} < {row["segment"] for row in after}


def test_two_daemons_with_ledgers_of_their_own_double_nothing(tmp_path: Path) -> None:
    """Rivals on one sink, started together by mistake: both end well, every record is there once."""
    lab = Lab(tmp_path)
    for number in range(6):
        lab.land(f"claude_cli/{number}.jsonl", RECORDS)
    with replicas("--set", "damage_share=0.1") as urls:
        lab.configure(urls, sink={"roll_records": 10})
        rival = tmp_path / "rival.toml"
        rival.write_text(lab.config.read_text("utf-8").replace("ledger.sqlite", "rival.sqlite"), "utf-8")
        with started("run", "--once", "--config", str(rival), stream="stderr") as other:
            ours = lab.run_once()
            _, errors = other.communicate(timeout=30)
            assert (ours.code, other.returncode) == (0, 0), ours.stderr + errors
    assert len(lab.audited()) == 240


def test_a_following_daemon_scores_what_lands_and_drains_at_a_signal(tmp_path: Path) -> None:
    """Objects that land while it runs are scored, every scrape balances, SIGTERM ends it with everything published."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas() as urls:
        lab.configure(urls, log={"level": "info"})
        with started("run", "--config", str(lab.config), stream="stderr") as daemon:
            url = json.loads(line_with(daemon, "stderr", '"listening"'))["url"]
            line_with(daemon, "stderr", '"ready"')
            lab.land("claude_cli/b.jsonl", RECORDS)
            while (scrape := _scrape(url))["records_read"] < 80:
                assert scrape["records_read"] == scrape["records_ended"] + scrape["records_in_pipeline"]
            daemon.send_signal(signal.SIGTERM)
            _, errors = daemon.communicate(timeout=30)
            assert daemon.returncode == 0, errors
    ended = json.loads(next(line for line in errors.splitlines() if '"ended"' in line))
    assert ended["read"] == ended["scored"] + ended["in_pipeline"] == 80
    # What a drain did not wait for is scored by the next start.
    with replicas() as urls:
        lab.configure(urls)
        assert len(lab.scored()) == 80


def _scrape(url: str) -> dict[str, float]:
    """The identity's three numbers, from one scrape."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    names = ("records_read", "records_ended", "records_in_pipeline")
    return {
        name: sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((f"mira_stream_{name}_total", f"mira_stream_{name}{{"))
        )
        for name in names
    }
