"""One line of bytes to one JSON object, or to the exact reason why it is none; never raises, linear time.

msgspec decides the common case. What it refuses is looked at again, slowly, because its messages do not tell a lone
surrogate escape from a broken line, and because two kinds of valid JSON are refused for limits of Python alone.
"""

import json
import re
from itertools import accumulate

import msgspec

from mira_stream.core.outcome import Reason

DEPTH_MAX = 500
"""Objects and arrays open at once; a record nested deeper is `too_deep`."""

_BOM = b"\xef\xbb\xbf"
# Possessive, and an unclosed string runs to the end: each byte is looked at once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_STEP = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode(raw: bytes, *, first: bool) -> dict[str, object] | Reason:
    """The object that the line `raw` holds; `first` says that it is the first line of its object (a BOM may stand).

    Duplicate keys: the last wins. Lone surrogate escapes become U+FFFD.
    """
    if not raw or raw.isspace():
        return Reason.BLANK
    if first and raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    try:
        value = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_slowly(raw)
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _nests_deeper(value):
        return Reason.TOO_DEEP
    return value if isinstance(value, dict) else Reason.NOT_OBJECT


def field_text(record: dict[str, object], path: str) -> str | None:
    """The text of the field at the dotted `path` (`meta.source`, `messages.0.role`), or None where there is none.

    A string is given as it is, anything else as compact JSON; null counts as absent. A key that itself holds dots is
    found where it stands at the top.
    """
    value = record[path] if path in record else _follow(record, path)
    if value is None or isinstance(value, str):
        return value
    return _encode(value).decode()


def _follow(value: object, path: str) -> object:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit():
            # An index longer than this cannot exist, and Python refuses to read very long ones at all.
            value = value[int(step)] if len(step) < 10 and int(step) < len(value) else None
        else:
            return None
    return value


def _decode_slowly(raw: bytes) -> dict[str, object] | Reason:
    try:
        text = _without_lone_surrogates(raw).decode()
    except UnicodeDecodeError:
        return Reason.INVALID_UTF8
    if _bytes_nest_deeper(raw):
        return Reason.TOO_DEEP
    try:
        value = json.loads(
            text, parse_int=_read_int, parse_float=_read_float, parse_constant=_refuse_constant
        )
    except ValueError:
        return Reason.INVALID_JSON
    except RecursionError:  # the caller's own stack was deep
        return Reason.TOO_DEEP
    return value if isinstance(value, dict) else Reason.NOT_OBJECT


def _without_lone_surrogates(raw: bytes) -> bytes:
    """`raw` with U+FFFD for each surrogate escape without its partner."""
    if b"\0" in raw:  # no JSON, whatever else it holds; the replacement below needs the byte for itself
        return raw
    # Escaped backslashes are hidden, so that each backslash left begins an escape.
    hidden = raw.replace(rb"\\", b"\0\0")
    return _LONE_SURROGATE.sub(rb"\\ufffd", hidden).replace(b"\0\0", rb"\\")


def _read_int(digits: str) -> int | str:
    """Python reads integers of at most 4,300 digits; a longer one is kept as its digits."""
    try:
        return int(digits)
    except ValueError:
        return digits


def _read_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _nests_deeper(value: object) -> bool:
    """Whether the decoded `value` nests deeper than DEPTH_MAX; level by level, without recursion."""
    level: list[object] = [value]
    for _ in range(DEPTH_MAX):
        below: list[object] = []
        for item in level:
            if type(item) is dict:
                below += item.values()
            elif type(item) is list:
                below += item
        level = [item for item in below if type(item) is dict or type(item) is list]
        if not level:
            return False
    return True


def _bytes_nest_deeper(raw: bytes) -> bool:
    """The same for undecoded bytes, also where they are not valid JSON: brackets outside strings are counted."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return False
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > DEPTH_MAX
