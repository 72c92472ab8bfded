"""The world under the daemon: listings that lie, credentials that expire, descriptors that run out, ledgers that rot."""

import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.harness import CLI, NOWHERE, RUN_SECONDS, Lab, conversation, until
from tests.e2e.overwriting import EAGER, RECORDS, big
from tests.e2e.simulators import Simulator
from tests.fakes.listing_server import BUCKET, PREFIX, VirtualLake, serving
from tests.fakes.s3_server import CREDENTIALS

PAGES = 230
"""Objects: three pages of a listing."""


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up ones in the environment, which the daemon inherits."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def configure(lab: Lab, address: str, urls: list[str], **source: float) -> None:
    """The source is the bucket at `address`; the sink stays a folder."""
    lab.configure(
        urls,
        admission=EAGER,
        source={"uri": f"s3://{BUCKET}/{PREFIX.rstrip('/')}"} | source,
        **{"source.store": {"endpoint": address, "region": "us-east-1", "allow_http": True}},
        log={"level": "info"},
    )


@pytest.mark.usefixtures("credentials")
def test_keys_that_come_twice_late_and_out_of_order(tmp_path: Path) -> None:
    """Pages in any order that repeat keys, keys before all others that come late, all of one second: each once."""
    lab, lake = Lab(tmp_path), VirtualLake(PAGES, page=100)
    lake.shuffled = True
    with serving(lake) as address, Simulator(tmp_path / "requests.log").start() as sim:
        configure(lab, address, [sim.url], list_seconds=0.2, full_list_seconds=3600)
        with running(lab) as daemon:
            daemon.until_scored(PAGES)
            for scored, key in enumerate(("aa/late.jsonl", f"claude_cli/part-{7:08d}-b.jsonl"), PAGES + 1):
                lake.extra.append(key)
                daemon.until_scored(scored)
            assert daemon.terminate() == 0
        lab.audit()
        assert len({row["record_id"] for row in lab.rows()}) == len(lab.rows()) == PAGES + 2
        assert len(sim.requests()) == PAGES + 2


def test_a_ledger_that_rots_or_is_deleted(tmp_path: Path) -> None:
    """A changed byte is found at the start and said with what to do; after that progress comes from the sink, and
    nothing that was published is asked for again."""
    lab = Lab(tmp_path)
    for number in range(12):
        records = (conversation(f"Task {number} of {line}.") for line in range(10))
        lab.land(f"claude_cli/{number}.jsonl", b"".join(records))
    ledger = tmp_path / "ledger" / "ledger.sqlite"
    with Simulator(tmp_path / "requests.log").start() as sim:
        lab.configure([sim.url], sink={"roll_records": 20, "roll_seconds": 60})
        assert lab.run_once(extra={"MIRA_STREAM_FAILPOINT": "advance.before"}).code == -signal.SIGKILL
        assert lab.command("check", "--offline").code == 0  # folds the log into the file
        published, asked = len(lab.rows()), len(sim.requests())
        assert published
        data = bytearray(ledger.read_bytes())
        data[len(data) // 2] ^= 1
        ledger.write_bytes(data)
        refused = lab.run_once()
        assert refused.code == 2
        assert "is corrupt" in refused.stderr
        assert "rebuilt from the sink" in refused.stderr
        for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
            ledger.with_name(name).unlink(missing_ok=True)
        assert len(lab.scored()) == 120
        assert len(sim.requests()) <= asked + 120 - published


def test_an_object_deleted_while_it_is_read(tmp_path: Path) -> None:
    """A local file stays readable to its end; its bucket's twin does not, and ends with a dead letter. Once each."""
    lab = Lab(tmp_path)
    lab.land("known/big.jsonl", big("first"))
    with Simulator(tmp_path / "requests.log") as sim:
        lab.configure([sim.future_url], admission=EAGER, log={"level": "info"})
        with running(lab, "--once") as daemon:
            daemon.until_read_ahead_is_full()
            (lab.lake / "known/big.jsonl").unlink()
            sim.start()
            assert daemon.wait() == 0
        assert [row["outcome"] for row in lab.rows()] == ["scored"] * RECORDS
        # One more than records: a replica that was away has to answer the canned record before it is trusted.
        assert len(sim.requests()) == RECORDS + 1


@pytest.mark.usefixtures("credentials")
def test_an_object_of_a_bucket_deleted_while_it_is_read(tmp_path: Path) -> None:
    """What was read of it is scored; the dead letter behind it says why it ends there; a second run adds nothing."""
    lab, lake = Lab(tmp_path), VirtualLake(1, lines=RECORDS, padding=64 << 10)
    with serving(lake) as address, Simulator(tmp_path / "requests.log") as sim:
        configure(lab, address, [sim.future_url])
        with running(lab, "--once") as daemon:
            daemon.until_read_ahead_is_full()
            lake.objects = 0
            sim.start()
            assert daemon.wait() == 0
        ends = [row["reason"] or row["outcome"] for row in sorted(lab.rows(), key=lambda row: row["ordinal"])]
        assert ends == ["scored"] * (len(ends) - 1) + ["truncated"]
        assert len(sim.requests()) == len(ends)
        assert lab.run_once().code == 0
        assert len(lab.rows()) == len(ends)


@pytest.mark.usefixtures("credentials")
def test_credentials_that_expire_and_come_back(tmp_path: Path) -> None:
    """While the store says ExpiredToken the daemon waits, calmly and saying why; then it goes on where it was."""
    lab, lake = Lab(tmp_path), VirtualLake(20)
    with serving(lake) as address, Simulator(tmp_path / "requests.log").start() as sim:
        configure(lab, address, [sim.url], list_seconds=0.1)
        with running(lab) as daemon:
            daemon.until_scored(20)
            lake.expired, asked = True, dict(lake.asked)
            lake.objects = 40
            until(lambda: "ExpiredToken" in daemon.log.read_text("utf-8"), "it says that credentials expired")
            assert_calm(daemon)
            assert lake.asked["GET"] - asked["GET"] < 10
            lake.expired = False
            daemon.until_scored(40)
            assert daemon.terminate() == 0
        assert len(lab.audited()) == len(sim.requests()) == 40


def test_descriptors_that_run_out(tmp_path: Path) -> None:
    """With no descriptor left nothing is lost and nothing spins; with some again all is scored, once."""
    lab = Lab(tmp_path)
    with Simulator(tmp_path / "requests.log").start() as sim:
        lab.configure(
            [sim.url], log={"level": "info"}, admission={"breaker_seconds_min": 0.1, "breaker_seconds_max": 1}
        )
        lab.land("claude_cli/first.jsonl", conversation("The first."))
        with running(lab) as daemon:
            daemon.until_scored(1)
            with without_descriptors(daemon):
                for number in range(10):
                    lab.land(f"claude_cli/{number}.jsonl", conversation(f"Number {number}."))
                until(lambda: "Too many open files" in daemon.log.read_text("utf-8"), "it says what is short")
                assert_calm(daemon)
            daemon.until_scored(11)
            assert daemon.terminate() == 0
        assert len(lab.audited()) == 11


@pytest.mark.parametrize("limit", [12, 40])
def test_too_few_descriptors_to_start(tmp_path: Path, limit: int) -> None:
    """It ends with a sentence and an exit code, and not with a traceback."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", conversation("A task."))
    lab.configure([NOWHERE])
    command = ("prlimit", f"--nofile={limit}", *CLI, "run", "--once", "--config", str(lab.config))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr


@contextmanager
def without_descriptors(daemon: Daemon) -> Iterator[None]:
    """All that it has open stays open, nothing more can be opened."""
    pid = daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def assert_calm(daemon: Daemon, *, seconds: float = 1.0, share: float = 0.5) -> None:
    """It runs, and uses less than that share of a core for that time."""
    before, began = cpu_seconds(daemon), time.monotonic()
    until(lambda: daemon.ended or time.monotonic() - began >= seconds, "time goes by")
    assert not daemon.ended, daemon.log.read_text("utf-8")
    used = cpu_seconds(daemon) - before
    assert used < share * (time.monotonic() - began), f"{used:.2f} s of CPU: it spins"


def cpu_seconds(daemon: Daemon) -> float:
    """User + system so far."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text("utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(("status", "code"), [(403, "InvalidObjectState"), (500, "InternalError")])
def test_objects_that_cannot_be_read_hold_up_no_others(tmp_path: Path, status: int, code: str) -> None:
    """Archived, or failing for ever, and before all others, one read at a time. All others are scored, and the daemon
    says how many are left; it reads them once they can be."""
    lab, lake = Lab(tmp_path), VirtualLake(6)
    lake.broken = {0: (status, code)}
    with serving(lake) as address, Simulator(tmp_path / "requests.log").start() as sim:
        configure(lab, address, [sim.url], open_objects_max=1)
        with running(lab, "--once") as daemon:
            assert daemon.wait() == 0
        assert len(lab.rows()) == 5
        left = [event for event in daemon.events() if event["event"].startswith("objects could not be read")]
        assert [event["objects"] for event in left] == [1]
        lake.broken = {}
        assert len(lab.scored()) == 6
