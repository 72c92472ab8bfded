"""The simulated replica is held to the truth: the same requests to it and to a real server, and what was recorded.

Statuses, keys in their order, types, error bodies and finish reasons must agree. What a server says of itself (ids,
times, its model's words) may differ. `docs/reference/sim.md` says where the simulator does not follow.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mira_stream.sim.settings import SimSettings
from tests.e2e.simulators import hosted
from tests.vllm.servers import CONTEXT_TOKENS, KEY, NAME, Answer, Server

CAPTURES = Path(__file__).parents[3] / "shared" / "facts" / "vllm-captures"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RATE = {"model": NAME, "messages": [{"role": "user", "content": "Rate this."}], "max_tokens": 4}
IDS = {"model": NAME, "prompt": [70, 71, 72], "max_tokens": 4}
TOO_LONG = [{"role": "user", "content": "word " * 40_000}]

NOT_FOLLOWED = {
    "token ids on request": {"return_token_ids": True},
    "log probabilities": {"logprobs": True, "top_logprobs": 2},
    "a regex": {"structured_outputs": {"regex": "[ab]{1,4}"}},
    "a least length": {"min_tokens": 3, "ignore_eos": True},
    "a seed": {"seed": 1},
}
"""What the simulator's page says that it accepts and ignores."""


class Request(NamedTuple):
    """One request, and the recorded answer that has its form, if there is one."""

    path: str
    body: object = None
    recorded: str | None = None
    method: str | None = None
    headers: dict[str, str] | None = None
    key: str | None = KEY


ANSWERED = {
    "models": Request("/v1/models", recorded="models"),
    "health": Request("/health", recorded="health"),
    "ping": Request("/ping", recorded="ping"),
    "version": Request("/version", recorded="version"),
    "load": Request("/load", recorded="load_default"),
    "chat": Request(CHAT, RATE, "B_chat_ok"),
    "chat without a model": Request(CHAT, {key: RATE[key] for key in ("messages", "max_tokens")}),
    "chat with an unknown field": Request(CHAT, RATE | {"nonsense": 1}),
    "chat with an id of ours": Request(CHAT, RATE, headers={"X-Request-Id": "abc"}),
    "chat with several choices": Request(CHAT, RATE | {"n": 3}),
    "chat by max_completion_tokens": Request(CHAT, {**RATE, "max_tokens": None, "max_completion_tokens": 3}),
    "chat in parts": Request(CHAT, RATE | {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    "a text": Request(TEXT, IDS | {"prompt": "Rate this."}),
    "token ids": Request(TEXT, IDS),
    "several texts": Request(TEXT, IDS | {"prompt": ["a", "b"]}),
    "lists of token ids": Request(TEXT, IDS | {"prompt": [[70], [71]]}),
    "a prompt cut by the server": Request(CHAT, RATE | {"messages": TOO_LONG, "truncate_prompt_tokens": 100}),
    "tokenize a text": Request("/tokenize", {"prompt": "Rate this."}),
    "tokenize messages": Request("/tokenize", {"messages": RATE["messages"]}, "tokenize_messages"),
    "tokenize with strings": Request("/tokenize", {"prompt": "Rate", "return_token_strs": True}, "tokenize_prompt"),
    "detokenize": Request("/detokenize", {"tokens": [70, 71]}, "detokenize"),
}  # fmt: skip

REFUSED = {
    "no JSON": Request(CHAT, "{", None),
    "no messages": Request(CHAT, {"model": NAME}, "err_missing_messages"),
    "an empty conversation": Request(CHAT, RATE | {"messages": []}, "chat_empty_messages"),
    "an unknown model": Request(CHAT, RATE | {"model": "nope"}, "err_bad_model"),
    "an unknown model, of a text": Request(TEXT, IDS | {"model": "nope"}, "err_bad_model_completions"),
    "a temperature below 0": Request(CHAT, RATE | {"temperature": -1}, "err_bad_temperature"),
    "top_p above 1": Request(CHAT, RATE | {"top_p": 1.5}),
    "no choices": Request(CHAT, RATE | {"n": 0}),
    "max_tokens that is no number": Request(CHAT, RATE | {"max_tokens": "many"}),
    "no output": Request(TEXT, IDS | {"max_tokens": 0}, "completion_max_tokens_0"),
    "more output than the context": Request(CHAT, RATE | {"max_tokens": CONTEXT_TOKENS + 808}, None),
    "a prompt over the context": Request(CHAT, RATE | {"messages": TOO_LONG}, "overflow_chat"),
    "the same, streamed": Request(CHAT, RATE | {"messages": TOO_LONG, "stream": True}, "overflow_stream"),
    "the same, as token ids": Request(TEXT, IDS | {"prompt": [70] * 9000}, "overflow_completion_ids"),
    "a prompt that leaves no output": Request(TEXT, IDS | {"prompt": [70] * CONTEXT_TOKENS}, "overflow_completion_exact_len_8192"),
    "an empty prompt": Request(TEXT, IDS | {"prompt": ""}, "completion_empty_prompt"),
    "an unknown token": Request(TEXT, IDS | {"prompt": [99_999_999]}),
    "an image": Request(CHAT, RATE | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]}, "chat_image_part_rejected"),
    "a wrong content type": Request(CHAT, json.dumps(RATE), "err_content_type", headers={"Content-Type": "text/plain"}),
    "an unknown path": Request("/nowhere", recorded="err_not_found"),
    "a wrong method": Request(CHAT, recorded="err_method", method="GET"),
    "no key": Request(CHAT, RATE, "B_api_key_missing_401", key=None),
    "a wrong key": Request(CHAT, RATE, "B_api_key_wrong_401", key="sk-wrong"),
}  # fmt: skip

# Long enough for several events: a token need not be a whole character, and two may come in one event.
LONG = {"max_tokens": 64, "temperature": 0, "ignore_eos": True}
STREAMED = {
    "chat": Request(CHAT, RATE | LONG | {"stream": True}),
    "chat with usage at its end": Request(CHAT, RATE | LONG | {"stream": True, "stream_options": {"include_usage": True}}),
    "chat with usage all along": Request(CHAT, RATE | LONG | {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    "a text": Request(TEXT, IDS | LONG | {"stream": True}),
    "a text with usage all along": Request(TEXT, IDS | LONG | {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
}  # fmt: skip


@pytest.fixture(scope="module")
def sim(fleet: tuple[Server, ...]) -> Iterator[Server]:
    """A simulator with the settings of the second server."""
    settings = SimSettings(
        model=NAME,
        api_key=KEY,
        max_model_len=CONTEXT_TOKENS,
        kv_capacity_tokens=fleet[1].kv_tokens,
        prefix_cache="off",
        enable_prompt_tokens_details=True,
        time_scale=0.01,
    )
    with hosted(settings) as (url,):
        found = Server(Path("/nowhere"), "sim", blocks=0)
        found.port = urlsplit(url).port or 0
        yield found


def ask(server: Server, request: Request) -> Answer:
    """Send it."""
    return server.send(
        request.path, request.body, method=request.method, headers=request.headers, key=request.key
    )


def form(value: Any) -> Any:
    """What of a JSON value must agree: keys in order and types; of a list the distinct forms of its entries."""
    if isinstance(value, dict):
        return [(key, form(entry)) for key, entry in value.items()]
    if isinstance(value, list):
        return [*dict.fromkeys(json.dumps(form(entry)) for entry in value)]
    return type(value).__name__


def body_of(answer: Answer) -> Any:
    """The JSON of an answer; its text where that is empty."""
    return answer.json if answer.text else answer.text


def semantics(answer: Answer) -> Any:
    """What an answer means beyond its form, as far as that cannot depend on the model."""
    said = body_of(answer)
    if not isinstance(said, dict) or "choices" not in said:
        return None
    usage = said["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    choices = [(one["index"], one["finish_reason"], one["stop_reason"]) for one in said["choices"]]
    made_up = re.sub(r"[0-9a-f]{16,}", "…", said["id"])
    return said["object"], said["model"], made_up, usage["completion_tokens"], choices


@pytest.mark.parametrize("case", ANSWERED)
def test_the_simulator_answers_in_the_same_form(second: Server, sim: Server, case: str) -> None:
    """Status, media type, keys, types and meaning."""
    real, ours = ask(second, ANSWERED[case]), ask(sim, ANSWERED[case])
    assert (real.status, ours.status) == (200, 200), (real.text, ours.text)
    assert ours.headers.get("content-type") == real.headers.get("content-type")
    assert form(body_of(ours)) == form(body_of(real))
    assert semantics(ours) == semantics(real)


@pytest.mark.parametrize("case", REFUSED)
def test_the_simulator_refuses_in_the_same_words(second: Server, sim: Server, case: str) -> None:
    """Status and body, to the letter."""
    real, ours = ask(second, REFUSED[case]), ask(sim, REFUSED[case])
    assert (ours.status, body_of(ours)) == (real.status, body_of(real))
    assert real.status >= 400


@pytest.mark.parametrize("case", NOT_FOLLOWED)
def test_what_the_simulator_does_not_follow_it_takes(second: Server, sim: Server, case: str) -> None:
    """Both answer: a daemon that asks for it can be tried on the simulator, and gets the simulator's own reply."""
    for server in (second, sim):
        answer = ask(server, Request(CHAT, RATE | NOT_FOLLOWED[case]))
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"]


def events(text: str) -> list[str]:
    """The distinct forms of a stream's events, in order."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return list(
        dict.fromkeys(line if line == "[DONE]" else json.dumps(form(json.loads(line))) for line in lines)
    )


@pytest.mark.parametrize("case", STREAMED)
def test_the_simulator_streams_the_same_events(second: Server, sim: Server, case: str) -> None:
    """Opening, text, last text, usage, end."""
    real, ours = ask(second, STREAMED[case]), ask(sim, STREAMED[case])
    assert ours.headers["content-type"] == real.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events(ours.text) == events(real.text)


RECORDED = {name: one for name, one in (ANSWERED | REFUSED).items() if one.recorded is not None}


@pytest.mark.skipif(not CAPTURES.is_dir(), reason=f"RECORDED ANSWERS ARE ABSENT: {CAPTURES}")
@pytest.mark.parametrize("case", RECORDED)
def test_what_was_recorded_is_still_true(second: Server, case: str) -> None:
    """The recordings that `make test` holds the simulator to: a server of today answers in the same form."""
    request = RECORDED[case]
    recorded = json.loads((CAPTURES / f"{request.recorded}.json").read_text("utf-8"))["response"]
    real = ask(second, request)
    assert real.status == recorded["status"]
    if real.text:
        told = without_details(real.json), without_details(recorded["json"])
        assert form(told[0]) == form(told[1])


def without_details(said: Any) -> Any:
    """An answer without what `--enable-prompt-tokens-details` adds."""
    return said | {"usage": None} if isinstance(said, dict) and "usage" in said else said


@pytest.mark.parametrize("wanted", ["JSON", "TEXT", "json", "xml"])
def test_load_reports_have_the_same_form(second: Server, sim: Server, wanted: str) -> None:
    """The ORCA header, in each format that can be asked for, and none in one that cannot."""
    headers = {"endpoint-load-metrics-format": wanted}
    reports = [
        ask(server, Request(CHAT, RATE, headers=headers)).headers.get("endpoint-load-metrics")
        for server in (second, sim)
    ]
    real, ours = (None if report is None else re.sub(r"[0-9.]+e?-?[0-9]*", "n", report) for report in reports)
    assert ours == real


def samples(text: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every vLLM sample with its labels, but for the values of the configuration."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("vllm:") and not sample.name.startswith("vllm:cache_config")
    }


def test_metrics_have_the_same_series(second: Server, sim: Server) -> None:
    """Every `vllm:` series of a server that has worked, with the same labels and bucket bounds, and no other."""
    for server in (second, sim):
        ask(server, Request(CHAT, RATE))
    assert samples(sim.send("/metrics").text) == samples(second.send("/metrics").text)


def test_both_count_what_they_did(second: Server, sim: Server) -> None:
    """A request moves the same counters by the same amounts."""
    counters = (
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "num_preemptions_total",
    )
    for server in (second, sim):
        before = [server.metric(f"vllm:{name}") for name in counters]
        usage = ask(server, Request(CHAT, RATE)).json["usage"]
        moved = [server.metric(f"vllm:{name}") - was for name, was in zip(counters, before, strict=True)]
        assert moved == [usage["prompt_tokens"], 4, 1, 0]
