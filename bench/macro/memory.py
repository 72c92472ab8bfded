"""Peak resident memory of the client: with 10,000 objects waiting, and with 512 requests of 100 KB in flight."""

import tempfile
from pathlib import Path

from bench.corpus import long_record, records, write_lake
from bench.macro.client import run_client, write_config
from bench.macro.instant_replica import instant_replica, most_held

_LARGE_BYTES = 100_000
_IN_FLIGHT = 512
_HOLD_SECONDS = 3.0


def measure(*, objects: int = 10_000) -> dict[str, object]:
    """MB. One `--once` run over that many small objects, all discovered long before they are read; then over two
    backlogs of large records. The vocabulary is in another process, and not loaded here."""
    small = sorted(records(), key=len)[:200]
    count, peak, _ = _peak(small, copies=-(-objects // len(small)), objects=objects, in_flight=64, held="")
    figures: dict[str, object] = {"objects": objects, "records": count, "peak_rss_mb": peak}
    large, held = [long_record(_LARGE_BYTES)], f"/held/{_HOLD_SECONDS}"
    for copies in (2000, 6000):
        count, peak, most = _peak(large, copies=copies, objects=8, in_flight=_IN_FLIGHT, held=held)
        figures[f"peak_rss_mb, {count} records of 100 KB, {most} in flight"] = peak
    return figures


def _peak(
    lines: list[bytes], *, copies: int, objects: int, in_flight: int, held: str
) -> tuple[int, int, int]:
    """Records, the largest resident size in MB, and how many were in flight at most (0 where none was held back)."""
    with tempfile.TemporaryDirectory() as folder, instant_replica() as url:
        root = Path(folder)
        count = write_lake(root / "lake", lines, copies=copies, objects=objects)
        cost = run_client(write_config(root, url + held, in_flight=in_flight))
        return count, round(cost.peak_rss_mb), most_held(url)
