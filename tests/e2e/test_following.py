"""A daemon that follows a lake: what it tells, how it drains, and what a sudden end costs."""

import signal
from pathlib import Path

import pytest

from tests.e2e.daemon import running, scrape
from tests.e2e.harness import Lab, conversation
from tests.e2e.simulators import Simulator

RECORDS = 40
NEVER = 1000.0


def records(name: str) -> bytes:
    """Lines that can be scored."""
    return b"".join(conversation(f"Fix {name} number {number}.") for number in range(RECORDS))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake of one object."""
    lab = Lab(tmp_path)
    lab.land("known/a.jsonl", records("a"))
    return lab


def test_what_a_daemon_tells_over_http(lab: Lab) -> None:
    """Health, readiness, status and metrics are there, and agree with each other once all is published."""
    with Simulator(lab.folder / "requests.log").start() as sim:
        lab.configure([sim.url], sink={"roll_seconds": 0.1}, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until_scored(RECORDS)
            assert daemon.get("/healthz") == (200, "ok\n")
            assert daemon.get("/readyz") == (200, "ready\n")
            assert daemon.get("/elsewhere")[0] == 404
            status, seen = daemon.status(), scrape(daemon)
            assert daemon.terminate() == 0
    assert status["state"] == "running"
    assert status["outcomes"] == {"scored": RECORDS, "dead_lettered": 0, "skipped": 0}
    assert status["read"] == status["rows"] == RECORDS
    assert set(status["in_pipeline"].values()) == {0}
    [pool] = status["pools"]
    [replica] = pool["replicas"]
    assert (pool["group"], pool["limiting_factor"], pool["stopped"]) == ("agent/A", "source_starved", None)
    assert (replica["name"], replica["breaker"], replica["answers"]) == (sim.url, "closed", RECORDS)
    assert replica["reserved_tokens"] == 0 < replica["reserved_tokens_limit"]
    assert seen.read == seen.accounted == RECORDS
    assert seen.sum("mira_stream_records_ended_total", outcome="scored", reason="none") == RECORDS
    assert seen.sum("mira_stream_sink_rows_total") == RECORDS
    assert seen.sum("mira_stream_replica_answers_total", replica=sim.url) == RECORDS
    [ended] = [event for event in daemon.events() if event["event"] == "ended"]
    assert (ended["read"], ended["scored"], ended["in_pipeline"]) == (RECORDS, RECORDS, 0)


def test_what_lands_is_scored_within_seconds(lab: Lab) -> None:
    """New objects, a file that grows, and one that is renamed into place: each line is scored soon, and once."""
    with Simulator(lab.folder / "requests.log").start() as sim:
        lab.configure([sim.url], sink={"roll_seconds": 0.1}, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until_scored(RECORDS)
            lab.land("other/deep/down/b.jsonl", conversation("One more."))
            daemon.until_scored(RECORDS + 1)
            with (lab.lake / "known" / "a.jsonl").open("ab") as file:
                file.write(conversation("Appended."))
            daemon.until_scored(RECORDS + 2)
            (lab.lake / "known" / "c.part").write_bytes(conversation("Renamed."))
            (lab.lake / "known" / "c.part").rename(lab.lake / "known" / "c.jsonl")
            daemon.until_scored(RECORDS + 3)
            assert daemon.terminate() == 0
        assert len(sim.requests()) == RECORDS + 3
    assert len(lab.audited()) == RECORDS + 3


def test_sigterm_lets_requests_in_flight_end(lab: Lab) -> None:
    """A signal in the midst of work: exit 0, all answers published, none asked for twice; the next start does the rest."""
    with Simulator(lab.folder / "requests.log", "--fault", "slow@all:0.25s").start() as sim:
        lab.configure([sim.url], admission={"requests_max": 10}, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until(lambda status: status["in_pipeline"]["in_flight"] == 10, "requests are in flight")
            assert daemon.terminate() == 0
        asked = len(sim.requests())
        assert 10 <= asked < RECORDS
        assert len(lab.rows()) == asked
        assert {request["outcome"] for request in sim.requests()} == {"answered"}
        assert len(lab.scored()) == len(sim.requests()) == RECORDS


def test_a_second_signal_gives_up_what_is_in_flight(lab: Lab) -> None:
    """Where replicas hang, a second signal ends the daemon at once, with exit 0 and nothing lost."""
    with Simulator(lab.folder / "requests.log", "--fault", "hang@1-20").start() as sim:
        lab.configure([sim.url], admission={"requests_max": 20}, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until(lambda status: status["in_pipeline"]["in_flight"] == 20, "requests hang")
            daemon.process.send_signal(signal.SIGTERM)
            daemon.until(lambda status: status["state"] == "draining", "it drains")
            assert daemon.terminate() == 0
        assert lab.rows() == []
        assert len(lab.scored()) == RECORDS


def test_answers_received_survive_a_kill(lab: Lab) -> None:
    """After `kill -9` with all answers in the ledger and none published, the next start publishes without asking."""
    with Simulator(lab.folder / "requests.log").start() as sim:
        lab.configure([sim.url], sink={"roll_seconds": NEVER}, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until(lambda status: status["in_pipeline"]["received"] == RECORDS, "all is received")
            daemon.process.kill()
            daemon.wait()
        assert lab.rows() == []
        assert len(lab.scored()) == RECORDS
        assert len(sim.requests()) == RECORDS
