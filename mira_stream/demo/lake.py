"""The demo's lake: hand-written agent sessions in the shapes that real sources have, as compressed JSONL."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path

import msgspec
import zstandard
from isal import igzip


class Step(msgspec.Struct, frozen=True):
    """One tool call and what came back."""

    thought: str
    tool: str
    arguments: dict[str, object]
    result: str


class Story(msgspec.Struct, frozen=True):
    """One session: what was asked, what was done, what was said at the end."""

    task: str
    final: str
    step: tuple[Step, ...]


class _Stories(msgspec.Struct, frozen=True):
    story: tuple[Story, ...]


class LakeObject(msgspec.Struct, frozen=True):
    """One object to land: its key below the source folder, its bytes, and how many lines it has."""

    key: str
    data: bytes
    lines: int


_SYSTEM = "You are a coding assistant in a terminal. Be brief. Ask before anything that cannot be undone."


def load_stories() -> tuple[Story, ...]:
    """The sessions that ship with the package."""
    text = resources.files("mira_stream.demo").joinpath("samples/stories.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _Stories).story


def lake_objects(*, rounds: int, records: int) -> Iterator[list[LakeObject]]:
    """`rounds` batches of objects, one object per source in each, `records` lines per object."""
    stories = load_stories()
    number = 0
    for batch in range(rounds):
        objects = []
        for source, (shape, suffix) in SOURCES.items():
            lines = []
            for _ in range(records):
                number += 1
                lines.append(msgspec.json.encode(shape(stories[number % len(stories)], number)))
            data = b"".join(line + b"\n" for line in lines)
            key = f"{source}/2026/batch-{batch:03d}.jsonl{suffix}"
            objects.append(LakeObject(key, _compress(data, suffix), len(lines)))
        if batch == 0:
            objects += _awkward_objects(stories[0])
        yield objects


def land(folder: Path, item: LakeObject) -> None:
    """Put an object into the lake the way writers should: whole, under its final name, by a rename."""
    target = folder / item.key
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(item.data)
    part.rename(target)


def _compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)
    return bytes(igzip.compress(data)) if suffix == ".gz" else data


def _awkward_objects(story: Story) -> list[LakeObject]:
    """What a real lake holds too: blank and broken lines, a source that no pool scores."""
    record = msgspec.json.encode(openai_session(story, 0))
    broken = (
        b"\n".join([record, b"", b'{"messages": [', b"[1, 2, 3]", record.replace(b"CSV", b"<|im_end|>")])
        + b"\n"
    )
    stranger = b'{"text": "a source that nobody has configured"}\n'
    return [
        LakeObject("ct_terminal_cli/2026/awkward.jsonl.gz", _compress(broken, ".gz"), 5),
        LakeObject("unknown_source/2026/first.jsonl.zst", _compress(stranger, ".zst"), 1),
    ]


# The shapes.


def _arguments(step: Step) -> str:
    return msgspec.json.encode(step.arguments).decode()


def openai_session(story: Story, n: int) -> dict[str, object]:
    """A session as chat messages with tool calls; `n` makes it distinct."""
    messages: list[dict[str, object]] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": story.task.replace("{n}", str(n))},
    ]
    for index, step in enumerate(story.step):
        function = {"name": step.tool, "arguments": _arguments(step)}
        call = {"id": f"call_{n}_{index}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": step.thought or None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": step.result})
    messages.append({"role": "assistant", "content": story.final})
    return {"id": f"session-{n}", "messages": messages}


def _blocks(story: Story, n: int) -> dict[str, object]:
    messages: list[dict[str, object]] = [{"role": "user", "content": story.task.replace("{n}", str(n))}]
    for index, step in enumerate(story.step):
        use = {"type": "tool_use", "id": f"toolu_{n}_{index}", "name": step.tool, "input": step.arguments}
        said = [{"type": "text", "text": step.thought}] if step.thought else []
        messages.append({"role": "assistant", "content": [*said, use]})
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": step.result}
        messages.append({"role": "user", "content": [result]})
    messages.append({"role": "assistant", "content": [{"type": "text", "text": story.final}]})
    return {"session_id": f"session-{n}", "messages": messages}


def _codex(story: Story, n: int) -> dict[str, object]:
    def item(payload: Mapping[str, object]) -> dict[str, object]:
        return {"timestamp": "2026-01-01T00:00:00Z", "type": "response_item", "payload": payload}

    def message(role: str, kind: str, text: str) -> dict[str, object]:
        return item({"type": "message", "role": role, "content": [{"type": kind, "text": text}]})

    envelopes: list[dict[str, object]] = [
        {
            "timestamp": "2026-01-01T00:00:00Z",
            "type": "session_meta",
            "payload": {"id": f"session-{n}", "cwd": "/home/dev/project", "instructions": _SYSTEM},
        },
        message("user", "input_text", story.task.replace("{n}", str(n))),
    ]
    for index, step in enumerate(story.step):
        if step.thought:
            summary = [{"type": "summary_text", "text": step.thought}]
            envelopes.append(item({"type": "reasoning", "summary": summary}))
        call = {
            "type": "function_call",
            "name": step.tool,
            "arguments": _arguments(step),
            "call_id": f"c{index}",
        }
        envelopes.append(item(call))
        envelopes.append(
            item({"type": "function_call_output", "call_id": f"c{index}", "output": step.result})
        )
    envelopes.append(message("assistant", "output_text", story.final))
    return {"session_id": f"session-{n}", "rollout": envelopes}


def _sharegpt(story: Story, n: int) -> dict[str, object]:
    turns = [{"from": "human", "value": story.task.replace("{n}", str(n))}]
    for step in story.step:
        turns.append({"from": "gpt", "value": f"{step.thought}\n$ {step.tool} {_arguments(step)}".strip()})
        turns.append({"from": "human", "value": step.result or "(no output)"})
    turns.append({"from": "gpt", "value": story.final})
    return {"id": n, "conversations": turns}


def _hermes(story: Story, n: int) -> dict[str, object]:
    turns = [
        {"from": "system", "value": _SYSTEM},
        {"from": "human", "value": story.task.replace("{n}", str(n))},
    ]
    for step in story.step:
        call = msgspec.json.encode({"name": step.tool, "arguments": step.arguments}).decode()
        thought = f"<think>\n{step.thought}\n</think>\n" if step.thought else ""
        turns.append({"from": "gpt", "value": f"{thought}<tool_call>\n{call}\n</tool_call>"})
        result = msgspec.json.encode({"name": step.tool, "content": step.result}).decode()
        turns.append({"from": "tool", "value": f"<tool_response>\n{result}\n</tool_response>"})
    turns.append({"from": "gpt", "value": story.final})
    return {"id": f"session-{n}", "conversations": turns}


SOURCES: dict[str, tuple[Callable[[Story, int], dict[str, object]], str]] = {
    "agent_codex": (_codex, ".zst"),
    "claude_cli": (_blocks, ".zst"),
    "cli_linxi": (openai_session, ".gz"),
    "ct_terminal_cli": (openai_session, ".zst"),
    "ct_webdev": (_sharegpt, ".gz"),
    "hermes_agent_reasoning_traces": (_hermes, ".zst"),
}
"""Every source of group agent/A, with the shape its sessions are written in and its compression."""
