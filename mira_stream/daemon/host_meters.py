"""What the machine gives the daemon: room on the ledger's disk, and a clock."""

import shutil
from pathlib import Path

from mira_stream.ports import Clock
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters


def meter_host(meters: Meters, ledger: Path, *, wall: Clock) -> None:
    """Have both told in every snapshot. A full disk under the ledger stops everything, so it is watched from here,
    where it is known which disk that is."""
    files = (ledger, ledger.with_name(f"{ledger.name}-wal"))

    def refresh() -> None:
        disk = shutil.disk_usage(ledger.parent)
        meters.set(metrics.LEDGER_FILE_BYTES, sum(file.stat().st_size for file in files if file.exists()))
        meters.set(metrics.LEDGER_DISK_BYTES, disk.total)
        meters.set(metrics.LEDGER_DISK_FREE_BYTES, disk.free)
        meters.set(metrics.CLOCK_TIMESTAMP_SECONDS, wall())

    meters.refresh_with(refresh)
