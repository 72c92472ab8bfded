"""Walking a folder: every regular file once, under its real path, in memory that grows with the depth alone."""

import os
import stat
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress

from mira_stream.core.sight import StoredObject
from mira_stream.source.durable import TEMP_PREFIX
from mira_stream.source.local_file import change_mark, operating_errors

Entry = os.DirEntry[str]


def walk(root: str, top: str, *, refused: Counter[str]) -> Iterator[StoredObject]:
    """All regular files under `top`, with keys relative to `root`; blocking. A missing `top` is empty.

    `refused` counts the entries that are neither: `not_utf8`, `link`, `special`.

    Depth first with open folders: a folder of a million names is never held as a list.
    """
    base = len(root.rstrip("/")) + 1
    with operating_errors(f"list {top}"):
        folders = [_entries(top)]
        try:
            while folders:
                entry = next(folders[-1], None)
                if entry is None:
                    folders.pop().close()
                elif (reason := refused_name(entry)) is not None:
                    refused[reason] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(_entries(entry.path))
                elif not entry.name.startswith(TEMP_PREFIX):
                    yield from _regular(entry, entry.path[base:], refused)
        finally:
            for folder in folders:
                folder.close()


def refused_name(entry: Entry) -> str | None:
    """Why an entry can be neither an object nor a folder of objects; None if it can.

    A link is never followed: what it points to inside the folder is listed under its real path, what is outside is
    not ours, and loops end here.
    """
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "not_utf8"
    return "link" if entry.is_symlink() else None


def _entries(path: str) -> Generator[Entry, None, None]:
    # Not there: removed since its parent was read, or not created yet.
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        yield from entries


def _regular(entry: Entry, key: str, refused: Counter[str]) -> Iterator[StoredObject]:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode):
        yield StoredObject(key, change_mark(status), status.st_size, status.st_mtime)
    else:
        refused["special"] += 1
