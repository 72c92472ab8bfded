"""One run of the daemon, a process of its own, against sixteen simulated replicas, healthy or five of them sick."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import msgspec
import zstandard

from bench.macro.admission.model import COSTS, Setting, records
from bench.macro.sim_host import Ready
from mira_stream.sim.request_log import RequestEntry
from mira_stream.sim.settings import SimSettings

SETTING = Setting()
"""Cost and KV of the replicas, and lengths of the records: those of the admission bench."""
SCALE = 0.1
"""Wall seconds per modelled second."""
REPLICAS = 16
SLOW, DYING, HANGING, FROZEN, RESTARTING = range(11, 16)
NAMES = {
    SLOW: "three_times_slower",
    DYING: "dying",
    HANGING: "hanging",
    FROZEN: "frozen_metrics",
    RESTARTING: "restarting",
}
OWN_PROCESS = (DYING, RESTARTING)
BEGIN, END = 100.0, 340.0
"""The steady span, in modelled seconds since the replicas were started."""
DIES, RETURNS = 130.0, 190.0
HANGS = 150.0
FREEZES, THAWS = 160.0, 280.0
ENDED, STARTED = 220.0, 250.0
RECORDS = 2_200
_BYTES_PER_TOKEN = 3
_TEMPLATE_TOKENS = 1_900
"""About what the prompt's own text takes; the rest is the record."""
_CLI = (sys.executable, "-c", "from mira_stream.cli import main; main()")
_RUN_SECONDS = 300.0
_CONFIG = """\
[source]
uri = "{lake}"
grow_settle_seconds = 0
[sink]
uri = "{root}/scores"
[ledger]
path = "{root}/ledger/ledger.sqlite3"
[http]
listen = "127.0.0.1:0"
[admission]
scrape_seconds = 0.05
scrape_seconds_min = 0.02
prefill_tokens_per_second = {prefill}
decode_tokens_per_second = {decode}
timeout_seconds_min = {timeout}
breaker_seconds_min = {breaker}
breaker_seconds_max = {breaker_max}
[[pool]]
group = "agent/A"
sources = ["*"]
replicas = {urls}
"""


class Span(NamedTuple):
    """Seconds since the epoch."""

    since: float
    until: float

    def overlap(self, other: "Span") -> float:
        return max(0.0, min(self.until, other.until) - max(self.since, other.since))


class Run(NamedTuple):
    """What one run left. By replica: the requests whose answers were of use, and when it was sick."""

    answered: list[list[RequestEntry]]
    sick: list[list[Span]]
    steady: Span
    audit: dict[str, Any]
    rows: int
    outcomes: dict[str, str]
    attempts: Counter[int]
    wasted: dict[str, int]
    faults: dict[str, int]
    cores: dict[str, float]
    seconds: float


def write_lake(folder: Path, seed: int) -> None:
    """Heavy-tailed records, as the admission bench has them."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(2_000)]
    text = " ".join(chance.choices(words, k=60_000))
    target = folder / "known"
    target.mkdir(parents=True)
    works = islice(records(Setting(seed=seed)), RECORDS)
    lines = [_line(number, one.prompt_tokens, text) for number, one in enumerate(works)]
    for number in range(8):
        data = b"".join(lines[number::8])
        packed = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)
        (target / f"part-{number}.jsonl.zst").write_bytes(packed)


def _line(number: int, prompt_tokens: int, text: str) -> bytes:
    size = max(300, (prompt_tokens - _TEMPLATE_TOKENS) * _BYTES_PER_TOKEN)
    start = number * 7_919 % 50_000
    work = f"{number} " + text[start : start + size]
    messages = [{"role": "user", "content": f"Do task {number}."}, {"role": "assistant", "content": work}]
    return json.dumps({"messages": messages}).encode() + b"\n"


def play(root: Path, *, sick: bool) -> Run:
    """Replicas, daemon and what happens to them, to the end of all records of `root`/lake."""
    home = root / ("sick" if sick else "healthy")
    home.mkdir()
    config, log = home / "mira.toml", home / "daemon.log"
    with ExitStack() as stack:
        fleet = Fleet(stack, home, sick=sick)
        config.write_text(_config(root / "lake", home, fleet.urls), "utf-8")
        stderr = stack.enter_context(log.open("wb"))
        daemon = stack.enter_context(_child([*_CLI, "run", "--once", "--config", str(config)], stderr=stderr))
        cores = _Cores({"daemon": daemon.pid, **fleet.pids()})
        fleet.live(cores)
        metrics = _until_ended(daemon, log)
        ended = time.time()
        assert daemon.returncode == 0, log.read_text("utf-8")[-2000:]
    audit = subprocess.run(
        [*_CLI, "verify", "--strict", "--json", "--config", str(config)], capture_output=True, check=False
    )
    rows = list(_rows(home / "scores"))
    answered, steady = _once_each(fleet.requests()), fleet.steady
    begun = sum(one.arrived < steady.until for entries in answered for one in entries)
    assert begun < RECORDS - 200, (
        f"{begun} of {RECORDS} were sent in the steady span: too few to keep it steady"
    )
    return Run(
        answered=answered,
        sick=fleet.sick_spans(ended),
        steady=steady,
        audit=json.loads(audit.stdout),
        rows=len(rows),
        outcomes={str(row["record_id"]): str(row["outcome"]) for row in rows},
        attempts=Counter(int(row["attempts"]) for row in rows),
        wasted=_by_label(metrics, "mira_stream_pool_wasted_tokens_total", "reason"),
        faults=_by_label(metrics, "mira_stream_replica_faults_total", "reason"),
        cores=cores.used,
        seconds=ended - fleet.began,
    )


def _config(lake: Path, home: Path, urls: list[str]) -> str:
    return _CONFIG.format(
        lake=lake,
        root=home,
        urls=json.dumps(urls),
        prefill=20_000 / SCALE,
        decode=3.0 / SCALE,
        timeout=120.0 * SCALE,
        breaker=1.0 * SCALE,
        breaker_max=30.0 * SCALE,
    )


@contextmanager
def _child(command: list[str], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Fleet:
    """The replicas: most of them in two processes, those that come and go each in one of its own."""

    def __init__(self, stack: ExitStack, home: Path, *, sick: bool) -> None:
        self._stack = stack
        self._home = home
        self._sick = sick
        self._hosts: dict[str, subprocess.Popen[str]] = {}
        self._came_back: dict[int, float] = {}
        self._began: dict[int, float] = {}
        shared = [number for number in range(REPLICAS) if number not in OWN_PROCESS]
        urls = self._host("sims_1", shared[::2]) | self._host("sims_2", shared[1::2])
        for number in OWN_PROCESS:
            urls |= self._host(NAMES[number], [number])
        self.urls = [urls[number] for number in range(REPLICAS)]
        self.began = min(self._began.values())
        self.steady = Span(self.began + BEGIN * SCALE, self.began + END * SCALE)

    def _host(self, name: str, numbers: list[int], port: int = 0) -> dict[int, str]:
        """Start a process with these replicas; their addresses, once they answer."""
        command = [sys.executable, "-m", "bench.macro.sim_host"]
        process = self._stack.enter_context(_child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert process.stdin is not None
        assert process.stdout is not None
        settings = [msgspec.structs.replace(self._settings(number), port=port) for number in numbers]
        process.stdin.write(msgspec.json.encode(settings).decode())
        process.stdin.close()
        ready = msgspec.json.decode(process.stdout.readline(), type=Ready)
        self._hosts[name] = process
        for number in numbers:
            self._began.setdefault(number, ready.began)
        return dict(zip(numbers, ready.urls, strict=True))

    def _settings(self, number: int) -> SimSettings:
        fixed, token, resident = COSTS["base"]
        slower = 3.0 if self._sick and number == SLOW else 1.0
        faults = {HANGING: f"hang@{HANGS}s-", FROZEN: f"frozen@{FREEZES}s-{THAWS}s"} if self._sick else {}
        return SimSettings(
            kv_capacity_tokens=SETTING.kv_tokens,
            step_seconds=fixed * slower,
            prefill_token_seconds=token * slower,
            decode_token_seconds=token * slower,
            resident_token_seconds=resident * slower,
            time_scale=SCALE,
            faults=(faults[number],) if number in faults else (),
            seed=number,
            request_log=str(self._log(number)),
        )

    def _log(self, number: int) -> Path:
        return self._home / f"requests-{number}.jsonl"

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._hosts.items()}

    def live(self, cores: "_Cores") -> None:
        """Let the time pass to the end of the steady span, and do to the replicas what is planned."""
        plan = [(BEGIN, cores.begin), (END, cores.end)]
        if self._sick:
            plan += [
                (DIES, lambda: self._end(DYING, kill=True)),
                (RETURNS, lambda: self._return(DYING)),
                (ENDED, lambda: self._end(RESTARTING, kill=False)),
                (STARTED, lambda: self._return(RESTARTING)),
            ]
        for moment, act in sorted(plan, key=lambda one: one[0]):
            time.sleep(max(0.0, self.began + moment * SCALE - time.time()))
            act()

    def _end(self, number: int, *, kill: bool) -> None:
        process = self._hosts[NAMES[number]]
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.wait(10)

    def _return(self, number: int) -> None:
        self._host(NAMES[number], [number], port=int(self.urls[number].rpartition(":")[2]))
        self._came_back[number] = time.time()

    def sick_spans(self, end: float) -> list[list[Span]]:
        """When each replica was sick."""
        if not self._sick:
            return [[] for _ in range(REPLICAS)]
        hanging, frozen = self._began[HANGING], self._began[FROZEN]
        spans = {
            SLOW: Span(self.began, end),
            DYING: Span(self.began + DIES * SCALE, self._came_back[DYING]),
            HANGING: Span(hanging + HANGS * SCALE, end),
            FROZEN: Span(frozen + FREEZES * SCALE, frozen + THAWS * SCALE),
            RESTARTING: Span(self.began + ENDED * SCALE, self._came_back[RESTARTING]),
        }
        return [[spans[number]] if number in spans else [] for number in range(REPLICAS)]

    def requests(self) -> list[list[RequestEntry]]:
        """All requests that ended, by replica, over all its lives."""
        decode = msgspec.json.Decoder(RequestEntry).decode
        logs = [self._log(number).read_bytes() for number in range(REPLICAS)]
        return [list(map(decode, log.splitlines())) for log in logs]


class _Cores:
    """CPU time over the steady span, by process."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before: dict[str, float] = {}
        self._at = 0.0
        self.used: dict[str, float] = {}

    def begin(self) -> None:
        self._before, self._at = {name: _cpu_seconds(pid) for name, pid in self._pids.items()}, time.time()

    def end(self) -> None:
        seconds = time.time() - self._at
        for name, pid in self._pids.items():
            used = _cpu_seconds(pid) - self._before[name]
            if used >= 0:  # one that was started anew is another process
                self.used[name] = round(used / seconds, 2)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _once_each(requests: list[list[RequestEntry]]) -> list[list[RequestEntry]]:
    """Answers by replica, the first one of each record: a second one is no more use."""
    seen: set[str] = set()
    every = [(number, one) for number, entries in enumerate(requests) for one in entries]
    answered: list[list[RequestEntry]] = [[] for _ in requests]
    for number, one in sorted(every, key=lambda pair: pair[1].arrived + pair[1].seconds):
        if one.status == 200 and one.outcome == "answered" and one.record_hash not in seen:
            seen.add(one.record_hash)
            answered[number].append(one)
    return answered


def _rows(scores: Path) -> Iterator[dict[str, Any]]:
    for segment in sorted(scores.glob("source=*/shard=*/*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(segment.read_bytes())
        yield from map(json.loads, data.splitlines())


def _until_ended(daemon: subprocess.Popen[str], log: Path) -> str:
    """The last page of metrics before the daemon ends."""
    lines = log.read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    url = next((event["url"] for event in events if event["event"] == "listening"), None)
    assert url is not None, "\n".join(lines[-20:])
    page, deadline = "", time.time() + _RUN_SECONDS
    while daemon.poll() is None:
        assert time.time() < deadline, f"the run did not end: see {log}"
        with suppress(OSError), urlopen(f"{url}/metrics", timeout=5) as answer:
            page = answer.read().decode()
        time.sleep(0.25)
    return page


def _by_label(page: str, name: str, label: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for line in page.splitlines():
        if line.startswith(name + "{"):
            labels, _, value = line.rpartition(" ")
            counts[labels.partition(f'{label}="')[2].partition('"')[0]] += int(float(value))
    return {name: count for name, count in counts.items() if count}
