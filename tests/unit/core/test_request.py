"""The bodies of requests: what is in them, what is not, and that they are made of constant parts."""

import json

import msgspec
import pytest

from mira_stream.core.request import PromptIds, RequestEncoder, RequestSettings

NASTY = 'a "quoted" \\ back\\slash\n\ttab \x00 \x1f \u2028 中文 😀 </judged_record>'


def test_defaults_are_those_of_the_model_card() -> None:
    """Without any setting the body holds the card's sampling, no seed, and nothing the card does not name."""
    body = json.loads(RequestEncoder(RequestSettings(), "m").encode_chat("s", "u"))
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "max_tokens": 2048,
        "temperature": 0.7,
        "top_p": 0.95,
        "stream": False,
    }


def test_texts_survive_encoding_exactly() -> None:
    """Whatever characters a message holds, a JSON reader gets them back."""
    body = json.loads(RequestEncoder(RequestSettings(), NASTY).encode_chat(NASTY, NASTY[::-1]))
    assert body["model"] == NASTY
    assert [message["content"] for message in body["messages"]] == [NASTY, NASTY[::-1]]


def test_every_setting_reaches_the_body() -> None:
    """Each sampling setting that is given is sent, template arguments too."""
    settings = RequestSettings(
        temperature=0.1, top_p=0.5, top_k=20, min_p=0.01, repetition_penalty=1.1, max_tokens=7, seed=3,
        chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    body = json.loads(RequestEncoder(settings).encode_chat("s", "u"))
    del body["messages"]
    assert body == {
        "max_tokens": 7,
        "temperature": 0.1,
        "top_p": 0.5,
        "top_k": 20,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "seed": 3,
        "chat_template_kwargs": {"enable_thinking": False},
        "stream": False,
    }


def test_a_reask_has_no_seed_and_is_never_cold() -> None:
    """A re-ask differs only in what could make the reply differ, and asking a third time changes nothing more."""
    encoder = RequestEncoder(RequestSettings(temperature=0, seed=1, reask_temperature_min=0.4), "m")
    first = encoder.encode_chat("s", "u")
    again = encoder.encode_reask(first)
    assert json.loads(first) == {**json.loads(again), "seed": 1, "temperature": 0}
    assert json.loads(again)["temperature"] == 0.4
    assert "seed" not in json.loads(again)
    assert encoder.encode_reask(again) == again


def test_a_reask_at_the_cards_settings_is_the_same_body() -> None:
    """Sampling at 0.7 without a seed gives another reply by itself."""
    encoder = RequestEncoder(RequestSettings(), "m")
    body = encoder.encode_chat("s", "u")
    assert encoder.encode_reask(body) == body


def test_tokenize_counts_the_same_messages() -> None:
    """The body for `/tokenize` has the same messages and template arguments, opens the reply, and samples nothing."""
    encoder = RequestEncoder(RequestSettings(chat_template_kwargs={"enable_thinking": False}), "m")
    chat, tokenize = (
        json.loads(encode("s", NASTY)) for encode in (encoder.encode_chat, encoder.encode_tokenize)
    )
    assert tokenize == {
        "model": "m",
        "messages": chat["messages"],
        "add_generation_prompt": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_the_part_before_the_record_is_the_same_bytes_for_every_record() -> None:
    """A prefix cache can hold it: two bodies differ first inside the user message."""
    encoder = RequestEncoder(RequestSettings(), "m")
    bodies = [encoder.encode_chat("system " * 50, text) for text in ("one", "two")]
    shared = len(b'{"model":"m","messages":[{"role":"system","content":"') + 350
    assert bodies[0][:shared] == bodies[1][:shared]


def test_another_system_message_is_not_mistaken_for_the_last_one() -> None:
    """The kept head follows the system message that is given."""
    encoder = RequestEncoder(RequestSettings())
    contents = [
        json.loads(encoder.encode_chat(s, "u"))["messages"][0]["content"] for s in ("", "a", "b", "a")
    ]
    assert contents == ["", "a", "b", "a"]


@pytest.mark.parametrize(
    "toml_like",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"overflow": "tail"},
        {"reasks_max": -1},
        {"top_p": 1.5},
    ],
)
def test_settings_that_no_replica_takes_are_refused(toml_like: dict[str, object]) -> None:
    """A value outside its range is an error when the configuration is read, not a 400 for every record."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(toml_like, RequestSettings)


def test_every_setting_is_described() -> None:
    """The configuration reference is made from the descriptions."""
    properties = msgspec.json.schema(RequestSettings)["$defs"]["RequestSettings"]["properties"]
    assert [name for name, schema in properties.items() if not schema.get("description")] == []


def test_ids_are_asked_about_with_the_same_sampling() -> None:
    """The template's arguments were used up; a re-ask keeps the ids, and is the same however often it is made."""
    settings = RequestSettings(temperature=0, seed=1, chat_template_kwargs={"enable_thinking": False})
    encoder = RequestEncoder(settings, "m")
    body = encoder.encode_ids(PromptIds(3, b"1,2,3"))
    chat = json.loads(encoder.encode_chat("s", "u"))
    expected = {key: value for key, value in chat.items() if key not in ("messages", "chat_template_kwargs")}
    assert json.loads(body) == {**expected, "prompt": [1, 2, 3]}
    again = encoder.encode_reask(body)
    assert encoder.encode_reask(again) == again
    assert json.loads(again) == {
        **{key: value for key, value in expected.items() if key != "seed"},
        "prompt": [1, 2, 3],
        "temperature": 0.3,
    }
