"""What vLLM accepts: its request bodies, and what it refuses in them.

A field that is not listed here is accepted and ignored, as vLLM does with fields that it does not know.
"""

import json
import re
from typing import Any, TypeVar

import msgspec

from mira_stream.sim.tokens import Turn
from mira_stream.sim.wire import WireError, error, parameter_error

T = TypeVar("T")


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str
    content: str | list[TextPart] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells beside its text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of generation request share."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    request_id: str | None = None
    truncate_prompt_tokens: int | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        stop = self.stop or []
        return [stop] if isinstance(stop, str) else stop


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    add_generation_prompt: bool = True


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """`POST /v1/completions`; the prompt is a text, texts, token ids, or lists of token ids."""

    prompt: str | list[str | int | list[int]] | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /tokenize`: a `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


def decode(body: bytes, content_type: str, kind: type[T]) -> T:
    """Read a request body. Raises the 400 of vLLM's request checks, in their words."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise _unreadable("Unsupported Media Type: Only 'application/json' is allowed", None)
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise _wrong_json(body) or _wrong_field(body, str(problem)) from problem


def turns(messages: list[Message], model: str) -> list[Turn]:
    """The conversation, text parts joined by newlines. Raises the 400 where vLLM refuses it."""
    if not messages:
        raise error(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    return [Turn(message.role, _content(message.content, model)) for message in messages]


def prompts(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts, each as text or ids. Raises the 400 for none, an empty one, or a mixture."""
    prompt = request.prompt
    if isinstance(prompt, list) and prompt:
        if all(isinstance(part, int) for part in prompt):
            return [[part for part in prompt if isinstance(part, int)]]
        found = [part for part in prompt if not isinstance(part, int)]
        if all(found) and len(found) == len(prompt) and len({type(part) for part in found}) == 1:
            return found
    elif isinstance(prompt, str) and prompt:
        return [prompt]
    message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
    raise error(400, message, param="prompt")


def check_model(model: str | None, served: str) -> None:
    """Raises the 404 for another model; none named is fine."""
    if model is not None and model != served:
        raise error(404, f"The model `{model}` does not exist. Valid aliases: {served}.", param="model")


def check_sampling(request: GenerationRequest) -> None:
    """Raises the 400 for sampling settings out of range."""
    if request.n is not None and request.n < 1:
        raise error(400, f"n must be at least 1, got {request.n}.")
    if request.temperature is not None and request.temperature < 0:
        value = request.temperature
        raise parameter_error(f"temperature must be non-negative, got {value}.", "temperature", value)
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise parameter_error(f"top_p must be in (0, 1], got {request.top_p}.", "top_p", request.top_p)


def output_budget(max_tokens: int | None, prompt_tokens: int, limit: int, *, counted: bool) -> int:
    """Tokens that the completion may have: what is asked, silently clamped to what the context `limit` leaves.

    Raises the 400 where the prompt, or `max_tokens` alone, is over the limit. Of a prompt that came as text vLLM only
    says that it is too long; one that came as ids is `counted` in the message.
    """
    if prompt_tokens > limit:
        seen, least = (prompt_tokens, "") if counted else (limit + 1, "at least ")
        raise parameter_error(
            f"This model's maximum context length is {limit} tokens. However, your prompt contains {least}{seen} input"
            " tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input"
            " prompt.",
            "input_tokens",
            seen,
        )
    if max_tokens is not None and max_tokens > limit:
        raise parameter_error(
            f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output tokens.",
            "max_tokens",
            max_tokens,
        )
    left = limit - prompt_tokens
    budget = left if max_tokens is None else min(max_tokens, left)
    if budget < 1:
        raise parameter_error(f"max_tokens must be at least 1, got {budget}.", "max_tokens", budget)
    return budget


def _content(content: str | list[TextPart] | None, model: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part.type != "text" for part in content):
        raise error(400, f"{model} is not a multimodal model")
    return "\n".join(part.text or "" for part in content)


def _unreadable(problem: str, param: str | None) -> WireError:
    return error(400, f"1 validation error:\n  {problem}", param=param, kind="Bad Request")


def _wrong_json(body: bytes) -> WireError | None:
    """The words of Python's own JSON reader, which vLLM quotes; None if the body is JSON."""
    try:
        json.loads(body)
    except json.JSONDecodeError as problem:
        place, reason = problem.pos, problem.msg
    except UnicodeDecodeError as problem:
        place, reason = problem.start, problem.reason
    except RecursionError:
        place, reason = 0, "Too deep"
    else:
        return None
    fields = {
        "type": "json_invalid",
        "loc": f"body.{place}",
        "msg": "JSON decode error",
        "input": "<dict of 0 items>",
        "ctx": {"error": reason},
    }
    return _unreadable(str(fields), f"body.{place}")


_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_EXPECTED = re.compile(r"Expected `(\w+)")


def _wrong_field(body: bytes, problem: str) -> WireError:
    match = _PATH.match(problem)
    assert match is not None, "the pattern takes any text"
    steps = re.findall(r"\w+", match["path"] or "")
    missing = _MISSING.match(match["what"])
    value = _value_at(json.loads(body), steps)
    fields: dict[str, object]
    if missing:
        steps.append(missing[1])
        fields = {"type": "missing", "loc": _loc(steps), "msg": "Field required", "input": _shown(value)}
    else:
        kind, message = _type_problem(match["what"], value)
        fields = {"type": kind, "loc": _loc(steps), "msg": message, "input": _shown(value)}
    return _unreadable(str(fields), _loc(steps))


def _type_problem(what: str, value: object) -> tuple[str, str]:
    expected = _EXPECTED.match(what)
    if expected and expected[1] == "int" and isinstance(value, str):
        return "int_parsing", "Input should be a valid integer, unable to parse string as an integer"
    if expected and expected[1] == "float" and isinstance(value, str):
        return "float_parsing", "Input should be a valid number, unable to parse string as a number"
    return "type_error", what


def _loc(steps: list[str]) -> str:
    return ".".join(["body", *steps])


def _value_at(document: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isdigit():
            document = document[int(step)]
    return document


def _shown(value: Any) -> object:
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    return value
