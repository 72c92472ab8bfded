"""Which listed names are objects: a bounded filter by name alone, before any byte is read."""

import re
from collections.abc import Sequence

from mira_stream.core.errors import Refusal

_WILD = {"*": "[^/]*", "?": "[^/]"}


class NameFilter:
    """Decides by `source.include`; hidden, `_…` and `.tmp` names never are objects.

    Args:
        include: globs (`*`, `?`, and `**/` for any folders) on the last part of the key, or on all of it with a `/`.
    """

    def __init__(self, include: Sequence[str]) -> None:
        last = [glob for glob in include if "/" not in glob]
        whole = [glob for glob in include if "/" in glob]
        self._last = _any_of(last)
        self._whole = _any_of(whole)

    def refuses(self, key: str) -> str | None:
        """Why the object at `key` is ignored (`hidden`, `temporary`, `name`); None if it is read."""
        name = key.rpartition("/")[2]
        if key.startswith((".", "_")) or "/." in key or "/_" in key:
            return "hidden"
        if name.endswith(".tmp"):
            return "temporary"
        if self._last.fullmatch(name) or self._whole.fullmatch(key):
            return None
        return "name"


def _any_of(globs: Sequence[str]) -> re.Pattern[str]:
    for glob in globs:
        if glob.count("*") > 8:
            raise Refusal(f"source.include: {glob!r} has more than 8 stars", "use several shorter globs")
    # With no glob at all: a pattern that matches nothing.
    return re.compile("|".join(map(_pattern, globs)) or r"(?!)")


def _pattern(glob: str) -> str:
    parts = re.split(r"(\*\*/|\*|\?)", glob)
    return "".join("(?:[^/]+/)*" if part == "**/" else _WILD.get(part) or re.escape(part) for part in parts)
