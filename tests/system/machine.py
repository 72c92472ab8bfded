"""What the tests here need of the machine: programs, libraries, mounts. What is absent fails, by name."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "ops" / "system-packages.txt"
_INSTALL = f"install the packages of ops/{PACKAGES.name}"


def program(name: str) -> str:
    """Its path; the test fails if it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: {_INSTALL}")
    return path


def library(name: str) -> Path:
    """The path of a shared library below /usr/lib; the test fails if it is not installed."""
    found = sorted(Path("/usr/lib").rglob(name))
    if not found:
        pytest.fail(f"{name} is not installed: {_INSTALL}")
    return found[0]


class Disk:
    """A mounted file system of its own size."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self) -> None:
        """Take all room that is left."""
        with (self.place / "ballast").open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                self._fill(ballast.fileno(), size)

    def _fill(self, file: int, size: int) -> None:
        data = b"." * size
        try:
            while True:
                os.write(file, data)
        except OSError:
            return

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.place / "ballast").unlink()

    def remount(self, options: str) -> None:
        """With other options: `ro`, `rw`, `size=…`."""
        _mount(["-o", f"remount,{options}", str(self.place)])


@contextmanager
def disk(place: Path, *, size: str) -> Iterator[Disk]:
    """A file system in memory at `place`, which is made; unmounted afterwards."""
    place.mkdir(parents=True)
    _mount(["-t", "tmpfs", "-o", f"size={size}", "mira-stream-test", str(place)])
    try:
        yield Disk(place)
    finally:
        subprocess.run([program("umount"), "--lazy", str(place)], check=False)


def _mount(arguments: list[str]) -> None:
    done = subprocess.run([program("mount"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(
            f"mount {' '.join(arguments)}: {done.stderr.strip()}; it needs root or a namespace of its own: use "
            "`make test-system`, on a machine that lets its users have one (unshare --map-root-user --mount)"
        )
