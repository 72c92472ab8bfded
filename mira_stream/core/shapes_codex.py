"""OpenAI's Responses items, and what is built from them: Codex CLI rollouts and NeMo Gym rollouts."""

from typing import cast

from mira_stream.core.shapes_blocks import content, content_block, tool_call
from mira_stream.core.shapes_messages import message, preamble
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

ENVELOPES = frozenset(
    {
        "session_meta",
        "response_item",
        "event_msg",
        "turn_context",
        "compacted",
        "world_state",
        "session_state",
    }
)
"""The `type` of a line of a Codex rollout; the content is in `payload`."""

ITEMS = frozenset({"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"})
"""Types that only Responses items have."""

_CALLS = frozenset({"function_call", "custom_tool_call", "tool_call"})
_EVENT_TEXT = {
    "user_message": "user",
    "agent_message": "assistant",
    "agent_reasoning": "assistant",
    "agent_reasoning_raw_content": "assistant",
}
_EVENT_ASIDES = frozenset({"error", "stream_error", "warning", "turn_aborted", "exited_review_mode"})
_EVENT_TOOLS = {
    "exec_command_end": "exec_command",
    "mcp_tool_call_end": "mcp_tool",
    "patch_apply_end": "apply_patch",
}


def item(out: Transcript, told: Object) -> None:
    """Write one Responses item. Reasoning, text and calls that follow one another are one turn of the assistant."""
    kind = label(told.get("type"))
    if kind in _CALLS:
        out.turn("assistant", join=True)
        tool_call(out, told)
    elif kind == "reasoning":
        out.turn("assistant", join=True)
        out.think("\n".join(filter(None, (plain(told.get("summary")), plain(told.get("content"))))))
    elif kind.endswith("_output"):
        _output(out, told)
    elif kind.endswith("_call"):
        _built_in_call(out, told, kind.removesuffix("_call"))
    elif kind == "message" and told.get("role") == "assistant":
        out.turn("assistant", join=True)
        content(out, told.get("content"))
    elif "role" in told:
        message(out, told)
    elif kind not in ("ghost_snapshot", "compaction", "compaction_summary", "item_reference", "unknown"):
        out.turn(kind)
        content_block(out, told)


def _built_in_call(out: Transcript, told: Object, name: str) -> None:
    out.turn("assistant", join=True)
    called = first_of(told, "action", "arguments", "code", "queries", "input", "query")
    call_id = first_of(told, "call_id", "id")
    out.call(first_text(told, "name") or name, called, call_id)
    if (output := first_of(told, "output", "outputs", "results")) is not None:
        out.result(call_id)
        content(out, output)


def _output(out: Transcript, told: Object) -> None:
    output = told.get("output")
    if isinstance(output, str) and output.startswith('{"output":'):
        # Codex wraps what a command printed together with its exit code.
        wrapped = parsed(output)
        output = wrapped if isinstance(wrapped, dict) else output
    code = child(output, "metadata").get("exit_code")
    failed = child(told, "output").get("success") is False or code not in (None, 0)
    out.result(told.get("call_id"), told.get("name"), failed=failed)
    content(out, first_of(output, "output", "content") if isinstance(output, dict) else output)
    if isinstance(code, int) and code:
        out.note(f"[exit code {code}]")
    if out.bare:
        out.note("[empty]")


def codex_rollout(out: Transcript, lines: list[object]) -> None:
    """Write a Codex CLI session from its envelopes; events that repeat a response item are left out."""
    told = _told(lines)
    for line in objects(lines):
        kind, payload = line.get("type"), child(line, "payload")
        if kind == "response_item":
            item(out, payload)
        elif kind == "event_msg":
            _event(out, payload, told)
        elif kind == "session_meta":
            _session_meta(out, payload)
        elif kind == "compacted":
            # `replacement_history` tells the session so far once more.
            out.turn("summary (compacted)")
            out.say(first_text(payload, "message") or "[the session so far was compacted]")


def _told(lines: list[object]) -> set[str]:
    """The texts and the call ids that response items tell."""
    told: set[str] = set()
    for line in objects(lines):
        if line.get("type") != "response_item":
            continue
        payload = child(line, "payload")
        for key in ("content", "summary"):
            parts = [plain([part]) for part in objects(payload.get(key))]
            told.update(part.strip() for part in parts)
            told.add("\n".join(parts).strip())
        told.update(
            value for value in (payload.get("call_id"), payload.get("content")) if isinstance(value, str)
        )
    return told


def _event(out: Transcript, payload: Object, told: set[str]) -> None:
    kind = label(payload.get("type"))
    text = first_text(payload, "message", "text", "reason")
    if kind in _EVENT_TEXT:
        if text.strip() in told:
            return
        told.add(text.strip())
        role = _EVENT_TEXT[kind]
        out.turn(role, join=role == "assistant")
        (out.think if "reasoning" in kind else out.say)(text)
    elif kind in _EVENT_ASIDES:
        out.turn(f"event ({kind})")
        out.say(text)
    elif kind in _EVENT_TOOLS and first_text(payload, "call_id") not in told:
        _event_tool(out, payload, _EVENT_TOOLS[kind])


def _event_tool(out: Transcript, payload: Object, name: str) -> None:
    call_id = payload.get("call_id")
    out.turn("assistant", join=True)
    out.call(name, first_of(payload, "command", "invocation", "changes"), call_id)
    out.result(call_id, failed=payload.get("exit_code") not in (None, 0) or payload.get("success") is False)
    content(out, first_of(payload, "aggregated_output", "formatted_output", "stdout", "result"))
    if stderr := first_text(payload, "stderr"):
        out.say(stderr)
    if out.bare:
        out.note("[empty]")


def _session_meta(out: Transcript, payload: Object) -> None:
    facts = ("cwd", "cli_version", "originator", "model_provider", "model")
    out.turn("session")
    for key in facts:
        if value := first_text(payload, key):
            out.note(f"{key}: {value}")
    branch, commit = child(payload, "git").get("branch"), child(payload, "git").get("commit_hash")
    if branch or commit:
        out.note(f"git: {compact(branch or '')} {compact(commit or '')}".strip())
    out.turn("system")
    content(
        out, first_text(payload, "instructions") or first_text(child(payload, "base_instructions"), "text")
    )


def items(out: Transcript, record: Object, told: list[object]) -> None:
    """Write a bare list of Responses items."""
    preamble(out, record)
    for one in objects(told):
        item(out, one)


def is_responses(record: Object) -> bool:
    """Whether the record is a request of the Responses API, its response, or both."""
    return (
        isinstance(record.get("responses_create_params"), dict)
        or isinstance(child(record, "response").get("output"), list)
        or (record.get("object") == "response" and isinstance(record.get("output"), list))
    )


def responses_rollout(out: Transcript, record: Object) -> None:
    """Write a Responses API exchange, as NeMo Gym keeps its rollouts: the task, the items, the resulting patch."""
    request = child(record, "responses_create_params") or child(record, "request") or record
    preamble(out, request)
    told = request.get("input")
    asked = cast("list[object]", told) if isinstance(told, list) else []
    if isinstance(told, str):
        out.turn("user")
        out.say(told)
    elif not asked:
        _task(out, record, request)
    for one in objects(asked):
        item(out, one)
    for one in objects((child(record, "response") or record).get("output")):
        item(out, one)
    if patch := first_text(record, "model_patch"):
        out.turn("resulting patch")
        out.say(patch)


def _task(out: Transcript, record: Object, request: Object) -> None:
    """Harnesses that run a CLI keep the task beside an empty input."""
    if system := first_text(child(record, "instance_config", "agent_kwargs"), "system_prompt"):
        out.turn("system")
        out.say(system)
    problem = child(record, "instance_config", "problem_info")
    out.turn("user")
    out.say(
        first_text(child(request, "metadata"), "problem_statement")
        or first_text(problem, "problem_statement")
    )
