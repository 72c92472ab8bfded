"""Peak resident memory of the daemon with 10,000 objects waiting."""

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.corpus import records, write_lake
from bench.macro.end_to_end import _CONFIG, _RUN

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
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = write_lake(root / "lake", small, copies=-(-objects // len(small)), objects=objects)
        replica = subprocess.Popen(
            [sys.executable, "-m", "bench.macro.instant_replica"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert replica.stdout is not None
            url = replica.stdout.readline().strip()
            config = root / "mira.toml"
            config.write_text(_CONFIG.format(root=root, url=url), "utf-8")
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
    return {"objects": objects, "records": count, "peak_rss_mb": round(int(told[0]) / 1024)}
