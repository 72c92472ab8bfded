"""Records of agent harnesses and benchmarks: SWE-agent, ToolBench, Inspect."""

from mira_stream.core.shapes_blocks import content
from mira_stream.core.shapes_messages import message, messages, tools
from mira_stream.core.shapes_text import (
    Object,
    Transcript,
    child,
    compact,
    first_text,
    label,
    objects,
    parsed,
)


def is_swe_agent(record: Object) -> bool:
    """Whether the record is a `.traj` file of SWE-agent, of any version, or of a harness that writes the same."""
    steps, history = record.get("trajectory"), record.get("history")
    return any("action" in step or "observation" in step for step in objects(steps)) or any(
        "message_type" in item or "agent" in item for item in objects(history)
    )


def swe_agent(out: Transcript, record: Object) -> None:
    """Write a `.traj`: its history where there is one, else its steps; then what was submitted."""
    steps = list(objects(record.get("trajectory")))
    history = list(objects(record.get("history")))
    if history:
        messages(out, {}, [_without_action(item) for item in history])
        # The history ends with the last action; what it led to is only in the steps.
        if steps and history[-1].get("role") == "assistant":
            _observation(out, steps[-1])
    else:
        for step in steps:
            _step(out, step)
    info = child(record, "info")
    if submission := first_text(info, "submission"):
        out.turn(f"submission ({label(info.get('exit_status'))})")
        out.say(submission)


def _without_action(item: Object) -> Object:
    """`thought` and `action` are cut from `content`; the name of the agent is no speaker."""
    return {key: value for key, value in item.items() if key not in ("thought", "action", "name")}


def _step(out: Transcript, step: Object) -> None:
    out.turn("assistant")
    response, action = first_text(step, "response") or first_text(step, "thought"), first_text(step, "action")
    out.say(response)
    if action and action.strip() not in response:
        out.call("action", action)
    _observation(out, step)


def _observation(out: Transcript, step: Object) -> None:
    out.result(None, "environment")
    content(out, step.get("observation"))


def is_toolbench(record: Object) -> bool:
    """Whether the record is an answer tree of ToolBench or a result of ToolEval."""
    return isinstance(record.get("answer_generation"), dict) or isinstance(
        child(record, "answer").get("answer_details"), list
    )


def toolbench(out: Transcript, record: Object) -> None:
    """Write the chain that led to ToolBench's answer; of a search that found none, the whole tree."""
    made = child(record, "answer_generation")
    answer = made or child(record, "answer")
    tools(out, made.get("function") or record.get("available_tools"))
    chains = made.get("train_messages")
    chain = chains[-1] if isinstance(chains, list) and chains else None
    if isinstance(chain, list):
        for item in objects(chain):
            message(out, item)
    else:
        out.turn("user")
        out.say(first_text(made, "query") or first_text(record, "query"))
        _walk(out, [child(record, "tree", "tree")] if made else list(objects(answer.get("answer_details"))))
    # A chain ends with the call that gives the answer.
    if not isinstance(chain, list):
        _final_answer(out, first_text(answer, "final_answer"))


def _walk(out: Transcript, roots: list[Object]) -> None:
    """Write a tree in the order of its search; without recursion, trees are deep."""
    stack = roots[::-1]
    while stack:
        node = stack.pop()
        _node(out, node)
        stack += reversed([*objects(node.get("children")), *objects(node.get("next"))])


def _node(out: Transcript, node: Object) -> None:
    told = first_text(node, "description", "message")
    if "node_type" not in node:
        # Roles of ToolEval: the query is told in full above, and cut to 100 characters here.
        if node.get("role") not in ("user", "system"):
            out.turn(label(node.get("role")))
            out.say(told)
    elif told:
        out.turn("assistant (pruned)" if node.get("pruned") is True else "assistant", join=True)
        kind = node["node_type"]
        out.say(told if kind == "Thought" else f"[{label(kind).lower()}] {told}")
    if observation := first_text(node, "observation"):
        out.result(None)
        out.say(observation)


def _final_answer(out: Transcript, text: str) -> None:
    told = parsed(text) if text.startswith("{") else None
    if isinstance(told, dict):
        text = first_text(told, "final_answer", "return_type") or text
    out.turn("final answer")
    out.say(text)


def is_inspect(record: Object) -> bool:
    """Whether the record is an evaluation log of Inspect."""
    return any("messages" in sample or "epoch" in sample for sample in objects(record.get("samples")))


def inspect_log(out: Transcript, record: Object) -> None:
    """Write each sample of an Inspect log: its messages, or what went in and came out."""
    samples = list(objects(record.get("samples")))
    if task := first_text(child(record, "eval"), "task"):
        out.turn("evaluation")
        out.note(f"task: {task}")
    for sample in samples:
        if len(samples) > 1:
            out.turn(f"sample {compact(sample.get('id'))}")
            out.note(f"epoch: {compact(sample.get('epoch'))}")
        _sample(out, sample)


def _sample(out: Transcript, sample: Object) -> None:
    attachments = child(sample, "attachments")
    told = list(objects(sample.get("messages")))
    if not told:
        choices = objects(child(sample, "output").get("choices"))
        told = [
            {"role": "user", "content": sample.get("input")},
            *(child(choice, "message") for choice in choices),
        ]
    for item in told:
        message(out, _resolved(item, attachments))
    if error := first_text(child(sample, "error"), "message"):
        out.turn("error")
        out.say(error)


def _resolved(item: Object, attachments: Object) -> Object:
    """Inspect keeps long texts once, as attachments that messages refer to."""
    value = item.get("content")
    if isinstance(value, str) and value.startswith("attachment://"):
        return item | {"content": attachments.get(value.removeprefix("attachment://"), value)}
    return item
