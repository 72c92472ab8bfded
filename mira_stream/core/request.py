"""How a record is asked about: the settings of a request, and its body as ready bytes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_encode = msgspec.json.Encoder().encode
_STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
"""The cost in every chunk: who leaves early knows it all the same."""


class RequestSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[request]`: sampling as on the scorers' model card, and what to do with long records and bad replies."""

    mode: Annotated[
        Literal["chat", "tokens"],
        Meta(
            description="chat: the replica applies its chat template; tokens: it is applied here, and token ids are "
            "sent to /v1/completions (needs the pool's tokenizer)."
        ),
    ] = "chat"
    temperature: Annotated[
        float, Meta(ge=0, le=2, description="Sampling temperature; the card's is 0.7.")
    ] = 0.7
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="Share of probability sampled from; the card's is 0.95.")
    ] = 0.95
    top_k: Annotated[
        Annotated[int, Meta(ge=-1)] | None,
        Meta(description="Most tokens sampled from, -1 for all; default: what the replica's model sets."),
    ] = None
    min_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="Least probability, relative to the best token's; default: what the replica's model sets."
        ),
    ] = None
    repetition_penalty: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Penalty for repeated tokens, 1 is none; default: what the replica's model sets."),
    ] = None
    max_tokens: Annotated[
        int,
        Meta(ge=1, description="Longest reply, in tokens; prompt and reply together must fit the context."),
    ] = 2048
    stream: Annotated[
        bool,
        Meta(
            description="Stream replies: time-outs by progress, evidence of prefill, early end of loops, for more CPU "
            "a reply; raise vLLM's --stream-interval with it."
        ),
    ] = False
    seed: Annotated[
        int | None,
        Meta(
            description="Seed of the first request for a record, never of a re-ask; with chunked prefill a seed can "
            "kill a vLLM that runs on CPU."
        ),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any], Meta(description="Passed to the chat template of the model, such as enable_thinking.")
    ] = {}
    overflow: Annotated[
        Literal["middle", "dead_letter"],
        Meta(description="A record too long for the context: cut out its middle, or dead-letter it."),
    ] = "middle"
    reasks_max: Annotated[
        int,
        Meta(ge=0, le=10, description="How often a record is asked about again after an incomplete reply."),
    ] = 2
    reask_temperature_min: Annotated[
        float,
        Meta(ge=0, le=2, description="Least temperature of a re-ask, so that the reply can differ at all."),
    ] = 0.3
    structured_output: Annotated[
        Literal["off", "regex", "retry_only"],
        Meta(
            description="Hold replies to the reply's grammar by vLLM's structured outputs: regex: always; retry_only: "
            "when a record is asked about again."
        ),
    ] = "off"
    structured_text_chars_max: Annotated[
        int,
        Meta(
            ge=16,
            le=2000,
            description="Longest rationale and brief that structured output lets through, in characters.",
        ),
    ] = 400


class PromptIds(msgspec.Struct, frozen=True):
    """An encoded prompt: how many tokens, and their ids as JSON numbers with commas between."""

    tokens: int
    ids: bytes


class RequestEncoder:
    """Bodies for one model under one set of settings. All but the user message is encoded once.

    `model` is the name the replicas serve; with None it is left out, and a vLLM answers with the one it has.
    The system message comes first and is byte-identical as long as it is the same string. `reply_regex` is what
    replies are held to where the settings want structured output.
    """

    __slots__ = ("_end", "_head", "_ids_end", "_reask_end", "_reask_ids_end", "_system", "_tokenize_end")

    def __init__(
        self, settings: RequestSettings, model: str | None = None, *, reply_regex: str | None = None
    ) -> None:
        assert reply_regex is not None or settings.structured_output == "off", (
            "structured output needs a regex"
        )
        self._head = b"{" + (b'"model":%b,' % _encode(model) if model is not None else b"")
        asked = _sampling(settings) | _structured(settings, reply_regex)
        again = _sampling(settings, reask=True) | _structured(settings, reply_regex, reask=True)
        self._end, self._reask_end = _end(asked), _end(again)
        self._ids_end, self._reask_ids_end = _ids_end(asked), _ids_end(again)
        self._tokenize_end = _end(
            {"add_generation_prompt": True, "chat_template_kwargs": settings.chat_template_kwargs or None}
        )
        self._system = ("", self._begin(""))

    def encode_chat(self, system: str, user: str) -> bytes:
        """The body for `/v1/chat/completions`."""
        return b"".join((self._before(system), _encode(user), self._end))

    def encode_ids(self, prompt: PromptIds) -> bytes:
        """The body for `/v1/completions`, of a prompt whose chat template was applied here."""
        return b"".join((self._head, b'"prompt":[', prompt.ids, self._ids_end))

    def encode_reask(self, body: bytes) -> bytes:
        """The body that asks again what `body` asked: without seed, not colder than the least. Idempotent."""
        for end, again in ((self._end, self._reask_end), (self._ids_end, self._reask_ids_end)):
            if body.endswith(again):
                return body
            if body.endswith(end):
                return body[: len(body) - len(end)] + again
        raise AssertionError("a body of another encoder")

    def encode_tokenize(self, system: str, user: str) -> bytes:
        """The body for `/tokenize`: counts exactly the prompt that `encode_chat` makes the replica build."""
        return b"".join((self._before(system), _encode(user), self._tokenize_end))

    def _before(self, system: str) -> bytes:
        """All up to the user's text. Kept for the last system message: a group has one."""
        text, begin = self._system
        if text is not system and text != system:
            begin = self._begin(system)
            self._system = (system, begin)
        return begin

    def _begin(self, system: str) -> bytes:
        message = b'"messages":[{"role":"system","content":%b},{"role":"user","content":'
        return self._head + message % _encode(system)


def _sampling(settings: RequestSettings, *, reask: bool = False) -> dict[str, object]:
    warm_enough = max(settings.temperature, settings.reask_temperature_min)
    return {
        "max_tokens": settings.max_tokens,
        "temperature": warm_enough if reask else settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
        "seed": None if reask else settings.seed,
        "chat_template_kwargs": settings.chat_template_kwargs or None,
        "stream": settings.stream,
        "stream_options": _STREAM_OPTIONS if settings.stream else None,
    }


def _structured(settings: RequestSettings, regex: str | None, *, reask: bool = False) -> dict[str, object]:
    wanted = settings.structured_output
    held = wanted == "regex" or (wanted == "retry_only" and reask)
    return {"structured_outputs": {"regex": regex}} if held else {}


def _end(fields: dict[str, object]) -> bytes:
    """What follows the user's text; fields that are None are left out."""
    return b"}]," + _encode({key: value for key, value in fields.items() if value is not None})[1:]


def _ids_end(fields: dict[str, object]) -> bytes:
    """What follows the ids: the template's arguments were used up when they were made."""
    return _end({**fields, "chat_template_kwargs": None})[1:]
