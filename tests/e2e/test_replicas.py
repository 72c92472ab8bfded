"""Replicas in trouble, of every kind that fleets have: no record is lost or blamed for it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path

import pytest

from mira_stream.sim.settings import SimSettings
from tests.e2e.daemon import running, scrape
from tests.e2e.harness import Lab, Row, conversation, replicas, until
from tests.e2e.simulators import Simulator, supervised

RECORDS = 60
QUICK = {
    "breaker_seconds_min": 0.1,
    "breaker_seconds_max": 0.2,
    "decode_tokens_per_second": 10_000.0,
    "scrape_seconds": 0.05,
    "timeout_seconds_min": 0.5,
}
"""Admission that does not wait for a human's sake."""
BAD_REPLIES = {"malformed_reply", "cut_reply"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake of records that differ."""
    lab = Lab(tmp_path)
    for part in range(4):
        lines = (conversation(f"Fix bug {part} of service {number}.") for number in range(RECORDS // 4))
        lab.land(f"known/{part}.jsonl", b"".join(lines))
    return lab


@contextmanager
def simulators(lab: Lab, *arguments: tuple[str, ...]) -> Iterator[list[Simulator]]:
    """A started simulator for each tuple of arguments."""
    with ExitStack() as stack:
        made = [Simulator(lab.folder / f"{number}.log", *each) for number, each in enumerate(arguments)]
        yield [stack.enter_context(one).start() for one in made]


def events(stderr: str) -> list[Row]:
    """What the daemon logged."""
    return [json.loads(line) for line in stderr.splitlines() if line[:1] == "{"]


def ends(rows: list[Row]) -> Counter[str]:
    """How many records ended how."""
    return Counter(row["reason"] or row["outcome"] for row in rows)


def test_unfit_replicas_are_shut_out_and_the_others_work(lab: Lab) -> None:
    """A replica with another model or a shorter context gets no record, and run and check say what it has."""
    with simulators(lab, (), ("--model", "somebody/else"), ("--set", "max_model_len=4096")) as sims:
        fit, other, short = sims
        lab.configure([sim.url for sim in sims])
        run = lab.run_once()
        assert run.code == 0, run
        assert {row["replica"] for row in lab.audited()} == {fit.url}
        assert [len(sim.requests()) for sim in sims] == [RECORDS, 0, 0]
        check = lab.command("check")
    assert check.code == 1, check
    problems = {event["replica"]: event["problem"] for event in events(run.stderr)}
    assert "somebody/else, not whw06/MIRA-Agent-Group1" in problems[other.url]
    assert "max_model_len is 4096, the pool needs 65536" in problems[short.url]
    verdicts = dict(re.findall(r"^(?:ok|failed) +replica (\S+): (.*)$", check.stdout, re.MULTILINE))
    assert verdicts[other.url] == problems[other.url]
    assert verdicts[short.url] == problems[short.url]
    assert "scored the canned record" in verdicts[fit.url]


def test_wrong_sampling_settings_stop_the_pool_and_lose_nothing(lab: Lab) -> None:
    """Every request a 400: no dead letter, the daemon says so everywhere and exits 1; put right, it scores all."""
    with replicas("--fault", "400@all") as urls:
        lab.configure(urls, log={"level": "info"})
        once = lab.run_once()
        assert once.code == 1, once
        stopped = [event for event in events(once.stderr) if event["level"] == "error"]
        assert len(stopped) == 1
        assert stopped[0]["event"].startswith("pool stopped")
        assert "400" in stopped[0]["error"]
        assert "mira-stream check" in stopped[0]["hint"]
        with running(lab) as daemon:
            name = "mira_stream_pool_stopped"
            until(lambda: scrape(daemon).sum(name, group="agent/A") == 1, "the pool is stopped")
            assert "400" in daemon.status()["pools"][0]["stopped"]
            seen = scrape(daemon)
            assert seen.read == seen.accounted > 0
            assert daemon.terminate() == 1
        assert lab.rows() == []
    with replicas(count=1) as urls:
        lab.configure(urls)
        assert ends(lab.scored()) == {"scored": RECORDS}


def test_every_kind_of_trouble_is_survived(lab: Lab) -> None:
    """Errors, resets, nonsense, hangs, lost answers and full queues cost attempts, but no record and no dead letter."""
    one = ("500@2-3", "reset@5", "garbage@7", "lost@9", "503@11:1s", "hang@13")
    two = ("hang@2", "slow@4:1s", "lost@5", "429@6:1s", "502@8", "garbage@9", "reset@10")
    flags = [tuple(part for fault in each for part in ("--fault", fault)) for each in (one, two)]
    with simulators(lab, *flags) as sims:
        lab.configure([sim.url for sim in sims], admission=QUICK)
        run = lab.run_once()
        requests = [request for sim in sims for request in sim.requests()]
    assert run.code == 0, run
    rows = lab.audited()
    assert ends(rows) == {"scored": RECORDS}
    assert {request["fault"] for request in requests} - {None} == set(one + two)
    kinds = {event["fault"] for event in events(run.stderr) if event["event"] == "request failed"}
    assert kinds == {"crash", "dropped", "timeout", "protocol", "saturation"}
    assert max(row["attempts"] for row in rows) > 1


def test_a_replica_goes_and_comes_back(lab: Lab) -> None:
    """The only replica is killed and started again, then ended and started again: every record is scored."""
    with simulators(lab, ("--fault", "slow@all:0.15s")) as (sim,):
        lab.configure([sim.url], admission=QUICK | {"requests_max": 8}, log={"level": "info"})
        with running(lab, "--once") as daemon:
            for end, asked in ((sim.kill, RECORDS // 6), (sim.terminate, RECORDS // 2)):
                sim.until_asked(asked)
                end()
                daemon.until(lambda now: now["pools"][0]["replicas"][0]["breaker"] == "open", "it is missed")
                sim.start()
            assert daemon.wait() == 0
    rows = lab.audited()
    assert ends(rows) == {"scored": RECORDS}
    assert max(row["attempts"] for row in rows) > 1


def test_long_records_alone_do_not_keep_a_late_replica_waiting(tmp_path: Path) -> None:
    """Records near the context wait for an exact count: the replica that comes late is asked, though none was sent yet."""
    lab = Lab(tmp_path)
    noise = "".join(blake2b(b"%d" % part).hexdigest() for part in range(512))
    lab.land("known/long.jsonl", b"".join(conversation(f"{number} {noise}") for number in range(8)))
    with Simulator(tmp_path / "requests.log") as sim:
        lab.configure([sim.future_url], admission=QUICK, log={"level": "info"})
        with running(lab, "--once") as daemon:
            daemon.until(
                lambda status: status["in_pipeline"]["preparing"] == 8, "all of them wait for a count"
            )
            assert daemon.status()["in_pipeline"]["window"] == 0
            sim.start()
            assert daemon.wait() == 0
    assert ends(lab.audited()) == {"scored": 8}


def test_poison_is_found_and_only_poison(lab: Lab) -> None:
    """A record that crashes whoever gets it is a dead letter in the end; all others, though they fell with it, score."""
    lab.land("known/poison.jsonl", conversation("Please crash: poison pill"))
    with supervised(SimSettings(time_scale=0, faults=('crash@text="poison pill"',))) as urls:
        lab.configure(urls, admission=QUICK)
        rows = lab.scored()
    assert ends(rows) == {"scored": RECORDS, "poison": 1}
    assert [Path(row["object"]).name for row in rows if row["reason"] == "poison"] == ["poison.jsonl"]


def test_damaged_replies_are_asked_again_and_then_kept(lab: Lab) -> None:
    """A reply without its scores is asked again, twice at most; then the record ends with what the model said."""
    with simulators(lab, ("--damage-share", "1")) as (sim,):
        lab.configure([sim.url])
        rows = lab.scored()
        requests = sim.requests()
    dead = [row for row in rows if row["outcome"] == "dead_lettered"]
    assert 0 < len(dead) < RECORDS / 4
    assert {row["reason"] for row in dead} <= BAD_REPLIES
    assert {row["attempts"] for row in dead} == {3}
    assert all(isinstance(row["reply"], str) and row["missing"] for row in dead)
    assert any("/10" in row["reply"] for row in dead)
    scored = [row for row in rows if row["outcome"] == "scored"]
    assert {row["attempts"] for row in scored} == {1, 2, 3}
    assert sum(row["attempts"] for row in rows) == len(requests)
