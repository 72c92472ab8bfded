"""What a reload may change, and what it refuses."""

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import Config, parse_config
from mira_stream.daemon.reload import wanted_replicas
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

FRAME = """
[source]
uri = "/lake"
[sink]
uri = "/scores"
{more}
{pools}
"""


def config(pools: dict[str, list[str]], more: str = "") -> Config:
    sections = (
        f'[[pool]]\ngroup = "{group}"\nsources = ["{group}"]\nreplicas = {urls}'
        for group, urls in pools.items()
    )
    return parse_config(FRAME.format(more=more, pools="\n".join(sections)).replace("'", '"'), "test")


OLD = config({"agent/A": ["http://one:8000", "http://two:8000"], "agent/B": ["http://three:8000"]})


def test_replicas_may_come_go_and_move() -> None:
    """By name, however the address is spelt."""
    new = config({"agent/A": ["http://one:8000/v1", "http://three:8000"], "agent/B": ["http://four:8000"]})
    assert wanted_replicas(OLD, new) == {
        "agent/A": {"http://one:8000": "http://one:8000/v1", "http://three:8000": "http://three:8000"},
        "agent/B": {"http://four:8000": "http://four:8000"},
    }


def test_the_order_of_pools_means_nothing() -> None:
    """They are told apart by their groups."""
    new = config({"agent/B": ["http://three:8000"], "agent/A": ["http://two:8000", "http://one:8000"]})
    assert set(wanted_replicas(OLD, new)["agent/A"]) == {"http://one:8000", "http://two:8000"}


@pytest.mark.parametrize(
    ("new", "names"),
    [
        (config({"agent/A": ["http://one:8000"]}), "pool.agent/B"),
        (
            config({"agent/A": ["http://one:8000"], "agent/C": ["http://three:8000"]}),
            "pool.agent/B, pool.agent/C",
        ),
        (
            config(
                {"agent/A": ["http://one:8000"], "agent/B": ["http://three:8000"]},
                "[admission]\nrequests_max = 7\n[request]\ntemperature = 0.5",
            ),
            "admission.requests_max, request.temperature",
        ),
    ],
)
def test_anything_else_is_refused_by_its_name(new: Config, names: str) -> None:
    """As a whole: no half of a configuration is taken over."""
    with pytest.raises(Refusal) as refused:
        wanted_replicas(OLD, new)
    assert str(refused.value).startswith(f"{names}: ")
    assert "restart" in refused.value.hint


def test_series_of_a_replica_that_has_left_are_dropped() -> None:
    """A dashboard must not show ghosts."""
    meters = Meters()
    for name in ("one", "two"):
        meters.add(metrics.REPLICA_ANSWERS, 1, (name,))
        meters.observe(metrics.REPLICA_LATENCY_SECONDS, 1.0, (name,))
        meters.add(metrics.REPLICA_FAULTS, 1, (name, "reset"))
    meters.add(metrics.CONFIG_RELOADS, 1, ("done",))
    meters.forget("replica", "one")
    assert list(meters.values[metrics.REPLICA_ANSWERS]) == [("two",)]
    assert list(meters.histograms[metrics.REPLICA_LATENCY_SECONDS]) == [("two",)]
    assert list(meters.values[metrics.REPLICA_FAULTS]) == [("two", "reset")]
    assert meters.value(metrics.CONFIG_RELOADS, ("done",)) == 1
