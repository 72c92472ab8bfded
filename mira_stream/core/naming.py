"""How an object gets the name of its source: the first part of its key, a pattern on the key, or a field."""

import re
from typing import ClassVar

import msgspec

from mira_stream.core.errors import Refusal

ROOT_SOURCE = "."
_KEY = "key:"
_FIELD = "field:"
_HINT = 'leave name_from empty, or give "key:<pattern with (?P<source>…)>" or "field:<dotted.path>"'


class SourceNaming(msgspec.Struct, frozen=True):
    """`source.name_from`, parsed. With `field` set the record itself names its source and `of_key` is the fallback.

    Args:
        text: as configured; it goes into the layout, since two namings spread one source over other partitions.
        pattern: matched from the start of the key, with a group `source`.
        field: dotted path into the record.
    """

    KEY_CHARS_MAX: ClassVar[int] = 1024

    text: str = ""
    pattern: re.Pattern[str] | None = None
    field: str | None = None

    @classmethod
    def parse(cls, text: str) -> "SourceNaming":
        """The naming that `text` describes. Raises Refusal with what to write instead."""
        if not text:
            return cls()
        if text.startswith(_KEY):
            return cls(text=text, pattern=_compiled(text.removeprefix(_KEY)))
        if text.startswith(_FIELD):
            return cls(text=text, field=_checked_field(text.removeprefix(_FIELD)))
        raise Refusal(f"source.name_from {text!r} is neither a pattern on the key nor a field", _HINT)

    def of_key(self, key: str) -> str:
        """The source of the object at `key`; `.` at the root; empty if the pattern finds none."""
        if self.pattern is None:
            first, slash, _ = key.partition("/")
            return first if slash else ROOT_SOURCE
        # Python's `re` backtracks: the bound on the key keeps the worst case small.
        found = self.pattern.match(key[: self.KEY_CHARS_MAX])
        return (found.group("source") or "") if found else ""


def _compiled(pattern: str) -> re.Pattern[str]:
    if re.search(r"(?<!\\)\)[*+{]", pattern):
        raise Refusal(
            f"source.name_from: {pattern!r} repeats a group, which can take exponential time on some keys",
            "write the repeated part with a character class instead, such as [^/]+",
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise Refusal(f"source.name_from: {pattern!r} is not a regular expression: {error}", _HINT) from error
    if "source" not in compiled.groupindex:
        raise Refusal(f"source.name_from: {pattern!r} has no group (?P<source>…)", _HINT)
    return compiled


def _checked_field(path: str) -> str:
    if not path or not all(part.strip() == part != "" for part in path.split(".")):
        raise Refusal(f"source.name_from: {path!r} is not a dotted path of field names", _HINT)
    return path
