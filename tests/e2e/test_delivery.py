"""Exactly once, seen from outside: kills at every step, rivals, a lost ledger."""

import shutil
import signal
from pathlib import Path

import pytest

from mira_stream.core.failpoint import FAILPOINTS
from tests.e2e.harness import Lab, conversation, replicas, started

RECORDS = b"".join(conversation(f"Rename module {number} and run the tests.") for number in range(40))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_kill_at_any_step_of_the_commit_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed before and after each step, one run after the other on one ledger, then run to its end."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas(count=1) as urls:
        lab.configure(urls, sink={"roll_records": 4})
        for step in FAILPOINTS:
            assert lab.run_once(extra={"MIRA_STREAM_FAILPOINT": step}).code == -signal.SIGKILL, step
            published = [row["ordinal"] for row in lab.rows()]
            assert len(published) == len(set(published)), step
        rows = lab.scored()
    assert sorted(row["ordinal"] for row in rows) == list(range(40))


def test_without_its_ledger_progress_is_rebuilt_from_the_sink(tmp_path: Path) -> None:
    """A lost ledger scores nothing again and doubles nothing."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas(count=1) as urls:
        lab.configure(urls)
        before = lab.scored()
        shutil.rmtree(tmp_path / "ledger")
        lab.land("claude_cli/b.jsonl", conversation("One more."))
        after = lab.scored()
    assert len(after) == len(before) + 1
    assert {row["segment"] for row in before} < {row["segment"] for row in after}


def test_a_ledger_that_was_parted_from_its_sink(tmp_path: Path) -> None:
    """The sink is put back from a backup, and a machine without our ledger goes on: ours is refused, and nothing is
    doubled; moved away, it is rebuilt, and nothing is lost."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas(count=1) as urls:
        lab.configure(urls)
        lab.scored()
        shutil.copytree(lab.scores, tmp_path / "backup")
        lab.land("claude_cli/b.jsonl", conversation("Ours."))
        lab.scored()
        shutil.rmtree(lab.scores)
        shutil.move(tmp_path / "backup", lab.scores)
        shutil.move(tmp_path / "ledger", tmp_path / "ours")
        lab.land("claude_cli/c.jsonl", conversation("Theirs."))
        lab.land("claude_cli/b.jsonl", conversation("Later.") * 2)
        lab.scored()
        shutil.rmtree(tmp_path / "ledger")
        shutil.copytree(tmp_path / "ours", tmp_path / "ledger")
        before = lab.rows()
        refused = lab.run_once()
        assert refused.code == 2, refused
        assert "is another one" in refused.stderr
        assert "move the ledger away" in refused.stderr
        assert lab.rows() == before
        shutil.rmtree(tmp_path / "ledger")
        assert len(lab.scored()) == 40 + 2 + 1


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
