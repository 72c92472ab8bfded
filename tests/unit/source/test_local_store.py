"""The folder as a store: durable creation, errors for people, addresses."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mira_stream.core.errors import (
    AlreadyExists,
    Corrupt,
    MiraStreamError,
    Missing,
    Refusal,
    Saturated,
    Transient,
)
from mira_stream.source.durable import TEMP_PREFIX, create_durably, settle
from mira_stream.source.local_file import operating_errors
from mira_stream.source.local_store import LocalStore
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_created_file_is_synced_before_and_its_folders_after_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order of the steps: the file is on disk before its name is, each new folder is synced into its parent."""
    steps: list[str] = []
    root = tmp_path.stat().st_ino

    def fsync(fd: int) -> None:
        status = os.fstat(fd)
        what = "root" if status.st_ino == root else "folder" if stat.S_ISDIR(status.st_mode) else "file"
        steps.append(f"sync {what}")

    def link(source: object, target: object, link: Callable[..., None] = os.link) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    create_durably(f"{tmp_path}/a/b/x", b"data", root=str(tmp_path))
    kept = ["sync folder", "sync folder", "sync root"]
    assert steps == ["sync root", "sync folder", "sync file", "link", *kept]
    assert (tmp_path / "a/b/x").read_bytes() == b"data"
    assert _names(tmp_path / "a/b") == ["x"]


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is Saturated, the name is free, and no temporary file stays."""

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(Saturated, match="make room"):
            create_durably(f"{tmp_path}/x", b"data", root=str(tmp_path))
    assert _names(tmp_path) == []
    create_durably(f"{tmp_path}/x", b"data", root=str(tmp_path))
    with pytest.raises(AlreadyExists):
        create_durably(f"{tmp_path}/x", b"other", root=str(tmp_path))
    assert _names(tmp_path) == ["x"]


def test_a_name_that_is_taken_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gave it may have died before the sync: what is said to be there survives power loss, as what is created."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"first")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with pytest.raises(AlreadyExists):
        create_durably(f"{tmp_path}/a/x", b"second", root=str(tmp_path))
    assert synced[-2:] == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]
    assert (tmp_path / "a/x").read_bytes() == b"first"


def test_a_folder_that_cannot_be_synced_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sync would say that all is well; the next start publishes the same plan, and finds out whose it is."""

    def fail(fd: int, fsync: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Refusal, match="cannot make durable") as error:
        create_durably(f"{tmp_path}/x", b"data", root=str(tmp_path))
    assert "next start" in error.value.hint
    with pytest.raises(Refusal, match="cannot make durable"):
        settle(str(tmp_path))


def test_what_a_crash_left_behind_is_not_listed(tmp_path: Path) -> None:
    """Temporary files of ours are no objects; hidden files of others are."""
    (tmp_path / f"{TEMP_PREFIX}1-abc.tmp").write_bytes(b"half")
    (tmp_path / ".source").mkdir()
    (tmp_path / ".source/x").write_bytes(b"")

    async def story() -> list[str]:
        return [entry.key async for page in LocalStore(tmp_path).list() for entry in page]

    assert asyncio.run(story()) == [".source/x"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, Missing),
        (errno.ENOTDIR, Missing),
        (errno.EEXIST, AlreadyExists),
        (errno.EACCES, Refusal),
        (errno.EROFS, Refusal),
        (errno.EDQUOT, Saturated),
        (errno.EIO, Transient),
        (errno.ESTALE, Transient),
    ],
)
def test_errors_of_the_system_are_told_apart(number: int, kind: type[MiraStreamError]) -> None:
    """Each error of the operating system becomes the one that says what to do."""
    with pytest.raises(kind, match="cannot read x"), operating_errors("read x"):
        raise OSError(number, os.strerror(number))


def test_addresses_of_folders_are_one_whatever_their_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, a relative path, a trailing slash and file:// give one uri."""
    monkeypatch.chdir(tmp_path)
    spellings = [
        str(tmp_path / "lake"),
        f"{tmp_path}/lake/",
        f"file://{tmp_path}/lake",
        "lake",
        "./x/../lake",
    ]
    assert {open_store(uri, StoreSettings()).uri for uri in spellings} == {f"file://{tmp_path}/lake"}


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_addresses_of_buckets_keep_no_slash_at_the_end(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bucket and prefix are the identity; opening asks nobody."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "nobody")
    settings = StoreSettings(region="us-east-1")
    assert open_store(f"{scheme}://lake/raw/", settings).uri == f"{scheme}://lake/raw"
    assert open_store(f"{scheme}://lake", settings).uri == f"{scheme}://lake"


@pytest.mark.parametrize(
    "uri", ["ftp://lake/raw", "s3://", "s3://key:secret@lake/raw", "s3://lake/raw?x=1", "file://raw"]
)
def test_addresses_that_cannot_be_right_are_refused(uri: str) -> None:
    """Unknown schemes, missing buckets, queries and credentials in the address are refused, secrets unsaid."""
    with pytest.raises(Refusal) as caught:
        open_store(uri, StoreSettings())
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_folder_where_a_file_is_to_be_is_told(tmp_path: Path) -> None:
    """It is neither ours nor somebody else's file, and would be waited for without end."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(Corrupt, match="is no file"):
        asyncio.run(LocalStore(tmp_path).create("a/b", b"x"))
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["b"]
