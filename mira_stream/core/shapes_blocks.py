"""Content blocks, tool calls and tool results, in every spelling of the field."""

from collections.abc import Callable

from mira_stream.core.shapes_text import (
    Object,
    Transcript,
    compact,
    first_of,
    first_text,
    label,
    objects,
    parsed,
    plain,
)

_BLOCK_DEPTH_MAX = 4


def content(out: Transcript, value: object, depth: int = 0) -> None:
    """Write content in any spelling: a string, a block, a list of both."""
    if isinstance(value, str):
        out.say(value)
    elif isinstance(value, list):
        for item in value:
            content_block(out, item, depth)
    elif value is not None:
        content_block(out, value, depth)


def content_block(out: Transcript, item: object, depth: int = 0) -> None:
    """Write one content block; one of unknown type is given as its text or as compact JSON."""
    if isinstance(item, str):
        out.say(item)
    elif not isinstance(item, dict) or depth > _BLOCK_DEPTH_MAX:
        out.say(compact(item))
    else:
        kind = item.get("type")
        write = _BLOCKS.get(kind, _untyped) if isinstance(kind, str) else _untyped
        write(out, item, depth)


def tool_call(out: Transcript, item: Object, _depth: int = 0) -> None:
    """Write a tool call, as OpenAI, Anthropic, Gemini, Inspect and their kin spell it."""
    function = item.get("function")
    inner = function if isinstance(function, dict) else item
    name = (
        function if isinstance(function, str) else first_text(inner, "name", "tool_name", "toolName", "tool")
    )
    arguments = first_of(inner, "arguments", "input", "args", "parameters")
    told = first_text(item, "value", "content", "text")
    if not name and told:
        tool_call_text(out, told)
    else:
        out.call(name, arguments, first_of(item, "call_id", "id", "tool_call_id", "toolCallId"))


def tool_call_text(out: Transcript, text: str) -> None:
    """Write a tool call that is told as JSON text: one object with a name, or a list of them."""
    value = parsed(text)
    calls = [value] if isinstance(value, dict) else list(objects(value))
    if calls and all(isinstance(call.get("name"), str) for call in calls):
        for call in calls:
            out.call(call["name"], first_of(call, "arguments", "parameters", "input", "args"), call.get("id"))
    else:
        out.say(f"[tool call] {text.strip()}")


def tool_result(out: Transcript, item: Object, depth: int = 0) -> None:
    """Write a tool result block as a turn of its own; what follows in the same message goes back to its speaker."""
    speaker = out.title
    call_id = first_of(item, "tool_use_id", "tool_call_id", "toolCallId", "call_id", "id")
    out.result(call_id, item.get("name"), failed=bool(first_of(item, "is_error", "isError")))
    content(out, first_of(item, "content", "output", "result", "response"), depth + 1)
    if out.bare:
        out.note("[empty]")
    out.turn(speaker)


def _text(out: Transcript, item: Object, depth: int) -> None:
    told = first_of(item, "text", "value", "content", "output_text")
    if item.get("thought") is True and isinstance(
        told, str
    ):  # Gemini marks reasoning on an ordinary text part
        out.think(told)
    else:
        content(out, told, depth + 1)


def _thinking(out: Transcript, item: Object, _depth: int) -> None:
    told = first_of(item, "thinking", "reasoning", "text", "value", "content", "summary")
    out.think(plain(told))


def _redacted(out: Transcript, _item: Object, _depth: int) -> None:
    out.note("[thinking redacted]")


def _media(out: Transcript, item: Object, _depth: int) -> None:
    kind = label(item.get("type")).removeprefix("input_").removesuffix("_url")
    source = first_of(item, "source", "image_url", "image", "file", "audio_url", "url", "data")
    where = (
        first_text(source, "url", "filename", "path", "media_type") if isinstance(source, dict) else source
    )
    name = first_text(item, "name", "filename", "title", "mimeType", "media_type")
    told = name or (where if isinstance(where, str) and not where.startswith("data:") else "")
    # A very long name is not a name but the data itself.
    out.note(f"[{kind} {label(told)}]" if told and len(told) < 1000 else f"[{kind}]")


def _untyped(out: Transcript, item: Object, depth: int) -> None:
    call, answer = item.get("functionCall"), item.get("functionResponse")
    if isinstance(call, dict):
        tool_call(out, call)
    elif isinstance(answer, dict):
        tool_result(out, answer, depth)
    elif "inlineData" in item or "fileData" in item:
        out.note("[file]")
    elif isinstance(first_of(item, "text", "content", "output"), (str, list)):
        _text(
            out, {"text": first_of(item, "text", "content", "output"), "thought": item.get("thought")}, depth
        )
    elif item:
        out.say(compact(item))


_Writer = Callable[[Transcript, Object, int], None]
_BLOCKS: dict[str, _Writer] = (
    dict.fromkeys(("text", "input_text", "output_text", "summary_text", "refusal_text"), _text)
    | dict.fromkeys(("thinking", "reasoning", "reasoning_text", "thought", "think"), _thinking)
    | dict.fromkeys(("tool_use", "tool_call", "toolCall", "function_call", "server_tool_use"), tool_call)
    | dict.fromkeys(("tool_result", "toolResult", "tool_response", "function_response"), tool_result)
    | dict.fromkeys(("image", "image_url", "input_image", "audio", "input_audio", "audio_url"), _media)
    | dict.fromkeys(("file", "input_file", "document", "video", "video_url"), _media)
    | {"redacted_thinking": _redacted}
)
