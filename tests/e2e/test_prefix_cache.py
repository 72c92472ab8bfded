"""A hybrid model's prefix cache misses what all prompts share, until the daemon sends the shared part alone."""

from pathlib import Path

from tests.e2e.harness import Lab, conversation
from tests.e2e.simulators import Simulator

FAST = {"scrape_seconds": 0.02, "scrape_seconds_min": 0.01, "requests_max": 4}


def run(folder: Path, *settings: str) -> tuple[list[int], list[int]]:
    """Cached tokens of 120 records in order of their answers, and how long the replica's replies were."""
    lab = Lab(folder)
    with Simulator(folder / "requests.log", "--time-scale", "0.002", *_flags(settings)) as sim:
        sim.start()
        lab.land(
            "known/a.jsonl", b"".join(conversation(f"Task {n}: " + "mend it " * 900) for n in range(120))
        )
        lab.configure([sim.url], admission=FAST)
        rows = sorted(lab.scored(), key=lambda row: row["scored_at"])
        return [row["cached_tokens"] for row in rows], [one["completion_tokens"] for one in sim.requests()]


def _flags(settings: tuple[str, ...]) -> list[str]:
    every = ("enable_prompt_tokens_details=true", *settings)
    return [part for setting in every for part in ("--set", setting)]


def test_a_hybrid_cache_is_warmed(tmp_path: Path) -> None:
    """At first nothing is found; after one request for a single token, nearly every prompt finds the shared part."""
    cached, replies = run(tmp_path, "prefix_cache=hybrid", "hybrid_block_tokens=528")
    assert replies.count(1) == 1
    assert not any(cached[:12])
    assert min(cached[-40:]) >= 528
    assert len(set(cached[-40:])) == 1


def test_a_cache_that_works_is_let_be(tmp_path: Path) -> None:
    """Blocks of sixteen tokens are found from the second prompt on; nothing is sent that nobody asked for."""
    cached, replies = run(tmp_path)
    assert 1 not in replies
    assert min(cached[-100:]) > 1000
