"""What a person at night reads first: the verdict, what limits, and what to do."""

import re
from pathlib import Path

import msgspec
import pytest

from mira_stream.core.outcome import LimitingFactor
from mira_stream.daemon import diagnosis
from mira_stream.daemon.status import Health, Status
from tests.fakes.statuses import NO_RATES, POOL, REPLICA, pools, status

ROOT = Path(__file__).parents[3]
IDLE = {"in_pipeline": {"window": 0}, "read": 5, "objects_open": 0}
STARVED = pools({"limiting_factor": "source_starved"})
DOWN = msgspec.structs.replace(REPLICA, name="http://two", breaker="open")
LEAVING = msgspec.structs.replace(DOWN, leaving=True)


def test_a_busy_daemon_is_well() -> None:
    """Full replicas are what is wanted, and nothing is to be done."""
    found = status().diagnosis
    assert (found.health, found.says, found.stage, list(found.advice)) == (
        Health.WELL,
        "All is well.",
        "in_flight",
        [],
    )
    assert "as full as they should be" in found.limit


@pytest.mark.parametrize(
    ("seen", "stage", "limit"),
    [
        (status(pools=STARVED, **IDLE), None, "Caught up"),
        (status(pools=STARVED), "read", "Limited by reading"),
        (status(pools=STARVED, objects_open=0), "read", "the last of it"),
        (status(pools=pools({"limiting_factor": None})), None, "Nothing limits it"),
        (status(pools=pools({"limiting_factor": "kv"}, {"limiting_factor": None})), "in_flight", "agent/A: Limited"),
        (status(pools=pools({"limiting_factor": "kv"}, {"limiting_factor": "breaker"})), "in_flight", "agent/B: Nothing"),
        (status(pools=pools({"stopped": "no"})), "in_flight", "every pool is stopped"),
        (status(state="starting"), "read", "first listing"),
    ],
)  # fmt: skip
def test_what_limits_is_said_in_words(seen: Status, stage: str | None, limit: str) -> None:
    """The worst of several pools counts, and is named if others differ."""
    assert seen.diagnosis.stage == stage
    assert limit in seen.diagnosis.limit


@pytest.mark.parametrize("factor", LimitingFactor)
def test_every_factor_has_words(factor: LimitingFactor) -> None:
    """A sentence that ends, whatever holds a pool back."""
    assert status(pools=pools({"limiting_factor": factor.value})).diagnosis.limit.endswith(".")


def _with_replicas(*replicas: object) -> Status:
    return status(pools=pools({"replicas": list(replicas)}))


def _dying(dead: float) -> Status:
    return status(rates=msgspec.structs.replace(NO_RATES, published=10.0, dead_lettered=dead))


@pytest.mark.parametrize(
    ("seen", "health", "says"),
    [
        (status(read=11), Health.WRONG, "not accounted for"),
        (status(pools=pools({"stopped": "http://one: no such model"})), Health.WRONG, "no such model"),
        (_with_replicas(DOWN), Health.WRONG, "No replica of agent/A answers: two"),
        (_with_replicas(REPLICA, DOWN), Health.LOOK, "1 of 2 replicas of agent/A does not answer: two"),
        (_with_replicas(REPLICA, *[DOWN] * 5), Health.LOOK, "5 of 6 replicas of agent/A do not answer: two, two, two and 2 more"),
        (_with_replicas(msgspec.structs.replace(REPLICA, stale=True)), Health.LOOK, "metrics of one are old"),
        (status(pools=pools({"limiting_factor": "sink_blocked"})), Health.WRONG, "wait to be published"),
        (status(pools=pools({"limiting_factor": "retry_budget"})), Health.LOOK, "retries wait"),
        (status(stopped_partitions={"source=x/shard=0": "a segment is gone"}), Health.WRONG, "a segment is gone"),
        (status(listed_seconds_ago=3600.0), Health.LOOK, "last listed 60 minutes ago"),
        (_dying(2.0), Health.LOOK, "20% of the records of the last minute are dead letters, most for malformed_reply"),
        (status(reload_refused="sink.uri: only a pool's replicas"), Health.LOOK, "reload was refused: sink.uri"),
        (status(loop_lag_seconds=2.5), Health.LOOK, "2.5 s late"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_told_with_what_to_do(seen: Status, health: Health, says: str) -> None:
    """One thing, its gravity, a sentence about it, and one about the remedy."""
    (advice,) = seen.diagnosis.advice
    assert (advice.health, seen.diagnosis.health) == (health, health)
    assert says in advice.says
    assert advice.do.endswith(".")


@pytest.mark.parametrize(
    "seen",
    [
        _with_replicas(REPLICA, LEAVING),
        _with_replicas(REPLICA, msgspec.structs.replace(DOWN, breaker="half_open")),
        status(state="draining", pools=pools({"replicas": [DOWN], "limiting_factor": "draining"})),
        _dying(0.01),
        status(listed_seconds_ago=None),
    ],
)
def test_what_is_meant_is_no_alarm(seen: Status) -> None:
    """One that leaves, one that waits for a record, an end that was asked for, a rare dead letter."""
    assert seen.diagnosis.health is Health.WELL


def test_the_worst_comes_first() -> None:
    """And the number of things is told."""
    seen = status(read=11, loop_lag_seconds=9.0, reload_refused="x", pools=[POOL]).diagnosis
    assert [one.health for one in seen.advice] == [Health.WRONG, Health.LOOK, Health.LOOK]
    assert status(loop_lag_seconds=9.0, reload_refused="x").diagnosis.says == "2 things to look at."


def test_every_section_of_the_runbook_that_is_named_exists() -> None:
    """A person finds what the status tells to read."""
    code = Path(diagnosis.__file__).read_text("utf-8")
    named = set(re.findall(r'runbook="([^"]+)"', code))
    sections = re.findall(r"^### (.+)$", (ROOT / "ops" / "runbook.md").read_text("utf-8"), re.MULTILINE)
    assert named
    assert named <= set(sections)
