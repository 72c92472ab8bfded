"""One process per ledger, on a disk whose locks can be trusted."""

import fcntl
import os
from pathlib import Path

from mira_stream.core.errors import Refusal

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs"}
)
_FUSE_NETWORK = (
    "sshfs",
    "s3fs",
    "goofys",
    "rclone",
    "gcsfuse",
    "blobfuse",
    "mount-s3",
    "mountpoint-s3",
    "gluster",
)


class FileLock:
    """An exclusive lock, held until `release` or the end of the process, however it ends.

    The lock file stays: removing it would let a third process lock another file of the same name.
    """

    def __init__(self, path: Path) -> None:
        """Raises Refusal if another process holds it; OSError if the file cannot be made."""
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise Refusal(
                f"another daemon holds the ledger lock {path} (process {owner})",
                "stop that one, or give this one a ledger.path of its own",
            ) from error
        except OSError:
            self.release()
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def refuse_network_disk(folder: Path) -> None:
    """Raises Refusal if `folder` is on a network file system, as far as this system tells."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return  # no such list here: it cannot be told
    kind = network_file_system(folder.resolve(), mounts)
    if kind is not None:
        raise Refusal(
            f"{folder} is on a network file system ({kind}), where SQLite's locks and syncs cannot be trusted",
            "give ledger.path a folder on a local disk",
        )


def network_file_system(folder: Path, mounts: str) -> str | None:
    """The type of the network file system that holds `folder`, or None; `mounts` is the text of /proc/self/mounts."""
    longest, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = Path(_unescaped(fields[1]))
        # Of several mounts on one place the last one is on top.
        if folder.is_relative_to(place) and len(place.parts) >= longest:
            longest, kind = len(place.parts), fields[2]
    is_network = kind in _NETWORK or (kind.startswith("fuse") and any(name in kind for name in _FUSE_NETWORK))
    return kind if is_network else None


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
