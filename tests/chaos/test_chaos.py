"""Chaos, in short: some kills of the daemon and of rivals, and an oracle that finds what it is there to find."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.crash import CrashRound, Tally
from tests.chaos.oracle import Violation
from tests.chaos.replays import Lost, check_kept, lost_per_life
from tests.chaos.replays import Request as Asked
from tests.chaos.rivals import RivalTally
from tests.chaos.rounds import Broken, Round, Run, play
from tests.chaos.scene import Scene, scene, world

SEED = 1


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[Scene]:
    """A lake that was scored under two kills."""
    with world("local") as shared, scene(shared, f"{SEED}/0/alone", tmp_path / "alone") as one:
        CrashRound(one, Tally()).run(2)
        yield one


def test_no_kill_loses_or_doubles_a_record() -> None:
    """The same as `make chaos`, which says how to play it again."""
    tally, rivals = Tally(), RivalTally()
    with world("local") as shared:
        play(Run(SEED, 14, "local"), shared, Round(0, 10, 4), tally=tally, rivals=rivals)
    assert tally.kills.total() == 10
    assert rivals.kills.total() == 4
    assert tally.rows == sum(tally.ends.values()) > 0


def test_the_oracle_finds_what_is_doubled_lost_and_changed(finished: Scene) -> None:
    """It read every segment of this run and was content; then somebody else works in the folder."""
    scores = finished.folder / "scores"
    first = min(scores.glob("source=*/shard=*/00000000.jsonl.zst"))
    beside = first.with_name("00009999.jsonl.zst")
    shutil.copy(first, beside)
    with pytest.raises(Violation, match="published twice"):
        finished.oracle.look()
    beside.unlink()
    finished.lake.land()
    finished.lake.settle()
    with pytest.raises(Violation, match="in no published file"):
        finished.oracle.expect(finished.lake.sizes(), "now")
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(Violation, match="changed or removed"):
        finished.oracle.look()


def test_a_broken_promise_names_the_command_that_repeats_it(tmp_path: Path) -> None:
    """With the seed, the round and the folder in which it happened."""
    run = Run(7, 250, "local")
    assert [one.number for one in run.rounds()] == [0, 1, 2]
    assert sum(one.alone + one.among_rivals for one in run.rounds()) == 250
    told = str(Broken(run, 2, tmp_path, Violation("a line is lost")))
    assert "a line is lost" in told
    assert str(tmp_path) in told
    assert "make chaos SEED=7 KILLS=250 STORE=local ROUND=2" in told


def test_work_done_twice_is_counted_by_life() -> None:
    """In flight at the kill, answered and scored again all the same, and what is kept."""
    requests = [
        Asked("kept", 0.0, 1.0, answered=True),
        Asked("answered", 0.5, 1.5, answered=True),
        Asked("flying", 1.0, 9.0, answered=True),
        Asked("answered", 11.0, 12.0, answered=True),
        Asked("flying", 11.0, 12.0, answered=True),
    ]
    lost = lost_per_life(requests, starts=[0.0, 10.0], ends=[2.0, 20.0])
    assert lost == [Lost(in_flight=1, again=2, beyond=1), Lost(0, 0, 0)]
    check_kept(lost)
    with pytest.raises(Violation, match="scored again"):
        check_kept([Lost(in_flight=1, again=258, beyond=257)])
