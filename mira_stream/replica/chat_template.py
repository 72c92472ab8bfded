"""A model's chat template, rendered as `transformers` and so vLLM render it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec

from mira_stream.core.errors import Refusal

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_SENTINEL = "\ue000mira_stream user message\ue001"


class Around(msgspec.Struct, frozen=True):
    """What a template puts before and behind the user message, the system message included."""

    lead: str
    trail: str


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """The template of a system and a user message.

    Args:
        source: Jinja.
        names: the named special tokens, such as `bos_token`.
        arguments: what `chat_template_kwargs` of a request passes.
    """

    def __init__(self, source: str, names: dict[str, str], arguments: dict[str, Any]) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise Refusal(f"the chat template cannot be read: {error}", _HINT) from error
        self._variables = {**names, "tools": None, "documents": None, **arguments}

    def render(self, system: str, user: str) -> str:
        """The whole prompt, up to where the reply begins. Raises Refusal if the template does not take it."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._variables)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise Refusal(f"the chat template takes no system and user message: {error}", _HINT) from error

    def around(self, system: str) -> Around:
        """What stands around every user message. Raises Refusal if the template puts it in more than one place."""
        parts = self.render(system, _SENTINEL).split(_SENTINEL)
        if len(parts) != 2:
            raise Refusal(f"the chat template puts the user message in {len(parts) - 1} places", _HINT)
        return Around(parts[0], parts[1])


_HINT = "put the template that the replicas use beside tokenizer.json, as chat_template.jinja"


def load_chat_template(folder: Path, arguments: dict[str, Any]) -> ChatTemplate:
    """The template in a tokenizer's folder: `chat_template.jinja`, or that of `tokenizer_config.json`. Raises Refusal."""
    config = _config(folder)
    own = folder / "chat_template.jinja"
    try:
        source = own.read_text("utf-8") if own.is_file() else _default(config.get("chat_template"))
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"cannot read {own}: {error}", _HINT) from error
    if source is None:
        raise Refusal(f"there is no chat template in {folder}", _HINT)
    names = {name: text for name in _NAMED if (text := _token(config.get(name))) is not None}
    return ChatTemplate(source, names, arguments)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise Refusal(f"cannot read {file}: {error}", "give the one that came with the model") from error


def _default(source: object) -> str | None:
    """Some models have several templates, each with its name."""
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    return source if isinstance(source, str) else None


def _token(value: object) -> str | None:
    """A named token is a text, or an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes, unlike Jinja's own."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
