"""Records of every known shape to one stable text: the text that is judged. Pure, linear, never raises.

A record is recognised by what it holds, hardly by the name of the key that holds it. One that is not recognised is
given as compact JSON, under a label of its own.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from mira_stream.core import shapes_cli, shapes_codex, shapes_harness, shapes_messages
from mira_stream.core.outcome import Reason
from mira_stream.core.shapes_text import Object, Transcript, compact, objects


class Shape(StrEnum):
    """How a record tells its trace; a metric label and a column of the row."""

    OPENAI_MESSAGES = "openai_messages"
    CONTENT_BLOCKS = "content_blocks"
    SHAREGPT = "sharegpt"
    HERMES = "hermes"
    RESPONSES = "responses"
    CODEX = "codex"
    CLAUDE_CODE = "claude_code"
    GEMINI_CLI = "gemini_cli"
    PI = "pi"
    SWE_AGENT = "swe_agent"
    TOOLBENCH = "toolbench"
    INSPECT = "inspect"
    PROMPT_RESPONSE = "prompt_response"
    EVENT_STREAM = "event_stream"
    PLAIN_TEXT = "plain_text"
    UNKNOWN = "unknown"


class Rendered(msgspec.Struct, frozen=True):
    """The text of a record. `turns` are the offsets in `text` where each turn begins, ascending."""

    text: str
    shape: str
    turns: tuple[int, ...]


_LIST_KEYS = (
    "messages",
    "conversations",
    "conversation",
    "events",
    "entries",
    "items",
    "rollout",
    "traj",
    "history",
)
_NO_TRACE_KEYS = ("tools", "functions", "available_tools", "system", "system_prompt", "instructions")
_TEXT_KEYS = ("text", "content", "body", "transcript", "document", "markdown", "raw", "log")
_NEST_KEYS = (
    "data",
    "trace",
    "trajectory",
    "record",
    "session",
    "conversation",
    "rollout",
    "sample",
    "payload",
    "body",
)
_EMPTY: tuple[object, ...] = (None, "", [], {})

_Writer = Callable[[Transcript, Object], None]
_WHOLE: tuple[tuple[Shape, Callable[[Object], bool], _Writer], ...] = (
    (Shape.RESPONSES, shapes_codex.is_responses, shapes_codex.responses_rollout),
    (Shape.INSPECT, shapes_harness.is_inspect, shapes_harness.inspect_log),
    (Shape.SWE_AGENT, shapes_harness.is_swe_agent, shapes_harness.swe_agent),
    (Shape.TOOLBENCH, shapes_harness.is_toolbench, shapes_harness.toolbench),
)
_EVENTS: dict[Shape, Callable[[Transcript, list[object]], None]] = {
    Shape.CODEX: shapes_codex.codex_rollout,
    Shape.CLAUDE_CODE: shapes_cli.claude_code,
    Shape.GEMINI_CLI: shapes_cli.gemini_cli,
    Shape.PI: shapes_cli.pi_session,
    Shape.EVENT_STREAM: shapes_cli.event_stream,
}
_CONVERSATIONS: dict[Shape, Callable[[Transcript, Object, list[object]], None]] = {
    Shape.RESPONSES: shapes_codex.items,
    Shape.OPENAI_MESSAGES: shapes_messages.messages,
    Shape.SHAREGPT: shapes_messages.sharegpt,
}


def render(record: dict[str, object]) -> Rendered | Reason:
    """The text of `record`, or `no_text` if it is of a known shape and says nothing."""
    out = Transcript()
    shape = _write(out, record) or _write_nested(out, record)
    if out.has_text and shape is not None:
        return Rendered(out.text, shape, tuple(out.turns))
    if shape is not None or all(value in _EMPTY for value in record.values()):
        return Reason.NO_TEXT
    return Rendered(compact(record), Shape.UNKNOWN, (0,))


def _write(out: Transcript, record: Object) -> Shape | None:
    """Write `record` in the first shape that finds text in it; the shape, or None if none knows it."""
    known: Shape | None = None
    for attempt in (_write_whole, _write_listed, _write_single, _write_pair, _write_text):
        known = attempt(out, record) or known
        if out.has_text:
            break
        out.reset()
    return known


def _write_whole(out: Transcript, record: Object) -> Shape | None:
    for shape, is_shape, write in _WHOLE:
        if is_shape(record):
            write(out, record)
            return shape
    return None


def _write_listed(out: Transcript, record: Object) -> Shape | None:
    """A record that holds its trace as a list, under whatever key; keys that usually hold it are asked first."""
    known: Shape | None = None
    events: list[object] = []
    for key in (
        *(key for key in _LIST_KEYS if key in record),
        *(key for key in record if key not in _LIST_KEYS),
    ):
        items = record[key]
        if not items and key in _LIST_KEYS:
            known = known or Shape.OPENAI_MESSAGES
        if not isinstance(items, list) or key in _NO_TRACE_KEYS:
            continue
        shape = _shape_of(items)
        if shape is Shape.EVENT_STREAM:
            events = events or items
        elif shape is not None:
            known = _write_list(out, record, items, shape)
            if out.has_text:
                return known
            out.reset()
    return _write_list(out, record, events, Shape.EVENT_STREAM) if events else known


def _write_list(out: Transcript, record: Object, items: list[object], shape: Shape) -> Shape:
    if shape in _EVENTS:
        _EVENTS[shape](out, items)
        return shape
    _CONVERSATIONS[shape](out, record, items)
    if shape is Shape.SHAREGPT and shapes_messages.is_hermes(items):
        return Shape.HERMES
    if shape is Shape.OPENAI_MESSAGES and any(
        isinstance(item.get("content"), list) for item in objects(items)
    ):
        return Shape.CONTENT_BLOCKS
    return shape


def _shape_of(items: list[object]) -> Shape | None:
    """What a list is, by its first element that tells; `EVENT_STREAM` if they are typed objects of no known kind."""
    typed = False
    for item in objects(items):
        if (shape := _element_shape(item)) is not None:
            return shape
        typed = typed or (isinstance(item.get("type"), str) and len(item) > 1)
    return Shape.EVENT_STREAM if typed else None


def _element_shape(item: Object) -> Shape | None:
    kind = item.get("type")
    if not isinstance(kind, str):
        kind = ""
    if kind in shapes_codex.ENVELOPES and isinstance(item.get("payload"), dict):
        return Shape.CODEX
    if isinstance(told := item.get("message"), dict):
        if kind in ("user", "assistant"):
            return Shape.CLAUDE_CODE
        return Shape.PI if kind == "message" and "role" in told else None
    if kind in shapes_codex.ITEMS:
        return Shape.RESPONSES
    if "role" in item:
        return Shape.RESPONSES if kind == "message" else Shape.OPENAI_MESSAGES
    if "from" in item and "value" in item:
        return Shape.SHAREGPT
    if kind == "gemini" or (kind == "user" and "content" in item):
        return Shape.GEMINI_CLI
    return None


def _write_single(out: Transcript, record: Object) -> Shape | None:
    """A record that is one element of such a list: one envelope, one event, one message."""
    shape = _element_shape(record)
    return None if shape is None else _write_list(out, {}, [record], shape)


def _write_pair(out: Transcript, record: Object) -> Shape | None:
    if not shapes_messages.is_pair(record):
        return None
    shapes_messages.pair(out, record)
    return Shape.PROMPT_RESPONSE


def _write_text(out: Transcript, record: Object) -> Shape | None:
    known: Shape | None = None
    for key in _TEXT_KEYS:
        value = record.get(key)
        if isinstance(value, str) or (value is None and key in record):
            known = Shape.PLAIN_TEXT
            out.turn("text")
            out.say(value or "")
            if out.has_text:
                break
    return known


def _write_nested(out: Transcript, record: Object) -> Shape | None:
    """A record that wraps a known one, one level deep."""
    known: Shape | None = None
    for key in _NEST_KEYS:
        value = record.get(key)
        if isinstance(value, dict) and (shape := _write(out, value)) is not None:
            known = shape
            if out.has_text:
                break
    return known
