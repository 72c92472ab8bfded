"""Peak resident memory of the daemon: with 10,000 objects waiting, and with 512 requests of 100 KB in flight."""

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.corpus import long_record, records, write_lake
from bench.macro.end_to_end import _CONFIG, _RUN

_LARGE_BYTES = 100_000
# VmHWM and not ru_maxrss: that one is inherited from the process that started this one.
_MEASURED = f"""
from pathlib import Path
try:
    {_RUN}
except SystemExit as end:
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(peak.split()[1], end.code)
"""


def measure(*, objects: int = 10_000) -> dict[str, object]:
    """One `--once` run over that many objects, all discovered long before they are read."""
    small = sorted(records(), key=len)[:200]
    copies = -(-objects // len(small))
    count, peak = _peak(small, copies=copies, objects=objects, requests=64, hold_seconds=0.0)
    figures: dict[str, object] = {"objects": objects, "records": count, "peak_rss_mb": peak}
    large = [long_record(_LARGE_BYTES)]
    for copies in (2000, 6000):
        count, peak = _peak(large, copies=copies, objects=8, requests=512, hold_seconds=2.0)
        figures[f"peak_rss_mb, 512 in flight, {count} records of 100 KB"] = peak
    return figures


def _peak(
    lines: list[bytes], *, copies: int, objects: int, requests: int, hold_seconds: float
) -> tuple[int, int]:
    """Records, and the largest resident size in MB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = write_lake(root / "lake", lines, copies=copies, objects=objects)
        replica = subprocess.Popen(
            [sys.executable, "-m", "bench.macro.instant_replica", str(hold_seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert replica.stdout is not None
            url = replica.stdout.readline().strip()
            config = root / "mira.toml"
            text = _CONFIG.format(root=root, url=url)
            for old, new in (
                ("requests_max = 64", f"requests_max = {requests}"),
                ("4_000_000", "400_000_000"),
            ):
                text = text.replace(old, new)
            config.write_text(text, "utf-8")
            told = subprocess.run(
                [sys.executable, "-c", _MEASURED, "run", "--once", "--config", str(config)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
        finally:
            replica.terminate()
            replica.wait()
    assert told[1] in ("0", "None"), told
    return count, round(int(told[0]) / 1024)
