"""The prompt that a real server builds, token for token: the same in both modes, and no record outside its turn."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.tokens import Estimator
from mira_stream.daemon.config import parse_config
from mira_stream.daemon.counters import open_counters
from mira_stream.daemon.pools import plan_pools
from mira_stream.pipeline.draft import Prepared, draft_record
from mira_stream.pipeline.raw import RawRecord
from mira_stream.telemetry.meters import Meters
from tests.vllm.lake import HOSTILE, conversations, traces
from tests.vllm.servers import CONTEXT_TOKENS, MODEL, NAME, Server

CONFIG = """
[source]
uri = '/nowhere/lake'
[sink]
uri = '/nowhere/scores'
[request]
mode = '{mode}'
max_tokens = 1024
[[pool]]
group = 'agent/A'
replicas = ['{url}']
model = '{model}'
context_tokens = {context}
tokenizer = '{tokenizer}'
sources = ['*']
"""
SPECIAL = {
    one["content"]: one["id"]
    for one in (json.loads((MODEL / "tokenizer.json").read_text("utf-8")) if MODEL.exists() else {}).get(
        "added_tokens", ()
    )
}
TEMPLATE_TOKENS = Counter({"<|im_start|>": 3, "<|im_end|>": 2})
"""What the template itself writes: a system turn, a user turn, and the reply's beginning."""


class Asked(NamedTuple):
    """One record as it goes out, and the prompt that the server made of it."""

    body: dict[str, object]
    counted: int
    prompt_ids: list[int]


def prepared(lines: Sequence[bytes], mode: str) -> list[Prepared]:
    """The requests for some lines, by the daemon's own way from bytes to body."""
    text = CONFIG.format(mode=mode, url="http://one", model=NAME, context=CONTEXT_TOKENS, tokenizer=MODEL)
    config = parse_config(text, "test")
    plans = plan_pools(config)

    async def story() -> list[Prepared]:
        made: list[Prepared] = []
        with ThreadPoolExecutor(1) as executor:
            async with open_counters(config, plans, executor=executor, meters=Meters()) as counters:
                exact = counters["agent/A"].exact
                for number, line in enumerate(lines):
                    raw = RawRecord(RecordKey(ObjectVersion("file:///x", "e"), number), "x", line)
                    draft = draft_record(
                        raw,
                        lambda _: plans[0].prompting,
                        name_field=None,
                        meta_fields=(),
                        estimator=Estimator(),
                        exact=lambda _: True,
                    )
                    one = await exact.finish(draft)
                    assert isinstance(one, Prepared), one
                    made.append(one)
        return made

    return asyncio.run(story())


def asked(server: Server, lines: Sequence[bytes], mode: str) -> list[Asked]:
    """Every line sent for one token of reply, and the prompt's ids as the server returns them."""
    path = "/v1/completions" if mode == "tokens" else "/v1/chat/completions"
    found = []
    for one in prepared(lines, mode):
        body = json.loads(one.body)
        answer = server.send(path, body | {"max_tokens": 1, "return_token_ids": True})
        assert answer.status == 200, answer.text
        said = answer.json
        ids = said["choices"][0]["prompt_token_ids"] if mode == "tokens" else said["prompt_token_ids"]
        assert said["usage"]["prompt_tokens"] == len(ids)
        found.append(Asked(body, one.prompt_tokens, ids))
    return found


def special(ids: Sequence[int]) -> Counter[str]:
    """The special tokens of a prompt."""
    names = {number: text for text, number in SPECIAL.items()}
    return Counter(names[one] for one in ids if one in names)


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Hostile records, and one real trace of every source."""
    return [*conversations(), *(line for some in traces(each=1).values() for line in some)]


@pytest.fixture(scope="module")
def both(fleet: tuple[Server, ...], lines: list[bytes]) -> list[tuple[Asked, Asked]]:
    """Every record in chat mode and in tokens mode."""
    return list(zip(asked(fleet[0], lines, "chat"), asked(fleet[0], lines, "tokens"), strict=True))


def test_both_modes_give_the_same_prompt(both: list[tuple[Asked, Asked]]) -> None:
    """What is encoded here is what the server's own template and tokenizer make of the same text, id for id."""
    for chat, tokens in both:
        assert tokens.body["prompt"] == tokens.prompt_ids
        assert chat.prompt_ids == tokens.prompt_ids


def test_counts_are_exact(both: list[tuple[Asked, Asked]]) -> None:
    """What admission counts is what the server computes, and what was cut fits with its reply."""
    for chat, tokens in both:
        assert chat.counted == tokens.counted == len(chat.prompt_ids)
        assert chat.counted + 1024 <= CONTEXT_TOKENS


def test_no_record_speaks_outside_its_turn(both: list[tuple[Asked, Asked]]) -> None:
    """Whatever a record spells, the prompt's special tokens are those of the template."""
    for chat, tokens in both:
        assert special(chat.prompt_ids) == special(tokens.prompt_ids) == TEMPLATE_TOKENS


def test_the_server_itself_would_let_it(first: Server) -> None:
    """The same text, not neutralised, closes its own turn: the danger is real, and the test would see it."""
    answer = first.chat(HOSTILE[0], max_tokens=1, return_token_ids=True)
    assert special(answer.json["prompt_token_ids"]) == Counter({"<|im_start|>": 3, "<|im_end|>": 2})


def test_the_server_counts_the_same_beforehand(first: Server, lines: list[bytes]) -> None:
    """`/tokenize`, asked near the limit where there is no tokenizer, agrees with the prompt."""
    for one in asked(first, lines[:8], "chat"):
        body = {key: one.body[key] for key in ("model", "messages")}
        assert (
            first.send("/tokenize", body | {"add_generation_prompt": True}).json["tokens"] == one.prompt_ids
        )
