"""The folder of the ledger: SQLite syncs its files into it, nobody but us syncs the folder into those above."""

import os
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it; on return they survive power loss. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    # Also those that are there already: a process that died may have made and not synced them.
    device = folder.stat().st_dev
    for parent in folder.absolute().parents:
        if parent.stat().st_dev != device:
            return
        with suppress(PermissionError):  # not ours, then
            sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Make durable which names are in `folder`. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
