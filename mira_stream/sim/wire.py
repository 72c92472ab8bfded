"""vLLM's HTTP forms: what requests look like, what is refused and in which words, what answers look like."""

import json
import re
from typing import Any

import msgspec

from mira_stream.sim.settings import SimSettings
from mira_stream.sim.tokens import Turn

VERSION = "0.32.0"
"""The vLLM whose surface this is."""


class WireError(Exception):
    """An answer that is an error: its status and body, and a Retry-After in seconds if there is one."""

    def __init__(self, status: int, body: bytes, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {body!r}")
        self.status = status
        self.body = body
        self.retry_after_seconds = retry_after_seconds


_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "Service Unavailable"}
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
LEAVING = "cannot schedule new futures after shutdown"
BUSY = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)
_PLANNED = {400: "planned fault", 404: "planned fault", 500: DEAD, 503: BUSY}


def error(status: int, message: str, *, param: str | None = None, kind: str | None = None) -> WireError:
    """An error in vLLM's own form: `{"error": {message, type, param, code}}`."""
    form = {
        "message": message,
        "type": kind or _TYPES.get(status, "InternalServerError"),
        "param": param,
        "code": status,
    }
    return WireError(status, msgspec.json.encode({"error": form}))


def parameter_error(message: str, parameter: str, value: object) -> WireError:
    """A refused value, in the words that end with the parameter's name."""
    return error(400, f"{message} (parameter={parameter}, value={value})", param=parameter)


def planned_error(status: int, retry_after_seconds: float | None) -> WireError:
    """The body that vLLM would send with that status, as far as it has one."""
    if status == 401:
        return unauthorized()
    made = error(status, _PLANNED.get(status, "planned fault"))
    made.retry_after_seconds = retry_after_seconds
    return made


def unauthorized() -> WireError:
    """The answer to a missing or wrong API key."""
    return WireError(401, b'{"error":"Unauthorized"}')


def detail(status: int, message: str) -> WireError:
    """What the web framework itself refuses, in its own form."""
    return WireError(status, msgspec.json.encode({"detail": message}))


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


class _Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of generation request share; fields that are not listed are ignored, as vLLM does."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    request_id: str | None = None
    truncate_prompt_tokens: int | None = None

    @property
    def stops(self) -> list[str]:
        stop = self.stop or []
        return [stop] if isinstance(stop, str) else stop


class ChatRequest(_Generation, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    add_generation_prompt: bool = True


class CompletionRequest(_Generation, frozen=True, kw_only=True):
    """`POST /v1/completions`; the prompt is a text, texts, token ids or lists of them."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = None


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


def turns(messages: list[Message], model: str) -> list[Turn]:
    """The conversation, text parts joined with newlines. Raises WireError where vLLM refuses it."""
    if not messages:
        raise error(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    return [Turn(message.role, _content(message.content, model)) for message in messages]


def _content(content: str | list[TextPart] | None, model: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part.type != "text" for part in content):
        raise error(400, f"{model} is not a multimodal model")
    return "\n".join(part.text or "" for part in content)


def check_model(model: str | None, served: str) -> None:
    """Raises the 404 for another model; none named is fine."""
    if model is not None and model != served:
        raise error(404, f"The model `{model}` does not exist. Valid aliases: {served}.", param="model")


def check_sampling(request: _Generation) -> None:
    """Raises the 400 for sampling settings out of range."""
    if request.n is not None and request.n < 1:
        raise error(400, f"n must be at least 1, got {request.n}.")
    if request.temperature is not None and request.temperature < 0:
        value = request.temperature
        raise parameter_error(f"temperature must be non-negative, got {value}.", "temperature", value)
    if request.top_p is not None and not 0 < request.top_p <= 1:
        value = request.top_p
        raise parameter_error(f"top_p must be in (0, 1], got {value}.", "top_p", value)


def output_budget(max_tokens: int | None, prompt_tokens: int, settings: SimSettings, *, ids: bool = False) -> int:
    """Tokens that the completion may have: what is asked, silently clamped to what the context leaves.

    Raises the 400 where the prompt, or `max_tokens` alone, is over the context. A prompt given as text is only said
    to have "at least" one token too many; one given as `ids` is counted.
    """
    limit = settings.max_model_len
    if prompt_tokens > limit:
        seen = prompt_tokens if ids else limit + 1
        at_least = "" if ids else "at least "
        raise parameter_error(
            f"This model's maximum context length is {limit} tokens. However, your prompt contains {at_least}{seen}"
            " input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the"
            " input prompt.",
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


def decode[T](body: bytes, content_type: str, type_: type[T]) -> T:
    """Read a request body. Raises the 400 in the words of vLLM's request checks."""
    raise NotImplementedError
