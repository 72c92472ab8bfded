"""Chat templates render as `transformers` renders them, and say what they do not take."""

import json
from pathlib import Path

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.replica.chat_template import ChatTemplate, load_chat_template
from tests.fakes.qwen import CHAT_TEMPLATE


def _template(source: str, **arguments: object) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>"}, dict(arguments))


def test_blocks_leave_no_lines_and_arguments_arrive() -> None:
    """`trim_blocks`, `lstrip_blocks`, the generation prompt, and `chat_template_kwargs`."""
    assert _template(CHAT_TEMPLATE).render("s", "u") == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (
        _template(CHAT_TEMPLATE, enable_thinking=False).render("s", "u").endswith("<think>\n\n</think>\n\n")
    )


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ bos_token }}{{ messages[1].content }}", "<s>u<&>"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, indent=1) }}", '{\n "a": 2,\n "b": 1\n}'),
        (
            "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            "system",
        ),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "s"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{{ tools is none and documents is none }}", "True"),
    ],
)
def test_what_templates_of_models_use_is_there(source: str, rendered: str) -> None:
    """Named tokens, JSON without HTML's escapes, loop controls, the time; nothing is escaped."""
    assert _template(source).render("s", "u<&>") == rendered


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{% for %}", "cannot be read"),
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ messages.append(1) }}", "takes no system and user message"),
        ("{{ ''.__class__.__mro__ }}", "takes no system and user message"),
    ],
)
def test_what_a_template_refuses_is_said(source: str, says: str) -> None:
    """Its own words, and nothing that reaches out of the sandbox."""
    with pytest.raises(Refusal, match=says):
        _template(source).render("s", "u")


@pytest.mark.parametrize(
    "source", ["{{ messages[0].content }}", "{{ messages[1].content }}{{ messages[1].content }}"]
)
def test_the_user_message_must_stand_in_one_place(source: str) -> None:
    """Else the prompt cannot be put together around it."""
    with pytest.raises(Refusal, match=r"in [02] places"):
        _template(source).around("s")


def test_the_template_is_found_where_models_keep_it(tmp_path: Path) -> None:
    """A file of its own goes before the one in tokenizer_config.json; of several there, the default."""
    with pytest.raises(Refusal, match="there is no chat template"):
        load_chat_template(tmp_path, {})
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ eos_token }}"}]
    config = {"chat_template": named, "eos_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_chat_template(tmp_path, {}).render("s", "u") == "</s>"
    (tmp_path / "chat_template.jinja").write_text("own {{ eos_token }}")
    assert load_chat_template(tmp_path, {}).render("s", "u") == "own </s>"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(Refusal, match="cannot read"):
        load_chat_template(tmp_path, {})
