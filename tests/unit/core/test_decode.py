"""Every rule about what a line may be, and the exact reason for each that is no record."""

import sys
from collections.abc import Callable

import pytest

from mira_stream.core.decode import DEPTH_MAX, decode, field_text
from mira_stream.core.outcome import Reason

BOM = b"\xef\xbb\xbf"


def nested(depth: int) -> bytes:
    """An object that opens `depth` objects and arrays in all."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("raw", [b"", b" ", b"\t \r", b"\x0b\x0c", b"\n"])
def test_white_space_alone_is_blank(raw: bytes) -> None:
    """White space is what `bytes.isspace()` says, and an empty line is blank too."""
    assert decode(raw, first=False) is Reason.BLANK
    assert decode(raw, first=True) is Reason.BLANK


def test_a_bom_is_dropped_from_the_first_line_only() -> None:
    """A BOM elsewhere is no JSON; alone it is not blank."""
    assert decode(BOM + b'{"a":1}', first=True) == {"a": 1}
    assert decode(BOM + b'{"a":1}', first=False) is Reason.INVALID_JSON
    assert decode(BOM, first=True) is Reason.INVALID_JSON
    assert decode(BOM + b"  ", first=True) is Reason.INVALID_JSON
    assert decode(BOM + BOM + b"{}", first=True) is Reason.INVALID_JSON


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":1}\xff',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xe4\xbd',
        b'\xff{"a":NaN',
        '{"a":1}'.encode("utf-16"),
        b"\xff" + nested(DEPTH_MAX + 1),
    ],
)
def test_bytes_that_are_no_utf8_are_invalid_utf8(raw: bytes) -> None:
    """Wherever the bad byte stands, and whatever else is wrong with the line."""
    assert decode(raw, first=True) is Reason.INVALID_UTF8


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":1' + b"0" * 400 + b".5}",
        b'{"a":1,}',
        b'{"a":1} x',
        b'{"a":1}{"b":2}',
        b'{"a":"\x01"}',
        b'{"a":"tab\there"}',
        b'{"a":"\\x"}',
        b'{"a":"\\u12"}',
        b'{"a":"\\ud800',
        b'{"a":01}',
        b'{"a":+1}',
        b"{'a':1}",
        b'{"a":1',
        b"{a:1}",
        b"\x0c{}",
        b"\xc2\xa0{}",
        b'{"a":"\x00"}',
        '{"a":1}'.encode("utf-16-le"),
        b"not json",
        b'"\\ud800" x',
    ],
)
def test_text_that_is_no_json_is_invalid_json(raw: bytes) -> None:
    """Also the constants and the sizes of number that JSON does not have or a double cannot hold."""
    assert decode(raw, first=False) is Reason.INVALID_JSON


@pytest.mark.parametrize(
    "raw", [b"[1]", b'"x"', b"5", b"null", b"true", b'[{"a":1}]', b'"\\ud800"', b"1" * 5000]
)
def test_json_that_is_no_object_is_not_object(raw: bytes) -> None:
    """Arrays, strings, numbers, constants."""
    assert decode(raw, first=False) is Reason.NOT_OBJECT


def test_the_last_of_two_equal_keys_wins() -> None:
    """On the fast path and on the slow one."""
    assert decode(b'{"a":1,"a":2}', first=False) == {"a": 2}
    assert decode(b'{"a":"\\ud800","a":2}', first=False) == {"a": 2}


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud800", "\ufffd"),
        (r"\udc00", "\ufffd"),
        (r"cut \uD83D", "cut \ufffd"),
        (r"\ud83d\ude00", "😀"),
        (r"\ud800\ud83d\ude00", "\ufffd😀"),
        (r"\ud83d\ude00\ude00", "😀\ufffd"),
        (r"\udc00\ud800", "\ufffd\ufffd"),
        (r"\ud800\n", "\ufffd\n"),
        (r"\ud800\u0041", "\ufffdA"),
        (r"\\ud800 \ud800", "\\ud800 \ufffd"),
        (r"\\\ud800", "\\\ufffd"),
        (r"\\\\ud800 \udfff\"", '\\\\ud800 \ufffd"'),
    ],
)
def test_lone_surrogate_escapes_become_the_replacement_character(escaped: str, text: str) -> None:
    """The record is still scored; pairs and escaped backslashes before a `u` are left alone."""
    assert decode(b'{"a":"' + escaped.encode() + b'"}', first=False) == {"a": text}
    text.encode()


def test_lone_surrogates_in_keys_are_replaced() -> None:
    """A key is text like any other."""
    assert decode(b'{"\\ud800":1}', first=False) == {"\ufffd": 1}


@pytest.mark.parametrize("extra", [b"", b',"b":"\\ud800"'])
def test_nesting_is_allowed_up_to_the_limit(extra: bytes) -> None:
    """500 open objects and arrays are a record, 501 are `too_deep`, on both paths."""
    assert isinstance(decode(nested(DEPTH_MAX)[:-1] + extra + b"}", first=False), dict)
    assert decode(nested(DEPTH_MAX + 1)[:-1] + extra + b"}", first=False) is Reason.TOO_DEEP


@pytest.mark.parametrize(
    "raw",
    [
        nested(5000),
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b"[" * 501 + b"]" * 501,
        b'{"a":' + b"[" * 600 + b"NaN",
    ],
)
def test_deep_nesting_is_too_deep_and_never_a_recursion_error(raw: bytes) -> None:
    """Also where the line is no JSON, or no object."""
    assert decode(raw, first=False) is Reason.TOO_DEEP


def test_brackets_inside_strings_are_no_nesting() -> None:
    """Also beside escaped quotes, and on the slow path."""
    raw = b'{"a":"' + b'[{\\"' * 1000 + b'","b":"\\ud800"}'
    assert isinstance(decode(raw, first=False), dict)


def test_many_flat_objects_are_not_deep() -> None:
    """Width is no depth."""
    assert isinstance(decode(b'{"a":[' + b",".join([b"{}"] * 5000) + b"]}", first=False), dict)


def test_huge_integers_are_kept() -> None:
    """Up to 4,300 digits as a number, beyond that (Python reads no more) as their digits."""
    assert decode(b'{"a":18446744073709551616}', first=False) == {"a": 2**64}
    assert decode(b'{"a":1' + b"0" * 400 + b"}", first=False) == {"a": 10**400}
    assert decode(b'{"a":-1' + b"0" * 5000 + b"}", first=False) == {"a": "-1" + "0" * 5000}


def test_a_deep_stack_of_the_caller_is_no_recursion_error() -> None:
    """Where even an allowed depth cannot be read any more, the answer is still a reason."""

    def deep(frames: int, run: Callable[[], object]) -> object:
        return run() if frames == 0 else deep(frames - 1, run)

    room = sys.getrecursionlimit() - len(_stack()) - 150
    assert deep(room, lambda: decode(nested(DEPTH_MAX), first=False)) is Reason.TOO_DEEP


def _stack() -> list[object]:
    frame, frames = sys._getframe(), []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"' + b"\\\\" * 500_000 + b'\\ud800"}',
        b'"' + b'\\"' * 1_000_000,
        b'"a' * 1_000_001,
        b'{"a":' + b'[{"b":"x"},' * 100_000 + b"NaN",
        b"\\" * 1_000_001,
        b'{"a":"' + b"\\ud800" * 200_000 + b'"}',
    ],
)
@pytest.mark.timeout(20)
def test_lines_made_to_be_slow_are_not(raw: bytes) -> None:
    """The slow path is linear: no pattern looks twice at a byte."""
    assert decode(raw, first=False) is not Reason.BLANK


RECORD: dict[str, object] = {
    "source": "pi",
    "meta": {"lang": "de", "n": 3, "none": None, "ok": True, "list": [{"x": "y"}]},
    "a.b": "dotted",
    "empty": "",
}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("source", "pi"),
        ("meta.lang", "de"),
        ("meta.n", "3"),
        ("meta.ok", "true"),
        ("meta.list", '[{"x":"y"}]'),
        ("meta.list.0.x", "y"),
        ("a.b", "dotted"),
        ("empty", ""),
        ("meta.none", None),
        ("nope", None),
        ("source.more", None),
        ("meta.list.1", None),
        ("meta.list.-1", None),
        ("meta.list." + "9" * 5000, None),
        ("meta.list.²", None),
        ("", None),
        (".", None),
    ],
)
def test_a_field_is_found_by_its_dotted_path(path: str, text: str | None) -> None:
    """Strings as they are, anything else as compact JSON, null and absence as None."""
    assert field_text(RECORD, path) == text
