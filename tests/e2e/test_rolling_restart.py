"""All replicas are restarted one after the other while a daemon works: no record is lost, doubled or blamed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.harness import Lab, Row, conversation
from tests.e2e.simulators import Simulator

RECORDS = 240
REPLICAS = 3
ADMISSION = {
    "breaker_seconds_min": 0.1,
    "breaker_seconds_max": 0.2,
    "requests_max": 4,
    "scrape_seconds": 0.05,
    "scrape_seconds_min": 0.02,
}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake with work for some seconds."""
    lab = Lab(tmp_path)
    for part in range(4):
        lines = (conversation(f"Fix bug {part} of service {number}.") for number in range(RECORDS // 4))
        lab.land(f"known/{part}.jsonl", b"".join(lines))
    return lab


@contextmanager
def fleet(lab: Lab, *, shutdown_seconds: float) -> Iterator[list[Simulator]]:
    """Replicas whose engine is modelled, fifty times as fast; they give requests in flight so long when they end."""
    flags = ("--set", "time_scale=0.02", "--set", f"shutdown_timeout_seconds={shutdown_seconds}")
    with ExitStack() as stack:
        made = [Simulator(lab.folder / f"{number}.log", *flags) for number in range(REPLICAS)]
        yield [stack.enter_context(one).start() for one in made]


def restart_all(daemon: Daemon, sims: list[Simulator]) -> None:
    """SIGTERM and a new process at the same address, the next one as soon as the last one is at work again."""
    for number, sim in enumerate(sims):
        sim.until_asked(len(sim.requests()) + 4)
        sim.terminate()
        sim.start()
        daemon.until(lambda now, at=number: breaker(now, at) == "closed", "the replica is at work again")


def breaker(status: Row, number: int) -> str:
    """How the daemon sees one replica."""
    return str(status["pools"][0]["replicas"][number]["breaker"])


def answers(sims: list[Simulator]) -> Counter[str]:
    """How often each record text was answered."""
    return Counter(
        one["record_hash"] for sim in sims for one in sim.requests() if one["outcome"] == "answered"
    )


def faults(daemon: Daemon) -> Counter[str]:
    """What requests failed of."""
    return Counter(event["fault"] for event in daemon.events() if event["event"] == "request failed")


def test_replicas_that_let_requests_end_cost_no_work(lab: Lab) -> None:
    """Where a server that ends lets its requests end, a rolling restart repeats nothing: each record is answered once."""
    with fleet(lab, shutdown_seconds=10) as sims:
        lab.configure([sim.url for sim in sims], admission=ADMISSION, log={"level": "info"})
        with running(lab, "--once") as daemon:
            restart_all(daemon, sims)
            assert daemon.wait() == 0
        seen, answered = faults(daemon), answers(sims)
    rows = lab.audited()
    assert Counter(row["outcome"] for row in rows) == {"scored": RECORDS}
    assert set(seen) <= {"absent", "dropped"}
    repeated = {text for text, times in answered.items() if times > 1}
    assert (
        len(repeated) <= 1
    )  # the canned record, which each replica is asked about before it is trusted again
    assert len(answered) == RECORDS + 1


def test_replicas_that_drop_their_requests_cost_no_record(lab: Lab) -> None:
    """Where it fails them, as vLLM does unless told otherwise, they are asked again elsewhere, and nobody is blamed."""
    with fleet(lab, shutdown_seconds=0) as sims:
        lab.configure([sim.url for sim in sims], admission=ADMISSION, log={"level": "info"})
        with running(lab, "--once") as daemon:
            restart_all(daemon, sims)
            assert daemon.wait() == 0
        seen = faults(daemon)
    rows = lab.audited()
    assert Counter(row["outcome"] for row in rows) == {"scored": RECORDS}
    assert seen["crash"] > 0
    assert set(seen) <= {"absent", "dropped", "crash"}
    again = [row for row in rows if row["attempts"] > 1]
    assert 0 < len(again) <= sum(seen.values())
