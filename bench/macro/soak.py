"""A long life in compressed time: a million small records of 100,000 objects, segments that roll, replicas that restart.

`python -m bench.macro.soak --records 20000` is a short one; without options the whole, as `make soak` runs it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from statistics import fmean, median

import msgspec
import zstandard

from bench.macro.instant_replica import instant_replica
from bench.macro.long_run import Observed, observed

_CONFIG = """\
[source]
uri = "{root}/lake"
grow_settle_seconds = 0
list_seconds = 5
[sink]
uri = "{root}/scores"
roll_records = 2000
roll_seconds = 10
shards = 2
[ledger]
path = "{root}/ledger/ledger.sqlite3"
[http]
listen = "127.0.0.1:0"
[admission]
breaker_seconds_min = 0.1
breaker_seconds_max = 1.0
[[pool]]
group = "agent/A"
sources = ["*"]
replicas = {replicas}
"""
_REPLICAS = 3
_SOURCES = 10
_OBJECTS_OF_WAVE = 1000
_WAVES_AHEAD = 3
_LOOK_SECONDS = 2.0
_RESTART_SECONDS = 20.0
_DOWN_SECONDS = 1.0
_SILENCE_SECONDS = 120.0


class Sample(msgspec.Struct, frozen=True):
    """The daemon at one moment: records ended, resident MB, open descriptors, MB of the ledger and of its log."""

    ended: int
    rss_mb: float
    descriptors: int
    ledger_mb: float
    wal_mb: float


def measure(*, records: int = 1_000_000, objects: int = 100_000) -> dict[str, object]:
    """One daemon that follows a folder from its first object to its last; then `verify --strict`."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        replicas = _Replicas(stack)
        (root / "lake").mkdir()
        config = root / "mira.toml"
        config.write_text(_CONFIG.format(root=root, replicas=json.dumps(replicas.urls)), "utf-8")
        with observed(config) as daemon:
            samples = list(_life(daemon, root, replicas, _Lake(root, records, objects)))
            seconds, cpu = daemon.age, daemon.cpu_seconds()
            daemon.process.terminate()
            code = daemon.process.wait(60)
        audit = _audited(config)
    return {
        "records": records,
        "objects": objects,
        "seconds": round(seconds),
        "cpu_us_per_record": round(cpu / records * 1e6),
        "replica_restarts": replicas.restarts,
        "exit_code": code,
        "segments": audit["segments"],
        "lost_or_doubled": sum(audit["found"].values()),
        "pending": audit["pending"],
        **_summary(samples),
    }


class _Lake:
    """Lands objects in waves, so that there is always a little more than is read."""

    def __init__(self, root: Path, records: int, objects: int) -> None:
        self.records = records
        self.landed = 0
        self._root = root
        self._lines = records // objects
        self._waves = iter(range(0, objects, _OBJECTS_OF_WAVE))
        self._objects = objects

    def keep_ahead(self, ended: int) -> None:
        """Land waves until enough of them are not scored yet."""
        while (
            self.landed < self.records and self.landed - ended < _WAVES_AHEAD * _OBJECTS_OF_WAVE * self._lines
        ):
            self._land(next(self._waves))

    def _land(self, first: int) -> None:
        wave = self._root / "landing"
        wave.mkdir()
        for number in range(first, min(self._objects, first + _OBJECTS_OF_WAVE)):
            data = b"".join(_record(number, line) for line in range(self._lines))
            if number % 2:
                (wave / f"part-{number:06d}.jsonl").write_bytes(data)
            else:
                (wave / f"part-{number:06d}.jsonl.zst").write_bytes(zstandard.compress(data, 1))
            self.landed += self._lines
        number = first // _OBJECTS_OF_WAVE
        source = self._root / "lake" / f"source-{number % _SOURCES}"
        source.mkdir(exist_ok=True)
        wave.rename(source / f"wave-{number:06d}")


def _record(number: int, line: int) -> bytes:
    messages = [
        {"role": "user", "content": f"Rename module {line} of service {number} and run its tests."},
        {"role": "assistant", "content": f"Renamed it in {1 + number % 7} files; all {line + 3} tests pass."},
    ]
    return json.dumps({"messages": messages}).encode() + b"\n"


class _Replicas:
    """Instant ones, which die and come back at the same address, in turn."""

    def __init__(self, stack: ExitStack) -> None:
        self._lives = [stack.enter_context(ExitStack()) for _ in range(_REPLICAS)]
        self.urls = [life.enter_context(instant_replica()) for life in self._lives]
        self.restarts = 0
        self._turn = cycle(range(_REPLICAS))
        self._next_at = time.monotonic() + _RESTART_SECONDS

    def restart_if_due(self) -> None:
        """One at a time is away for a second."""
        if time.monotonic() < self._next_at:
            return
        number = next(self._turn)
        self._lives[number].close()
        time.sleep(_DOWN_SECONDS)
        port = int(self.urls[number].rpartition(":")[2])
        self._lives[number].enter_context(instant_replica(port=port))
        self.restarts += 1
        self._next_at = time.monotonic() + _RESTART_SECONDS


def _life(daemon: Observed, root: Path, replicas: _Replicas, lake: _Lake) -> Iterator[Sample]:
    """Samples until all records have ended."""
    ended, moved_at = 0, time.monotonic()
    while ended < lake.records:
        lake.keep_ahead(ended)
        replicas.restart_if_due()
        time.sleep(_LOOK_SECONDS)
        status = daemon.status()
        if not status:
            continue
        now = sum(status["outcomes"].values())
        if now > ended:
            ended, moved_at = now, time.monotonic()
        assert time.monotonic() - moved_at < _SILENCE_SECONDS, f"nothing ends any more: {status}"
        ledger = root / "ledger" / "ledger.sqlite3"
        yield Sample(ended, daemon.rss_mb(), daemon.descriptors(), _mb(ledger), _mb(Path(f"{ledger}-wal")))


def _mb(path: Path) -> float:
    return path.stat().st_size / 2**20 if path.exists() else 0.0


def _audited(config: Path) -> dict[str, object] | dict[str, dict[str, int]]:
    code = "from mira_stream.cli import main; main()"
    command = [sys.executable, "-c", code, "verify", "--strict", "--json", "--config", str(config)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert isinstance(found, dict)
    return found


def _summary(samples: list[Sample]) -> dict[str, object]:
    """Slopes of the second half, when caches are full, and of the last quarter: what only fills up grows less there.
    And the medians of each tenth of the whole."""
    slopes = {
        f"rss_mb_per_million_records{name}": _slope(
            [one.ended / 1e6 for one in part], [one.rss_mb for one in part]
        )
        for name, share in (("", 1 / 2), ("_of_last_quarter", 3 / 4))
        if (part := [one for one in samples if one.ended >= samples[-1].ended * share])
    }
    tenths = [
        samples[len(samples) * n // 10 : max(len(samples) * (n + 1) // 10, len(samples) * n // 10 + 1)]
        for n in range(10)
    ]
    return {
        "samples": len(samples),
        **{name: f"{slope:.2f} ± {error:.2f}" for name, (slope, error) in slopes.items()},
        "rss_mb_by_tenths": [round(median(one.rss_mb for one in part)) for part in tenths],
        "rss_mb_max": round(max(one.rss_mb for one in samples)),
        "descriptors_by_tenths": [round(median(one.descriptors for one in part)) for part in tenths],
        "descriptors_max": max(one.descriptors for one in samples),
        "ledger_mb_by_tenths": [round(part[-1].ledger_mb, 1) for part in tenths],
        "wal_mb_max": round(max(one.wal_mb for one in samples), 1),
    }


def _slope(x: list[float], y: list[float]) -> tuple[float, float]:
    """Of the line through the points by least squares, and its standard error."""
    middle_x, middle_y = fmean(x), fmean(y)
    spread = sum((one - middle_x) ** 2 for one in x)
    if len(x) < 3 or not spread:
        return 0.0, 0.0
    slope = sum((one - middle_x) * (other - middle_y) for one, other in zip(x, y, strict=True)) / spread
    rest = sum((other - middle_y - slope * (one - middle_x)) ** 2 for one, other in zip(x, y, strict=True))
    return slope, (rest / (len(x) - 2) / spread) ** 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int)
    chosen = parser.parse_args()
    print(
        json.dumps(measure(records=chosen.records, objects=chosen.objects or chosen.records // 10), indent=1)
    )
