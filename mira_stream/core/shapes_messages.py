"""Conversations: OpenAI messages, ShareGPT and Hermes turns, tool lists, prompt and response pairs."""

from collections.abc import Iterator

from mira_stream.core.shapes_blocks import content, tool_call, tool_call_text
from mira_stream.core.shapes_text import (
    Object,
    Transcript,
    child,
    compact,
    first_of,
    first_text,
    label,
    objects,
    parsed,
    plain,
)

_RESULT_ROLES = frozenset(
    {"tool", "function", "toolResult", "tool_result", "tool_response", "observation", "ipython"}
)
_EMPTY_TOLD = frozenset({"assistant", "model"})
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_SYSTEM_KEYS = ("system", "system_prompt", "instructions")
_PROMPT_KEYS = ("prompt", "instruction", "question", "query", "request")
_RESPONSE_KEYS = ("completion", "response", "output", "answer", "chosen", "generation", "solution")


def message(out: Transcript, item: Object, suffix: str = "") -> None:
    """Write one message of any chat API as one turn."""
    role = label(first_of(item, "role", "author", "speaker"))
    if role in _RESULT_ROLES:
        call_ids = item.get("tool_call_ids")
        call_id = first_of(item, "tool_call_id", "toolCallId", "tool_use_id", "call_id")
        if call_id is None and isinstance(call_ids, list) and call_ids:
            call_id = call_ids[0]
        failed = bool(first_of(item, "is_error", "isError")) or bool(item.get("error"))
        out.result(call_id, first_of(item, "name", "toolName", "tool_name", "function"), failed=failed)
    else:
        name = first_text(item, "name")
        out.turn(" ".join(filter(None, (role, label(name) if name else "", suffix))))
    _body(out, item)
    if out.bare and (role in _EMPTY_TOLD or role in _RESULT_ROLES):
        out.note("[empty]")


def _body(out: Transcript, item: Object) -> None:
    out.think(plain(first_of(item, "reasoning_content", "reasoning", "thinking")))
    content(out, first_of(item, "content", "parts", "value", "text", "message"))
    for call in objects(item.get("tool_calls")):
        tool_call(out, call)
    if isinstance(item.get("function_call"), dict):
        tool_call(out, item["function_call"])
    if refusal := first_text(item, "refusal"):
        out.say(f"[refusal] {refusal}")
    if error := first_of(item, "error", "errorMessage"):
        out.say(f"[error] {first_text(error, 'message') if isinstance(error, dict) else compact(error)}")


def messages(out: Transcript, record: Object, items: list[object]) -> None:
    """Write a list of messages: first the system prompt and the tools, last the response that stand beside it."""
    preamble(out, record)
    role: object = None
    for item in objects(items):
        message(out, item, "(demonstration)" if item.get("is_demo") else "")
        role = item.get("role")
    if role != "assistant":
        _side(out, "assistant", _part(record, _RESPONSE_KEYS))


def preamble(out: Transcript, record: Object) -> None:
    """Write what stands beside a conversation: the system prompt and the tools on offer."""
    if system := first_of(record, *_SYSTEM_KEYS):
        out.turn("system")
        content(out, system)
    tools(out, first_of(record, "tools", "available_tools", "functions"))


def tools(out: Transcript, value: object) -> None:
    """Write the tools on offer, a line each: `name(parameter: type, optional?: type): description`."""
    offered = parsed(value) if isinstance(value, str) else value
    out.turn("tools")
    for tool in objects(offered):
        out.note(_signature(child(tool, "function") or tool))


def _signature(tool: Object) -> str:
    schema = child(tool, "parameters") or child(tool, "input_schema") or child(tool, "inputSchema")
    required = schema.get("required")
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    told = ", ".join(
        f"{name}{'' if name in needed else '?'}: {_type_name(kind)}"
        for name, kind in child(schema, "properties").items()
    )
    description = " ".join(first_text(tool, "description").split())
    name = label(first_of(tool, "name", "type"))
    return f"- {name}({told}): {description}" if description else f"- {name}({told})"


def _type_name(schema: object) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind if isinstance(kind, str) else "any"


def sharegpt(out: Transcript, record: Object, items: list[object]) -> None:
    """Write ShareGPT turns (`from`, `value`), Hermes' tool XML included."""
    preamble(out, record)
    for item in objects(items):
        speaker = label(first_of(item, "from", "role"))
        value = first_of(item, "value", "content", "text")
        text = value if isinstance(value, str) else "" if value is None else compact(value)
        if speaker in _RESULT_ROLES or speaker == "function_response":
            _sharegpt_result(out, text)
        elif speaker == "function_call":
            out.turn("assistant", join=True)
            tool_call_text(out, text)
        else:
            out.turn(_SHAREGPT_ROLES.get(speaker, speaker))
            _hermes_text(out, text)


def is_hermes(items: list[object]) -> bool:
    """Whether ShareGPT turns carry tool calls or their results as Hermes writes them, in XML tags."""
    for item in objects(items):
        value = item.get("value")
        if (
            item.get("from") != "system"
            and isinstance(value, str)
            and ("<tool_call>" in value or "<tool_response>" in value)
        ):
            return True
    return False


def _hermes_text(out: Transcript, text: str) -> None:
    if out.title != "assistant":  # a system prompt explains the tags by example
        out.say(text)
        return
    for tagged, part in _tagged(text, "tool_call"):
        if tagged:
            tool_call_text(out, part)
        else:
            out.say(part)


def _sharegpt_result(out: Transcript, text: str) -> None:
    for tagged, part in _tagged(text, "tool_response"):
        told = parsed(part) if tagged else None
        if isinstance(told, dict) and "content" in told:
            out.result(first_of(told, "tool_call_id", "id"), told.get("name"))
            out.say(compact(told["content"]))
        elif part.strip():
            out.result(None)
            out.say(part)


def _tagged(text: str, tag: str) -> Iterator[tuple[bool, str]]:
    """The pieces of `text`, inside (True) and outside of `<tag>…</tag>`; one never closed is outside."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    at = 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        yield False, text[at:start]
        yield True, text[start + len(opening) : end]
        at = end + len(closing)
    yield False, text[at:]


def is_pair(record: Object) -> bool:
    """Whether the record is a prompt with a response, each a text or a conversation."""
    return _part(record, _PROMPT_KEYS) is not None and (
        _part(record, _RESPONSE_KEYS) is not None or "input" in record
    )


def pair(out: Transcript, record: Object) -> None:
    """Write a prompt and a response; an API log's request and response too."""
    preamble(out, record)
    _side(out, "user", _part(record, _PROMPT_KEYS))
    _side(out, "user", record.get("input"))
    _side(out, "assistant", _part(record, _RESPONSE_KEYS))


def _part(record: Object, keys: tuple[str, ...]) -> object:
    value = first_of(record, *keys)
    return value if isinstance(value, (str, list, dict)) else None


def _side(out: Transcript, role: str, value: object) -> None:
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        messages(out, value, value["messages"])
    elif isinstance(value, dict) and isinstance(value.get("choices"), list):
        for choice in objects(value["choices"]):
            message(out, {"role": role} | child(choice, "message"))
    elif isinstance(value, dict) and "content" in value:
        message(out, {"role": role} | value)
    elif isinstance(value, list) and any("role" in item for item in objects(value)):
        messages(out, {}, value)
    else:
        out.turn(role)
        content(out, value)
