"""Durable create-if-absent on a local file system: temp file, sync, link, sync of the folders."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from mira_stream.core.errors import AlreadyExists, Corrupt, Refusal
from mira_stream.core.outcome import Reason
from mira_stream.source.local_file import operating_errors

TEMP_PREFIX = ".mira_stream-"


def create_durably(path: str, data: bytes, *, root: str) -> None:
    """Create the file `path`, below the folder `root`, with `data`; on return it survives power loss.

    The link is the commit: it fails if the name is taken, and before it nobody sees a byte. Raises AlreadyExists, and
    then what has that name survives power loss too: whoever gave it may have died before the folder was synced.
    Raises Refusal if the name is there and cannot be made durable, Corrupt if what has it is no file.
    """
    folder = Path(path).parent
    with operating_errors(f"create {path}"):
        _make_folders(folder)
        temp = folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            _write_synced(temp, data)
            is_new = _link(temp, path)
        finally:
            with suppress(FileNotFoundError):
                temp.unlink()
        _keep_names(folder, root)
    if not is_new:
        _refuse_what_is_no_file(path)
        raise AlreadyExists(f"cannot create {path}: it is there")


def _refuse_what_is_no_file(path: str) -> None:
    """It will never be read as one: to wait for it would be for ever."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(Path(path).lstat().st_mode):
            raise Corrupt(Reason.CORRUPT, f"{path} is no file, and stands where one is to be: move it away")


def settle(root: str) -> None:
    """Make durable the names of all folders and files in `root`, and its own: their makers may have died in between.

    The bytes of our own files are synced before they have a name. Blocks for one sync per folder. Raises Refusal.
    """
    if not Path(root).is_dir():
        return
    with operating_errors(f"read {root}"):
        for folder, _, _ in os.walk(root):
            _keep(Path(folder))
        _settle_above(Path(root))


def _settle_above(root: Path) -> None:
    device = root.stat().st_dev
    for parent in root.parents:
        if parent.stat().st_dev != device:
            return
        with suppress(PermissionError):  # not made by us, then
            _sync_folder(parent)


def _link(temp: Path, path: str) -> bool:
    """Whether the name was free."""
    try:
        os.link(temp, path)
    except FileExistsError:
        return False
    return True


def _keep_names(folder: Path, root: str) -> None:
    """Sync `folder` and those above it up to `root`: a rival may have made one, and not have come to sync it."""
    for one in (folder, *folder.parents):
        _keep(one)
        if str(one) == root:
            return


def _keep(folder: Path) -> None:
    """Sync a folder in which a name was given. A sync that failed is not tried again: the next may lie."""
    try:
        _sync_folder(folder)
    except OSError as error:
        raise Refusal(
            f"cannot make durable what is in {folder}: {error.strerror or error}",
            "look for errors of the disk in the system's log; what is sealed is published at the next start",
        ) from error


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
