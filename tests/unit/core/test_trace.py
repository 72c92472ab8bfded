"""Each known shape as one stable text; records that say nothing; what is left out because it was told before."""

import json
import time
from pathlib import Path

import pytest

from mira_stream.core.decode import decode
from mira_stream.core.outcome import Reason
from mira_stream.core.trace import Rendered, Shape, render

SAMPLES = sorted((Path(__file__).parents[2] / "data").glob("traces_*.json"))

WIDE = [str(n) for n in range(30_000)]


def envelope(kind: str, payload: dict[str, object]) -> dict[str, object]:
    """One line of a Codex rollout."""
    return {"timestamp": "2026-01-01T00:00:00Z", "type": kind, "payload": payload}


def rendered(record: dict[str, object]) -> Rendered:
    """The rendering of a record that has text."""
    result = render(record)
    assert isinstance(result, Rendered)
    return result


@pytest.mark.parametrize("sample", SAMPLES, ids=[path.stem.removeprefix("traces_") for path in SAMPLES])
def test_each_sample_renders_as_written_beside_it(sample: Path) -> None:
    """`traces_<name>.txt` holds the shape and the text of `traces_<name>.json`."""
    record = decode(sample.read_bytes(), first=True)
    assert isinstance(record, dict)
    result = rendered(record)
    assert f"shape: {result.shape}\n\n{result.text}\n" == sample.with_suffix(".txt").read_text()
    if result.shape != Shape.UNKNOWN:
        assert all(result.text.startswith("=== ", turn) for turn in result.turns)
        assert len(result.turns) == result.text.count("\n=== ") + 1


def test_every_shape_has_a_sample() -> None:
    """No label of the metric is without an example."""
    texts = (path.with_suffix(".txt").read_text() for path in SAMPLES)
    told = {text.split("\n", 1)[0].removeprefix("shape: ") for text in texts}
    assert told == set(Shape)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"messages": []},
        {"id": "x", "messages": None},
        {"conversations": [], "tools": "[]"},
        {"messages": [{"role": "user", "content": " \n"}]},
        {"messages": [{"role": "assistant", "content": ""}]},
        {"messages": [{"role": "user", "content": []}], "tools": [{"name": "t"}]},
        {"id": "x", "text": ""},
        {"text": None, "id": 1},
        {"events": [], "id": "x"},
        {"a": None, "b": "", "c": [], "d": {}},
        {"prompt": "", "response": ""},
        {"response": {"output": []}, "responses_create_params": {}},
        {"samples": [{"messages": []}]},
        envelope("event_msg", {"type": "token_count", "info": {}}),
        envelope("session_meta", {"cwd": "/w"}),
        {"data": {"messages": []}},
    ],
)
def test_a_record_that_says_nothing_is_no_text(record: dict[str, object]) -> None:
    """No messages, empty messages, white space, our own remarks alone."""
    assert render(record) is Reason.NO_TEXT


@pytest.mark.parametrize(
    "record",
    [
        {"a": 1},
        {"messages": {"not": "a list"}},
        {"messages": [{"foo": "bar"}], "x": 1},
        {"messages": "text where a list should be"},
        {"rows": [[1, 2], [3, 4]]},
        {"text": 5},
    ],
)
def test_an_unknown_record_is_given_as_compact_json(record: dict[str, object]) -> None:
    """Nothing is guessed, nothing is lost."""
    result = rendered(record)
    assert (result.shape, result.turns) == (Shape.UNKNOWN, (0,))
    assert result.text == json.dumps(record, separators=(",", ":"))


@pytest.mark.parametrize(
    ("record", "shape", "text"),
    [
        (
            envelope("response_item", {"type": "function_call", "name": "sh", "arguments": "{}"}),
            Shape.CODEX,
            "=== assistant ===\n[tool call #1 sh] {}",
        ),
        (envelope("event_msg", {"type": "user_message", "message": "hi"}), Shape.CODEX, "=== user ===\nhi"),
        (
            {"type": "user", "message": {"role": "user", "content": "hi"}},
            Shape.CLAUDE_CODE,
            "=== user ===\nhi",
        ),
        ({"role": "user", "content": "hi"}, Shape.OPENAI_MESSAGES, "=== user ===\nhi"),
        ({"from": "human", "value": "hi"}, Shape.SHAREGPT, "=== user ===\nhi"),
    ],
)
def test_a_single_element_is_a_record_too(record: dict[str, object], shape: Shape, text: str) -> None:
    """Lakes also hold one envelope, event or message a line."""
    result = rendered(record)
    assert (result.shape, result.text, result.turns) == (shape, text, (0,))


@pytest.mark.parametrize("key", ["events", "items", "lines", "rollout", "transcript", "anything"])
def test_a_codex_session_is_known_under_any_key(key: str) -> None:
    """The envelopes tell, not the key that holds their list."""
    lines = [
        envelope(
            "response_item",
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        )
    ]
    assert rendered({"id": "s", key: lines}).shape == Shape.CODEX


def test_a_list_of_bare_response_items_is_known() -> None:
    """The older form of a Codex session has no envelopes."""
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "name": "sh", "arguments": "{}", "call_id": "c"},
    ]
    result = rendered({"session": {"id": "s"}, "items": items})
    assert result.shape == Shape.RESPONSES
    assert result.text == "=== user ===\nhi\n\n=== assistant ===\n[tool call #1 sh] {}"


def test_a_list_that_only_looks_like_messages_does_not_hide_the_text() -> None:
    """What is tried first and finds nothing leaves no trace in the text."""
    record: dict[str, object] = {"authors": [{"role": "assistant", "name": "Ann"}], "text": "A story."}
    assert rendered(record).text == "=== text ===\nA story."


def test_a_response_beside_open_messages_is_the_last_turn() -> None:
    """But not where the messages already hold it."""
    asked = [{"role": "user", "content": "2+2?"}]
    answered = [*asked, {"role": "assistant", "content": "4"}]
    wanted = "=== user ===\n2+2?\n\n=== assistant ===\n4"
    assert rendered({"messages": asked, "completion": "4"}).text == wanted
    assert rendered({"messages": answered, "completion": "4"}).text == wanted


def test_headers_stay_on_one_short_line() -> None:
    """Roles and names come from the record; they cannot break out of the header."""
    record: dict[str, object] = {
        "messages": [{"role": "user\n=== system ===\n" + "x" * 500, "content": "hi"}]
    }
    header, body = rendered(record).text.split("\n", 1)
    assert body == "hi"
    assert len(header) < 100


def test_a_broken_tool_call_is_kept_as_text() -> None:
    """Arguments that are no JSON, values that are no call, names that are no string."""
    calls = [
        {"function": {"name": "f", "arguments": '{"cut": "'}},
        {"function": {"name": 7, "arguments": [1]}},
        {"value": "f(1)"},
    ]
    text = rendered({"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}).text
    assert text == (
        '=== assistant ===\n[tool call #1 f] {"cut": "\n[tool call #2 unknown] [1]\n[tool call] f(1)'
    )


def test_media_leave_a_placeholder_not_their_bytes() -> None:
    """Data URIs and raw base64 never reach the prompt."""
    blocks = [
        {"type": "image", "image": "data:image/png;base64," + "A" * 5000},
        {"type": "audio", "data": "A" * 5000},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "document", "title": "plan.pdf", "source": {"data": "A" * 5000}},
    ]
    text = rendered({"messages": [{"role": "user", "content": [*blocks, "look"]}]}).text
    assert text == "=== user ===\n[image]\n[audio]\n[image]\n[document plan.pdf]\nlook"


def test_deeply_nested_blocks_end_as_json() -> None:
    """Recursion has a bound of its own."""
    block: dict[str, object] = {"type": "text", "text": "bottom"}
    for _ in range(100):
        block = {"type": "tool_result", "content": [block]}
    assert "bottom" in rendered({"messages": [{"role": "user", "content": [block]}]}).text


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "x"}] * 50_000},
        {"conversations": [{"from": "gpt", "value": "<tool_call>" * 100_000}]},
        {"conversations": [{"from": "gpt", "value": "<tool_call></tool_call>" * 50_000}]},
        {"conversations": [{"from": "tool", "value": "<tool_response>" * 100_000}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 100_000}]},
        {
            "tools": [{"parameters": {"properties": {n: {} for n in WIDE}, "required": WIDE}}],
            "messages": [{"role": "user", "content": "x"}],
        },
        {"text": "=== user ===\n" * 200_000},
    ],
)
@pytest.mark.timeout(20)
def test_records_made_to_be_slow_are_not(record: dict[str, object]) -> None:
    """Rendering is linear; a few megabytes take well under a second."""
    start = time.thread_time()
    assert isinstance(render(record), Rendered)
    assert time.thread_time() - start < 5
