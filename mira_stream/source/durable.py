"""Durable create-if-absent on a local file system: temp file, sync, link, sync of the folder."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from mira_stream.source.local_file import operating_errors

TEMP_PREFIX = ".mira_stream-"


def create_durably(path: str, data: bytes) -> None:
    """Create the file `path` with `data`; on return it survives power loss. Raises AlreadyExists.

    The link is the commit: it fails if the name is taken, and before it nobody sees a byte.
    """
    folder = Path(path).parent
    with operating_errors(f"create {path}"):
        _make_folders(folder)
        temp = folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            _write_synced(temp, data)
            os.link(temp, path)
        finally:
            with suppress(FileNotFoundError):
                temp.unlink()
        _sync_folder(folder)


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    # Also if a rival made it: our file must not be lost with a folder that nobody synced yet.
    _sync_folder(folder.parent)


def _write_synced(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
