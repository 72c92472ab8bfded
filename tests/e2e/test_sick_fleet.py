"""Replicas that hang or whose metrics stand still, and daemons that share replicas: every run ends, every record once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mira_stream.sim.settings import SimSettings
from tests.e2e.daemon import Daemon, running
from tests.e2e.harness import Lab, conversation
from tests.e2e.simulators import hosted

RECORDS = 60
QUICK = {
    "breaker_seconds_min": 0.1,
    "breaker_seconds_max": 0.2,
    "requests_max": 4,
    "scrape_seconds": 0.05,
    "scrape_seconds_min": 0.02,
}
IMPATIENT = {
    "decode_tokens_per_second": 10_000.0,
    "prefill_tokens_per_second": 1_000_000.0,
    "timeout_seconds_min": 1.5,
}


def lake(folder: Path) -> Lab:
    """A lake of records that differ."""
    lab = Lab(folder)
    lines = (conversation(f"Fix bug {number} of the service.") for number in range(RECORDS))
    lab.land("known/records.jsonl", b"".join(lines))
    return lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return lake(tmp_path)


class Replica(NamedTuple):
    """A replica of this process, and the log of its requests."""

    url: str
    log: Path

    @property
    def asked(self) -> int:
        """Generation requests that have ended there."""
        return len(self.log.read_bytes().splitlines())


@contextmanager
def fleet(folder: Path, *faults: str) -> Iterator[list[Replica]]:
    """Replicas with an engine, fifty times as fast, one for each fault; an empty one is none."""
    logs = [folder / f"{number}.log" for number in range(len(faults))]
    settings = [
        SimSettings(time_scale=0.02, faults=(fault,) if fault else (), request_log=str(log))
        for fault, log in zip(faults, logs, strict=True)
    ]
    with hosted(*settings) as urls:
        yield list(map(Replica, urls, logs))


def outcomes(lab: Lab) -> Counter[str]:
    """How the records ended, after a clean audit."""
    return Counter(row["outcome"] for row in lab.audited())


def events(daemon: Daemon, name: str) -> list[dict[str, object]]:
    """What the daemon logged under that name."""
    return [event for event in daemon.events() if event["event"] == name]


def test_requests_to_a_replica_that_hangs_time_out(lab: Lab) -> None:
    """A replica that stops answering for ever, though its metrics look well, loses its requests and then gets none."""
    with fleet(lab.folder, "", "hang@9-") as sims:
        lab.configure([sim.url for sim in sims], admission=QUICK | IMPATIENT, log={"level": "info"})
        with running(lab, "--once") as daemon:
            assert daemon.wait() == 0
        failed = events(daemon, "request failed")
    assert {event["fault"] for event in failed} == {"timeout"}
    assert {event["replica"] for event in failed} == {sims[1].url}
    # The breaker opens at the third failure; until then what times out makes room for others.
    assert 3 <= len(failed) <= QUICK["requests_max"] + 2
    assert outcomes(lab) == {"scored": RECORDS}


def test_what_hangs_at_the_end_is_asked_elsewhere(lab: Lab) -> None:
    """Long before requests to a replica that hangs would time out, the run ends: others are asked about its records."""
    with fleet(lab.folder, "", "hang@9-") as sims:
        lab.configure([sim.url for sim in sims], admission=QUICK, log={"level": "info"})
        with running(lab, "--once") as daemon:
            assert daemon.wait() == 0
        hedged = events(daemon, "record is asked about a second time")
        assert not events(daemon, "request failed")
    assert len(hedged) == QUICK["requests_max"]
    assert {(event["slow"], event["other"]) for event in hedged} == {(sims[1].url, sims[0].url)}
    rows = lab.audited()
    assert Counter(row["outcome"] for row in rows) == {"scored": RECORDS}
    assert sum(row["attempts"] == 2 for row in rows) == len(hedged)


def test_frozen_metrics_do_not_halt_a_run(lab: Lab) -> None:
    """Replicas whose metrics never change from the start are kept at work all the same."""
    with fleet(lab.folder, "frozen@0s-", "frozen@0s-") as sims:
        lab.configure([sim.url for sim in sims], admission=QUICK, log={"level": "info"})
        with running(lab, "--once") as daemon:
            assert daemon.wait() == 0
        answered = [sim.asked for sim in sims]
        assert not events(daemon, "request failed")
    assert min(answered) > RECORDS / 4
    assert sum(answered) == RECORDS
    assert outcomes(lab) == {"scored": RECORDS}


def test_two_daemons_share_replicas(tmp_path: Path) -> None:
    """Two daemons that know nothing of each other score their own lakes on the same replicas: both end, both clean."""
    labs = [lake(tmp_path / name) for name in ("one", "other")]
    with fleet(tmp_path, "", "") as sims, ExitStack() as stack:
        for lab in labs:
            lab.configure([sim.url for sim in sims], admission=QUICK, log={"level": "info"})
        daemons = [stack.enter_context(running(lab, "--once")) for lab in labs]
        assert [daemon.wait() for daemon in daemons] == [0, 0]
        asked = sum(sim.asked for sim in sims)
    assert [outcomes(lab) for lab in labs] == [{"scored": RECORDS}] * 2
    assert asked == 2 * RECORDS
