"""From a request body to a call: prompts with their token counts, checked as vLLM checks them."""

from collections.abc import Iterable
from typing import NamedTuple

from mira_stream.sim.answers import CHAT, Kind
from mira_stream.sim.prefix_keys import chat_texts, prefix_keys
from mira_stream.sim.replies import Prompt as Parts
from mira_stream.sim.replies import split_prompt
from mira_stream.sim.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    check_model,
    check_sampling,
    decode,
    output_budget,
    prompts,
    turns,
)
from mira_stream.sim.settings import SimSettings
from mira_stream.sim.tokens import count_text, first_unknown, template_tokens
from mira_stream.sim.tokens import decode as decode_ids
from mira_stream.sim.wire import error


class Prompt(NamedTuple):
    """One prompt: the text that is judged and its parts, and the prompt's tokens, `counted` if it came as ids.

    `keys` name its first blocks for the prefix cache.
    """

    text: str
    parts: Parts
    tokens: int
    counted: bool
    keys: tuple[int, ...]


class Call(NamedTuple):
    """One generation request, read and understood; `max_tokens` is as asked."""

    kind: Kind
    request: GenerationRequest
    prompts: list[Prompt]
    max_tokens: int | None

    @property
    def prompt_tokens(self) -> int:
        """All prompts together; each counts once, however many completions it gets."""
        return sum(prompt.tokens for prompt in self.prompts)

    def budgets(self, limit: int) -> list[tuple[Prompt, int]]:
        """For each completion its prompt and the tokens it may have. Raises the 400 for what is over `limit`."""
        each = [
            (prompt, output_budget(self.max_tokens, prompt.tokens, limit, counted=prompt.counted))
            for prompt in self.prompts
        ]
        return [pair for pair in each for _ in range(self.request.n or 1)]


def read_call(body: bytes, content_type: str, *, kind: Kind, settings: SimSettings) -> Call:
    """Understand a request body. Raises the 400 or 404 that vLLM answers, except for what is too long."""
    return (
        _read_chat(body, content_type, settings)
        if kind is CHAT
        else _read_text(body, content_type, kind, settings)
    )


def _read_chat(body: bytes, content_type: str, settings: SimSettings) -> Call:
    request = decode(body, content_type, ChatRequest)
    check_model(request.model, settings.model)
    check_sampling(request)
    conversation = turns(request.messages, settings.model)
    judged = max((number for number, turn in enumerate(conversation) if turn.role == "user"), default=-1)
    parts = split_prompt(conversation[judged].text)
    tokens = template_tokens(conversation, generation=request.add_generation_prompt)
    tokens += count_text(parts.record, parts.template)
    tokens += sum(count_text(turn.text) for turn in conversation if turn is not conversation[judged])
    tokens = _truncated(tokens, request, settings)
    keys = _keys(chat_texts(conversation), tokens, request, settings)
    prompt = Prompt(conversation[judged].text, parts, tokens, counted=False, keys=keys)
    max_tokens = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    return Call(CHAT, request, [prompt], max_tokens)


def _read_text(body: bytes, content_type: str, kind: Kind, settings: SimSettings) -> Call:
    request = decode(body, content_type, CompletionRequest)
    check_model(request.model, settings.model)
    check_sampling(request)
    found = [_prompt(prompt, request, settings) for prompt in prompts(request)]
    # Without max_tokens the completions endpoint gives 16, by OpenAI's rule.
    return Call(kind, request, found, 16 if request.max_tokens is None else request.max_tokens)


def _prompt(prompt: str | list[int], request: CompletionRequest, settings: SimSettings) -> Prompt:
    if isinstance(prompt, str):
        parts = split_prompt(prompt)
        tokens = _truncated(count_text(parts.record, parts.template), request, settings)
        keys = _keys((prompt,), tokens, request, settings)
        return Prompt(prompt, parts, tokens, counted=False, keys=keys)
    unknown = first_unknown(prompt)
    if unknown is not None:
        raise error(400, f"Token id {unknown} is out of vocabulary")
    text = decode_ids(prompt)
    tokens = _truncated(len(prompt), request, settings)
    keys = _keys((text,), tokens, request, settings)
    return Prompt(text, split_prompt(text), tokens, counted=True, keys=keys)


def _keys(
    texts: Iterable[str], tokens: int, request: GenerationRequest, settings: SimSettings
) -> tuple[int, ...]:
    """Keys of the first blocks; what is truncated, is truncated at the start, and shares nothing."""
    if request.truncate_prompt_tokens is not None:
        return ()
    return prefix_keys(texts, tokens=tokens, settings=settings)


def _truncated(tokens: int, request: GenerationRequest, settings: SimSettings) -> int:
    """Tokens left by `truncate_prompt_tokens`; -1 leaves what fits beside one token of output."""
    keep = request.truncate_prompt_tokens
    if keep is None:
        return tokens
    return min(tokens, settings.max_model_len - 1 if keep == -1 else max(1, keep))
