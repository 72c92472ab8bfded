"""What the simulated replica refuses in a request, and in which words."""

import json
from typing import Any

import pytest

from mira_stream.sim.answers import CHAT, COMPLETION, Kind
from mira_stream.sim.intake import Call, read_call
from mira_stream.sim.settings import SimSettings
from mira_stream.sim.wire import WireError

SETTINGS = SimSettings(model="m", max_model_len=100, kv_capacity_tokens=1600)
HELLO = [{"role": "user", "content": "hello"}]


def read(body: bytes | dict[str, Any], *, kind: Kind = CHAT, content_type: str = "application/json") -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_call(data, content_type, kind=kind, settings=SETTINGS)


def refusal(body: bytes | dict[str, Any], *, kind: Kind = CHAT) -> dict[str, Any]:
    with pytest.raises(WireError) as caught:
        read(body, kind=kind).budgets(SETTINGS.max_model_len)
    error: dict[str, Any] = json.loads(caught.value.body)["error"]
    assert error["code"] == caught.value.status
    return error


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", "body.0", "Expecting value"),
        (b'{"messages": [', "body.14", "Expecting value"),
        (b'{"messages": 5, "max_tokens": }', "body.30", "Expecting value"),
        (b'{"messages": "\xff"}', "body.14", "json_invalid"),
        (b"[" * 5_000 + b"]" * 5_000, "body.0", "Too deep"),
        (b"[]", "body", "Expected `object`"),
        ({"messages": "hello"}, "body.messages", "Expected `array`"),
        ({"messages": [{"content": "x"}]}, "body.messages.0.role", "Field required"),
        ({"messages": HELLO, "max_tokens": "many"}, "body.max_tokens", "int_parsing"),
        ({"messages": HELLO, "temperature": "hot"}, "body.temperature", "float_parsing"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_400_that_names_the_place(
    body: bytes | dict[str, Any], param: str, words: str
) -> None:
    """Bad JSON and wrong fields get `Bad Request` with the path of the field, as vLLM's own checks do."""
    error = refusal(body)
    assert (error["code"], error["type"], error["param"]) == (400, "Bad Request", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
    ],
)
def test_sampling_settings_out_of_range_are_refused(fields: dict[str, Any], param: str | None) -> None:
    """Each is a 400 of type BadRequestError that names the parameter."""
    error = refusal({"messages": HELLO, **fields})
    assert (error["code"], error["type"], error["param"]) == (400, "BadRequestError", param)


def test_numbers_may_be_written_as_text() -> None:
    """`"max_tokens": "5"` is read as 5, as vLLM's lax checks do."""
    assert read({"messages": HELLO, "max_tokens": "5"}).max_tokens == 5


def test_the_context_is_filled_to_the_last_token_and_not_beyond() -> None:
    """99 prompt tokens leave one for the completion; 100 leave none; 101 are too long."""

    def budget(prompt_tokens: int) -> int:
        return read({"prompt": [5] * prompt_tokens, "max_tokens": 50}, kind=COMPLETION).budgets(100)[0][1]

    assert (budget(30), budget(99)) == (50, 1)
    assert refusal({"prompt": [5] * 100}, kind=COMPLETION)["param"] == "max_tokens"
    too_long = refusal({"prompt": [5] * 101}, kind=COMPLETION)
    assert (too_long["param"], "contains 101 input" in too_long["message"]) == ("input_tokens", True)


def test_a_long_text_is_only_said_to_be_too_long() -> None:
    """Of a prompt that came as text the message tells the limit plus one, not its length."""
    message = refusal({"messages": [{"role": "user", "content": "x" * 3_000}]})["message"]
    assert "at least 101 input tokens" in message


def test_the_last_user_message_is_judged() -> None:
    """Of a conversation the last user message is the record; all of it counts as prompt."""
    call = read({"messages": [{"role": "system", "content": "rules"}, *HELLO]})
    assert call.prompts[0].text == "hello"
    assert call.prompt_tokens == (5 + 2) + (5 + 2) + 3


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([7 + 65], ["A"]), ([[7 + 65], [7 + 66]], ["A", "B"])],
)
def test_completions_take_text_and_ids_alone_and_in_lists(prompt: Any, texts: list[str]) -> None:
    """Each form of prompt gives its texts, ids turned back."""
    assert [one.text for one in read({"prompt": prompt}, kind=COMPLETION).prompts] == texts


@pytest.mark.parametrize("prompt", [None, "", [], [[]], ["a", 5], ["a", [5]]])
def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    """Empty and mixed prompts are a 400."""
    assert refusal({"prompt": prompt}, kind=COMPLETION)["code"] == 400


def test_n_multiplies_the_completions_and_not_the_prompt() -> None:
    """`n` gives that many completions; the prompt is counted once."""
    call = read({"messages": HELLO, "n": 3})
    assert len(call.budgets(100)) == 3
    assert call.prompt_tokens == call.prompts[0].tokens
