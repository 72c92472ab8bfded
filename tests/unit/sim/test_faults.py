"""The grammar of planned faults and their decisions."""

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.sim.faults import Fault, FaultKind, FaultPlan, parse_fault


def hits(*rules: str, text: str = "", requests: int = 20, seed: int = 0) -> list[int]:
    """The numbers of the requests that a fault hits."""
    plan = FaultPlan(rules, seed=seed)
    return [number for number in range(1, requests + 1) if plan.decide(number, text) is not None]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("500@10-12", {"kind": FaultKind.STATUS, "status": 500, "first": 10, "last": 12}),
        ("503@3:2s", {"kind": FaultKind.STATUS, "status": 503, "first": 3, "last": 3, "seconds": 2.0}),
        ("400@all", {"kind": FaultKind.STATUS, "status": 400, "first": 1, "last": None}),
        ("hang@7-", {"kind": FaultKind.HANG, "first": 7, "last": None}),
        ("slow@5-9:3x", {"kind": FaultKind.SLOW, "first": 5, "last": 9, "factor": 3.0}),
        ("reset@text=poison:times=2", {"kind": FaultKind.RESET, "text": "poison", "times": 2}),
        ('lost@text="a:b c"', {"kind": FaultKind.LOST, "text": "a:b c"}),
        ("garbage@all:share=0.25", {"kind": FaultKind.GARBAGE, "share": 0.25}),
        ("crash@40", {"kind": FaultKind.CRASH, "first": 40, "last": 40}),
        ("kill@40", {"kind": FaultKind.KILL, "first": 40, "last": 40}),
        ("hang@10s-70.5s", {"kind": FaultKind.HANG, "since": 10.0, "until": 70.5}),
        ("500@10s-:share=0.5", {"kind": FaultKind.STATUS, "status": 500, "since": 10.0, "share": 0.5}),
        ("frozen@0s-60s", {"kind": FaultKind.FROZEN, "since": 0.0, "until": 60.0}),
    ],
)
def test_faults_are_read(rule: str, expected: dict[str, object]) -> None:
    """Each form of the grammar means what the reference says."""
    assert parse_fault(rule) == Fault(rule=rule, **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("500", "not KIND@WHERE"),
        ("", "not KIND@WHERE"),
        ("200@all", "400 to 599"),
        ("explode@all", "no fault 'explode'"),
        ("status@all", "no fault 'status'"),
        ("500@", "not all, N"),
        ("500@0", "counted from 1"),
        ("500@9-3", "counted from 1"),
        ("500@1-2-3", "not all, N"),
        ("500@text=", "needs some text"),
        ("500@all:often", "is not share"),
        ("500@all:share=2", "out of range"),
        ("500@all:times=0", "out of range"),
        ("500@all:0.5x", "out of range"),
        ("slow@all", "slow needs"),
        ("500@9s-3s", "ends after it begins"),
        ("500@9s", "not all, N"),
        ("500@9-12s", "not all, N"),
        ("frozen@all", "frozen needs a span"),
        ("frozen@1s-2s:3x", "frozen needs a span"),
    ],
)
def test_a_fault_that_cannot_be_read_says_why(rule: str, complaint: str) -> None:
    """The refusal quotes the fault, says what is wrong, and shows how to write one."""
    with pytest.raises(Refusal, match=complaint) as refusal:
        parse_fault(rule)
    assert repr(rule) in str(refusal.value)
    assert "500@10-12" in refusal.value.hint


def test_requests_are_hit_by_number() -> None:
    """Ranges include both ends; an open one has none."""
    assert hits("500@10-12") == [10, 11, 12]
    assert hits("500@18-") == [18, 19, 20]
    assert hits("500@1", "reset@20") == [1, 20]


def test_requests_are_hit_by_text_and_a_number_of_times() -> None:
    """`text=` looks into the prompt; `times` is spent after so many."""
    assert hits("500@text=poison", text="nothing") == []
    assert hits("500@text=poison:times=3", text="a poison pill") == [1, 2, 3]


def test_a_share_is_hit_alike_in_every_run() -> None:
    """A share of requests is chosen by seed and number, not by chance."""
    chosen = hits("500@all:share=0.1", requests=2_000)
    assert 130 < len(chosen) < 270
    assert chosen == hits("500@all:share=0.1", requests=2_000)
    assert chosen != hits("500@all:share=0.1", requests=2_000, seed=1)
    assert hits("500@all:share=0") == []


def test_the_first_of_several_faults_acts() -> None:
    """Faults are tried in the order in which they were given."""
    plan = FaultPlan(["503@1-2:times=1", "500@all"], seed=0)
    faults = [plan.decide(number, "") for number in (1, 2)]
    assert [fault.status if fault else None for fault in faults] == [503, 500]


def test_a_span_hits_what_arrives_in_it() -> None:
    """A span includes its beginning and not its end; an open one has none."""
    plan = FaultPlan(["500@10s-20s", "503@30s-"], seed=0)
    times = (0.0, 9.9, 10.0, 19.9, 20.0, 30.0, 1e9)
    faults = [plan.decide(number, "", now=now) for number, now in enumerate(times, 1)]
    assert [fault.status if fault else None for fault in faults] == [None, None, 500, 500, None, 503, 503]


def test_frozen_metrics_hit_no_request() -> None:
    """`frozen` is a matter of `/metrics` alone."""
    plan = FaultPlan(["frozen@10s-20s"], seed=0)
    assert [plan.frozen(now) for now in (9.9, 10.0, 19.9, 20.0)] == [False, True, True, False]
    assert plan.decide(1, "", now=15.0) is None
