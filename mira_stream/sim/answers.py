"""vLLM's successful answers: whole bodies, the chunks of a stream, the list of models."""

from typing import NamedTuple

import msgspec

from mira_stream.sim.wire import DEAD, VERSION, error_form

Form = dict[str, object]

END_OF_STREAM = b"data: [DONE]\n\n"


class Kind(NamedTuple):
    """How one of the two generation endpoints names things."""

    prefix: str
    object: str
    chunk_object: str


CHAT = Kind("chatcmpl", "chat.completion", "chat.completion.chunk")
COMPLETION = Kind("cmpl", "text_completion", "text_completion")


class Head(NamedTuple):
    """What every body and chunk of one answer begins with; `created` is seconds since the epoch."""

    kind: Kind
    id: str
    created: int
    model: str
    fingerprint: str

    def form(self, object_: str) -> Form:
        """The first four fields."""
        return {"id": self.id, "object": object_, "created": self.created, "model": self.model}


class Choice(msgspec.Struct, frozen=True):
    """One completion as it is told: its text, why it ended, and the stop string that ended it."""

    index: int
    text: str
    finish_reason: str | None
    stop_reason: str | None


class Usage(NamedTuple):
    """What an answer cost, in tokens; `details` None where the server does not tell them."""

    prompt_tokens: int
    completion_tokens: int
    details: Form | None = None

    def form(self) -> Form:
        """`usage` of a whole body."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": self.details,
            "completion_tokens_details": None,
        }


def prompt_details(kind: Kind, cached: int, cachable: int) -> Form:
    """`prompt_tokens_details` of a prompt with `cached` tokens found and `cachable` ones in full blocks. Which of them
    are new is told of a chat only."""
    created = max(0, cachable - cached) if kind is CHAT else None
    return {"cached_tokens": cached, "created_cache_tokens": created, "multimodal_tokens": None}


def body(head: Head, choices: list[Choice], usage: Usage) -> bytes:
    """A whole answer."""
    chat = head.kind is CHAT
    form = head.form(head.kind.object) | {
        "choices": [_chat_choice(choice) if chat else _text_choice(choice) for choice in choices],
        "service_tier": None,
        "system_fingerprint": head.fingerprint,
        "usage": usage.form(),
    }
    if chat:
        form |= {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    form |= {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
    return msgspec.json.encode(form)


def opening_chunk(head: Head, index: int, usage: Form | None) -> bytes:
    """The first chunk of a chat stream: it names the role."""
    delta = {"role": "assistant", "content": ""}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    form = head.form(head.kind.chunk_object) | {"choices": [choice]}
    if usage is not None:
        form["usage"] = usage
    return event(form | {"prompt_token_ids": None, "prompt_text": None})


def text_chunk(head: Head, choice: Choice, usage: Form | None, *, closes: bool) -> bytes:
    """A chunk with some text; the last one of a choice says why it ends; what `closes` has the fingerprint."""
    last = choice.finish_reason is not None
    if head.kind is CHAT:
        told: Form = {"index": choice.index, "delta": {"content": choice.text}, "logprobs": None}
        told["finish_reason"] = choice.finish_reason
        if last:
            told["stop_reason"] = choice.stop_reason
        told["token_ids"] = None
    else:
        told = {"index": choice.index, "text": choice.text, "logprobs": None}
        told |= {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
        told |= {"prompt_token_ids": None, "token_ids": None}
    form = head.form(head.kind.chunk_object) | {"choices": [told]}
    if closes:
        form["system_fingerprint"] = head.fingerprint
    if usage is not None:
        form["usage"] = usage
    return event(form)


def usage_chunk(head: Head, usage: Usage) -> bytes:
    """The chunk that closes a stream with `include_usage`."""
    told = chunk_usage(COMPLETION, usage)
    if usage.details is not None:
        told["prompt_tokens_details"] = {
            name: value for name, value in usage.details.items() if value is not None
        }
    form = head.form(head.kind.chunk_object) | {"choices": [], "usage": told}
    return event(form | {"system_fingerprint": head.fingerprint})


def chunk_usage(kind: Kind, usage: Usage) -> Form:
    """`usage` so far, in a chunk of a stream with `continuous_usage_stats`."""
    told = usage.form()
    del told["prompt_tokens_details"]
    if kind is not CHAT:
        del told["completion_tokens_details"]
    return told


def death_chunk() -> bytes:
    """What a stream says when the engine dies under it."""
    return event(error_form(500, DEAD))


def event(form: Form) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(form) + b"\n\n"


def models_body(model: str, max_model_len: int, created: int) -> bytes:
    """`GET /v1/models`: the one model that is served."""
    permission = {
        "id": f"modelperm-{created:016x}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    card = {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": model,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [permission],
    }
    return msgspec.json.encode({"object": "list", "data": [card]})


def version_body() -> bytes:
    """`GET /version`."""
    return msgspec.json.encode({"version": VERSION})


def _chat_choice(choice: Choice) -> Form:
    message = {
        "role": "assistant",
        "content": choice.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "token_ids": None,
        "routed_experts": None,
    }


def _text_choice(choice: Choice) -> Form:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
    }
