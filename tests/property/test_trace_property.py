"""Whatever the bytes, and whatever JSON stands in whatever place: an outcome, quickly, with turns that fit the text."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.decode import decode, field_text
from mira_stream.core.outcome import Reason
from mira_stream.core.trace import Rendered, Shape, render

SAMPLES = sorted((Path(__file__).parents[1] / "data").glob("traces_*.json"))
# fmt: off
KEYS = [
    "messages", "conversations", "events", "entries", "items", "traj", "history", "trajectory", "samples",
    "response", "responses_create_params", "output", "input", "instructions", "tools", "functions", "role",
    "content", "parts", "text", "value", "from", "type", "message", "payload", "data", "item", "tool_calls",
    "function_call", "function", "name", "arguments", "id", "call_id", "tool_call_id", "tool_use_id",
    "thinking", "reasoning", "summary", "tree", "children", "next", "node_type", "answer",
    "answer_generation", "answer_details", "train_messages", "final_answer", "query", "action",
    "observation", "info", "submission", "toolCalls", "thoughts", "result", "attachments", "error", "epoch",
    "metadata", "is_error", "system", "choices", "prompt", "completion", "request", "uuid", "subtype",
    "isMeta", "agentId", "properties", "parameters", "required", "source", "image_url", "git"
]
TYPES = [
    "user", "assistant", "system", "tool", "human", "gpt", "observation", "gemini", "message", "progress",
    "summary", "agent_progress", "text", "thinking", "tool_use", "tool_result", "tool_call", "image",
    "file", "function_call", "function_call_output", "reasoning", "local_shell_call", "web_search_call",
    "response_item", "event_msg", "session_meta", "compacted", "user_message", "agent_message",
    "exec_command_end", "queue-operation", "result", "toolResult", "bashExecution", "attachment://x",
    "<tool_call>{}</tool_call>", "response", "Thought"
]

# fmt: on

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(TYPES)
) | st.text(st.characters(codec="utf-8"), max_size=20)
_values = st.recursive(
    _leaves,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(st.characters(codec="utf-8"), max_size=4), below, max_size=6
        )
    ),
    max_leaves=40,
)
records = st.dictionaries(st.sampled_from(KEYS), _values, max_size=6)
_typed = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional=dict.fromkeys(
        ("message", "payload", "data", "content", "role", "item", "output", "action"), _values
    ),
)


def assert_sound(record: dict[str, object]) -> None:
    """The promise of `render`, for one record."""
    result = render(record)
    if isinstance(result, Rendered):
        result.text.encode()
        assert result.text.strip()
        assert result.shape in set(Shape)
        assert list(result.turns) == sorted(set(result.turns))
        assert result.turns[0] == 0
        assert result.turns[-1] < len(result.text)
    else:
        assert result is Reason.NO_TEXT
    assert render(record) == result


@given(records)
@settings(max_examples=200, deadline=None)
def test_any_object_renders_or_says_nothing(record: dict[str, object]) -> None:
    """Any JSON value in any place."""
    assert_sound(record)


@given(st.sampled_from(KEYS), st.lists(_typed, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_list_of_typed_objects_renders_or_says_nothing(key: str, items: list[dict[str, Any]]) -> None:
    """Events whose type is known and whose fields are anything."""
    assert_sound({key: items})


@given(records)
@settings(max_examples=100, deadline=None)
def test_rendering_leaves_the_record_as_it_was(record: dict[str, object]) -> None:
    """The record is read, never written."""
    before = json.dumps(record)
    render(record)
    assert json.dumps(record) == before


@given(
    st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_decode_to_an_object_or_a_reason(raw: bytes, first: bool) -> None:
    """Never an exception."""
    assert isinstance(decode(raw, first=first), (dict, Reason))


@given(_values, st.booleans())
@settings(max_examples=200, deadline=None)
def test_json_decodes_to_itself(value: object, ascii_only: bool) -> None:
    """Objects come back as they were written, escaped or not; anything else is `not_object`."""
    decoded = decode(json.dumps(value, ensure_ascii=ascii_only).encode(), first=False)
    if isinstance(value, dict):
        assert decoded == value
    else:
        assert decoded is Reason.NOT_OBJECT


@given(st.text(st.characters(), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_escaped_text_decodes_to_text_that_encodes(text: str) -> None:
    """Lone surrogates are replaced one for one, everything else is kept."""
    escaped = "".join(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else char for char in text)
    decoded = decode(f'{{"a":"{escaped}"}}'.encode(), first=False)
    # A high surrogate right before a low one is a pair.
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert isinstance(decoded, dict)
    assert decoded == {"a": paired}


@given(records, st.text(max_size=12) | st.lists(st.sampled_from(KEYS), max_size=4).map(".".join))
@settings(max_examples=200, deadline=None)
def test_any_path_gives_text_or_none(record: dict[str, object], path: str) -> None:
    """Never an exception."""
    assert isinstance(field_text(record, path), (str, type(None)))


def places(value: object) -> list[tuple[Any, Any]]:
    """Every (container, key) in `value`, in order."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        container = todo.pop()
        if isinstance(container, (dict, list)):
            keys = list(container) if isinstance(container, dict) else range(len(container))
            found += [(container, key) for key in keys]
            todo += [container[key] for key in keys]
    return found


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=300, deadline=None)
def test_a_known_record_with_anything_in_one_place_still_renders(sample: Path, data: st.DataObject) -> None:
    """Real records are known shapes with one thing wrong."""
    record = json.loads(sample.read_bytes())
    container, key = data.draw(st.sampled_from(places(record)))
    container[key] = data.draw(_leaves | st.just([]) | st.just({}) | st.just([{}]) | _values)
    assert_sound(record)
