"""The transcript that every record shape writes, and the reading of values that may be anything."""

from collections.abc import Iterator
from typing import Any

import msgspec

Object = dict[str, Any]
"""A decoded JSON object; what its values are is found out where they are read."""

_LABEL_CHARS_MAX = 80
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Transcript:
    """The text of one record while it is written: turns with a header each, parts below it.

    A turn without any part leaves no header. Tool calls are numbered, and a result carries the number and the name of
    its call, so that long ids stay out of the text.
    """

    __slots__ = ("_calls", "_chunks", "_count", "_length", "_pending", "has_text", "title", "turns")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all that was written."""
        self.turns: list[int] = []
        self.has_text = False
        self.title = ""
        self._pending = False
        self._chunks: list[str] = []
        self._length = 0
        self._count = 0
        self._calls: dict[str, tuple[int, str]] = {}

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._chunks)

    @property
    def bare(self) -> bool:
        """Nothing was written below the header of this turn yet."""
        return self._pending

    def turn(self, title: str, *, join: bool = False) -> None:
        """Begin a turn; with `join`, go on with the one before if it has the same title."""
        if not (join and title == self.title):
            self.title = title
            self._pending = True

    def say(self, text: str) -> None:
        """Add what somebody said, without the blank lines around it."""
        body = text.strip("\r\n").rstrip()
        if body:
            self._write(body)
            self.has_text = True

    def note(self, line: str) -> None:
        """Add a remark of ours, which alone does not make a record worth judging."""
        self._write(line)

    def think(self, text: str) -> None:
        """Add reasoning, labelled."""
        body = text.strip()
        if body:
            self._write(f"[thinking]\n{body}\n[/thinking]")
            self.has_text = True

    def call(self, name: object, arguments: object, call_id: object = None) -> None:
        """Add a tool call with its arguments."""
        self._count += 1
        named = label(name)
        if isinstance(call_id, str) and call_id:
            self._calls[call_id] = (self._count, named)
        told = arguments_text(arguments)
        gap = "" if not told or told.startswith("\n") else " "
        self._write(f"[tool call #{self._count} {named}]{gap}{told}")
        self.has_text = True

    def result(self, call_id: object, name: object = None, *, failed: bool = False) -> None:
        """Begin the turn of a tool's result."""
        number, called = self._calls.get(call_id, (0, "")) if isinstance(call_id, str) else (0, "")
        named = label(name) if isinstance(name, str) and name else called
        words = ("tool result", f"#{number}" if number else "", named, "(error)" if failed else "")
        self.turn(" ".join(filter(None, words)))

    def knows(self, call_id: object) -> bool:
        """Whether a call with this id was written."""
        return isinstance(call_id, str) and call_id in self._calls

    def _write(self, body: str) -> None:
        if self._pending:
            lead = "\n\n" if self._chunks else ""
            head = f"=== {self.title} ===\n"
            self.turns.append(self._length + len(lead))
            self._chunks += (lead, head, body)
            self._length += len(lead) + len(head) + len(body)
            self._pending = False
        else:
            lead = "\n" if self._chunks else ""
            self._chunks += (lead, body)
            self._length += len(lead) + len(body)


def label(value: object) -> str:
    """A short name on one line, for headers."""
    if not isinstance(value, str) or not value:
        return "unknown"
    if len(value) <= _LABEL_CHARS_MAX and value.isprintable():
        return value
    return " ".join(value[:_LABEL_CHARS_MAX].split()) or "unknown"


def compact(value: object) -> str:
    """Compact JSON; a string is given as it is."""
    return value if isinstance(value, str) else _encode(value).decode()


def parsed(text: str) -> object:
    """What the JSON in `text` says, or None if it is none."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def objects(value: object) -> Iterator[Object]:
    """The JSON objects in the list `value`; nothing if it is no list."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield item


def child(value: object, *path: str) -> Object:
    """The object found below `value` along `path`, or an empty one."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def first_text(record: Object, *keys: str) -> str:
    """The first string among `keys` that is not empty."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def first_of(record: Object, *keys: str) -> object:
    """The first value among `keys` that is not null."""
    for key in keys:
        if (value := record.get(key)) is not None:
            return value
    return None


def plain(value: object) -> str:
    """The bare text of a string or of a list of text blocks."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(item if isinstance(item, str) else plain_block(item) for item in value)
    return plain_block(value)


def plain_block(item: object) -> str:
    """The text of one text block, or nothing."""
    return first_text(item, "text", "value", "content") if isinstance(item, dict) else ""


def arguments_text(arguments: object) -> str:
    """A call's arguments: compact JSON on the line, or one field per line where a value has lines of its own."""
    if isinstance(arguments, str):
        told = arguments.strip()
        has_lines = "\n" in told
        arguments = parsed(told) if told.startswith("{") and (has_lines or "\\n" in told) else None
        if not isinstance(arguments, dict):
            return f"\n{told}" if has_lines else told
    if not arguments:
        return "" if arguments is None or arguments == {} else compact(arguments)
    if isinstance(arguments, dict) and any(isinstance(v, str) and "\n" in v for v in arguments.values()):
        return "".join(f"\n{key}:{_field(value)}" for key, value in arguments.items())
    return compact(arguments)


def _field(value: object) -> str:
    told = compact(value)
    return f"\n{told.rstrip()}" if "\n" in told else f" {told}"
