"""Sessions of coding assistants: Claude Code, Gemini CLI, pi; lists of events, most of which say nothing new."""

from mira_stream.core.shapes_blocks import content, tool_call
from mira_stream.core.shapes_messages import message
from mira_stream.core.shapes_text import (
    Object,
    Transcript,
    child,
    compact,
    first_of,
    first_text,
    label,
    objects,
)


def claude_code(out: Transcript, events: list[object]) -> None:
    """Write a Claude Code session: messages, subagents' work, summaries, commands.

    Left out, because a message tells it too: `toolUseResult`, shell and hook progress, snapshots of files.
    """
    seen: set[str] = set()
    told = _claude_texts(events)
    for event in objects(events):
        uuid = event.get("uuid")
        if isinstance(uuid, str):
            if uuid in seen:
                continue
            seen.add(uuid)
        _claude_event(out, event, told)


def _claude_texts(events: list[object]) -> set[str]:
    """The texts that messages tell; what stands beside them often repeats one."""
    told: set[str] = set()
    for event in objects(events):
        value = child(event, "message").get("content")
        if isinstance(value, str):
            told.add(value.strip())
        else:
            told.update(first_text(block, "text").strip() for block in objects(value))
    return told


def _claude_event(out: Transcript, event: Object, told: set[str]) -> None:
    kind = event.get("type")
    if kind in ("user", "assistant"):
        _claude_message(out, event, _claude_marks(event))
    elif kind == "progress":
        _claude_subagent(out, child(event, "data"))
    elif kind == "system":
        _aside(out, f"system ({label(event.get('subtype'))})", first_text(event, "content"), told)
    elif kind == "summary":
        _aside(out, "summary", first_text(event, "summary"), told)
    elif kind == "queue-operation":
        _aside(out, "user (queued)", first_text(event, "content"), told)
    elif kind == "result":
        _aside(out, "result", first_text(event, "result"), told)


def _claude_marks(event: Object) -> str:
    marks = {
        "isSidechain": "sidechain",
        "isMeta": "meta",
        "isCompactSummary": "summary of the session so far",
        "isApiErrorMessage": "API error",
    }
    told = ", ".join(word for key, word in marks.items() if event.get(key) is True)
    return f" ({told})" if told else ""


def _claude_message(out: Transcript, event: Object, suffix: str) -> None:
    told = child(event, "message")
    role = label(first_of(told, "role") or event.get("type"))
    # One answer of the model is several events, one for each block.
    out.turn(f"{role}{suffix}", join=role == "assistant")
    content(out, told.get("content"))


def _claude_subagent(out: Transcript, data: Object) -> None:
    event = child(data, "message")
    if data.get("type") != "agent_progress" or not event:
        return
    suffix = f" (subagent {label(data.get('agentId'))})"
    blocks = child(event, "message").get("content")
    # Its first message is the prompt, told by the call that started it.
    if event.get("type") != "user" or not (isinstance(blocks, list) and _is_text(blocks)):
        _claude_message(out, event, suffix)


def _is_text(blocks: list[object]) -> bool:
    return all(isinstance(block, dict) and block.get("type") == "text" for block in blocks)


def _aside(out: Transcript, title: str, text: str, told: set[str]) -> None:
    """Something said beside the messages, unless it was told before."""
    key = text.strip()
    if key and key not in told:
        told.add(key)
        out.turn(title)
        out.say(text)


def gemini_cli(out: Transcript, items: list[object]) -> None:
    """Write a Gemini CLI session: thoughts, text, tool calls with their results."""
    for item in objects(items):
        kind = label(item.get("type"))
        out.turn("assistant" if kind == "gemini" else kind)
        for thought in objects(item.get("thoughts")):
            out.think(
                ": ".join(
                    filter(None, (first_text(thought, "subject"), first_text(thought, "description").strip()))
                )
            )
        content(out, item.get("content"))
        calls = list(objects(item.get("toolCalls")))
        for call in calls:
            tool_call(out, call)
        for call in calls:
            _gemini_result(out, call)


def _gemini_result(out: Transcript, call: Object) -> None:
    out.result(call.get("id"), call.get("name"), failed=call.get("status") in ("error", "cancelled"))
    results = call.get("result")
    for result in objects(results):
        answer = child(result, "functionResponse", "response")
        content(out, first_of(answer, "output", "error") if answer else result)
    if out.bare:
        content(out, results if isinstance(results, str) else call.get("resultDisplay"))


def pi_session(out: Transcript, entries: list[object]) -> None:
    """Write a session of the pi coding agent: messages, shell commands of the user, compactions."""
    for entry in objects(entries):
        told = child(entry, "message")
        if told.get("role") == "bashExecution":
            out.turn("user (shell)")
            out.say(f"$ {first_text(told, 'command')}\n{first_text(told, 'output')}")
        elif told:
            message(out, told)
        elif summary := first_text(entry, "summary"):
            out.turn(f"summary ({label(entry.get('type'))})")
            out.say(summary)


def event_stream(out: Transcript, events: list[object]) -> None:
    """Write events of an unknown program: whatever text each carries, under its type or role."""
    for event in objects(events):
        if event.get("type") in ("item.started", "item.updated"):  # told again, whole, by `item.completed`
            continue
        inner = first_of(event, "message", "item", "data", "payload")
        told = inner if isinstance(inner, dict) else event
        if first_text(told, "role"):
            message(out, told)
            continue
        out.turn(label(first_of(told, "type", "event", "kind", "name") or event.get("type")))
        if (
            said := first_of(told, "content", "text", "message", "output", "observation", "action")
        ) is not None:
            content(out, said)
        else:
            out.say(compact(told))
