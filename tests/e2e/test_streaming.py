"""The daemon with streamed replies: the same scores, and a reply that runs in a loop is left and asked for again."""

from pathlib import Path

from tests.e2e.harness import Lab, conversation
from tests.e2e.simulators import Simulator


def score(folder: Path, *flags: str, stream: bool) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The rows of 40 records in order, and the requests that the replica saw."""
    lab = Lab(folder)
    folder.mkdir(exist_ok=True)
    with Simulator(folder / "requests.log", "--time-scale", "0.002", *flags) as sim:
        sim.start()
        lab.land("known/a.jsonl", b"".join(conversation(f"Mend the build, part {n}.") for n in range(40)))
        lab.configure([sim.url], request={"stream": stream}, admission={"scrape_seconds": 0.05})
        return sorted(lab.scored(), key=lambda row: row["ordinal"]), sim.requests()


def test_streamed_replies_are_scored_alike(tmp_path: Path) -> None:
    """Scores and costs are those of replies that come whole."""
    streamed, _ = score(tmp_path / "streamed", stream=True)
    whole, _ = score(tmp_path / "whole", stream=False)
    kept = ("ordinal", "scores", "overall", "completion_tokens", "prompt_tokens", "finish_reason", "outcome")
    assert [[row[key] for key in kept] for row in streamed] == [[row[key] for key in kept] for row in whole]
    assert {row["outcome"] for row in streamed} == {"scored"}


def test_a_reply_that_runs_in_a_loop_is_left(tmp_path: Path) -> None:
    """The connection is closed long before the longest reply is reached; another reply is asked for."""
    flags = ("--set", "damage_share=0.5", "--set", "damage_kinds=runaway")
    rows, requests = score(tmp_path, *flags, stream=True)
    left = [one for one in requests if one["outcome"] == "aborted"]
    assert len(left) > 5
    assert {row["outcome"] for row in rows} <= {"scored", "dead_lettered"}
    assert sum(row["outcome"] == "scored" for row in rows) > 30
