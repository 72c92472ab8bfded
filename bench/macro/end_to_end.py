"""Client CPU per record against an instant replica, beside the frozen reference loop on the same records."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.corpus import records, write_lake
from bench.macro.instant_replica import MODEL

_CONFIG = """\
[source]
uri = "{root}/lake"
grow_settle_seconds = 0
[sink]
uri = "{root}/scores"
[ledger]
path = "{root}/ledger/ledger.sqlite3"
[http]
listen = "127.0.0.1:0"
[log]
level = "warning"
[admission]
kv_tokens = 4_000_000
batched_tokens_max = 4_000_000
requests_max = 64
[[pool]]
group = "agent/A"
sources = ["*"]
replicas = ["{url}"]
"""
_RUN = "from mira_stream.cli import main; main()"


def measure(*, runs: int = 5, copies: int = 3) -> dict[str, object]:
    """Runs in turn; CPU is user + system of the client process alone, its start-up (an empty lake) taken off."""
    lines = records()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = write_lake(root / "lake", lines, copies=copies, objects=8)
        (root / "empty" / "lake").mkdir(parents=True)
        replica = subprocess.Popen(
            [sys.executable, "-m", "bench.macro.instant_replica"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert replica.stdout is not None
            url = replica.stdout.readline().strip()
            return _measured(root, url, count=count, size=sum(map(len, lines)) * copies, runs=runs)
        finally:
            replica.terminate()
            replica.wait()


def _measured(root: Path, url: str, *, count: int, size: int, runs: int) -> dict[str, object]:
    product: list[float] = []
    start: list[float] = []
    reference: list[float] = []
    reference_start: list[float] = []
    for _ in range(runs):
        start.append(_product(root / "empty", url))
        product.append(_product(root, url))
        reference_start.append(_reference([], root, url)[0])
        seconds, told = _reference(sorted((root / "lake").rglob("*.zst")), root, url)
        assert told == count, f"the reference read {told} of {count} records"
        reference.append(seconds)
    ours = [(all_ - begin) / count * 1e6 for all_, begin in zip(product, start, strict=True)]
    theirs = [(all_ - begin) / count * 1e6 for all_, begin in zip(reference, reference_start, strict=True)]
    rendering = _rendering_us()
    return {
        "records": count,
        "mean_record_bytes": size // count,
        "product_us_per_record": _spread(ours),
        "reference_us_per_record": _spread(theirs),
        "of_it_decoding_and_rendering_us": round(rendering, 1),
        "ratio": round(median(ours) / median(theirs), 2),
        "ratio_without_rendering": round((median(ours) - rendering) / median(theirs), 2),
        "product_start_seconds": round(median(start), 3),
        "reference_start_seconds": round(median(reference_start), 3),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values)), "min": round(min(values)), "max": round(max(values))}


def _cpu(arguments: list[str], out: Path | None = None) -> float:
    """User + system seconds of one child process."""
    with (out or Path(os.devnull)).open("wb") as stdout:
        child = subprocess.Popen(arguments, stdout=stdout)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{arguments[:4]} ended with {child.returncode}"
    return usage.ru_utime + usage.ru_stime


def _product(root: Path, url: str) -> float:
    for name in ("scores", "ledger"):
        shutil.rmtree(root / name, ignore_errors=True)
    config = root / "mira.toml"
    config.write_text(_CONFIG.format(root=root, url=url), "utf-8")
    return _cpu([sys.executable, "-c", _RUN, "run", "--once", "--config", str(config)])


def _reference(files: list[Path], root: Path, url: str) -> tuple[float, int]:
    out = root / "reference.json"
    module = [sys.executable, "-m", "bench.macro.reference_loop", url, MODEL, str(root / "reference.zst")]
    seconds = _cpu([*module, *map(str, files)], out)
    return seconds, int(json.loads(out.read_text("utf-8"))["records"])


def _rendering_us() -> float:
    """Decoding and rendering alone, which the reference does not do: µs of CPU per record, best of three."""
    from time import thread_time

    from mira_stream.core.decode import decode
    from mira_stream.core.trace import render

    lines = records()
    best = float("inf")
    for _ in range(3):
        began = thread_time()
        for line in lines:
            record = decode(line, first=False)
            if isinstance(record, dict):
                render(record)
        best = min(best, thread_time() - began)
    return best / len(lines) * 1e6
