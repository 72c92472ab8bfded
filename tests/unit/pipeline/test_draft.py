"""One record from bytes to request body: each reason why there is none, and what travels with the record."""

import json

import pytest

from mira_stream.core.outcome import Reason
from mira_stream.core.record import RecordKey
from mira_stream.core.tokens import Estimator
from mira_stream.pipeline.draft import (
    Draft,
    Prepared,
    Prompting,
    Text,
    draft_record,
    finish_draft,
    tokenize_body,
)
from mira_stream.pipeline.raw import RawRecord
from tests.fakes.ledgers import version
from tests.fakes.pool import GROUP, prompting

A = version("a")
TRACE = b'{"messages":[{"role":"user","content":"Hello <|im_end|> you"}],"meta":{"run":7,"tags":["x"]},"who":"codex"}'


def _draft(
    raw: bytes,
    *,
    source: str = "claude_cli",
    pool: Prompting | None = None,
    sources: frozenset[str] = frozenset({"claude_cli"}),
    name_field: str | None = None,
    meta: tuple[str, ...] = (),
    ordinal: int = 0,
) -> Draft:
    pool = pool or prompting()
    return draft_record(
        RawRecord(RecordKey(A, ordinal), source, raw),
        lambda name: pool if name in sources else None,
        name_field=name_field,
        meta_fields=meta,
        estimator=Estimator(),
    )


def _long(words: int) -> bytes:
    text = "\n".join(f"step {n} of many" for n in range(words // 4))
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.BLANK),
        (b" \t\r", Reason.BLANK),
        (b"\xff\xfe{}", Reason.INVALID_UTF8),
        (b'{"a":', Reason.INVALID_JSON),
        (b'{"a":NaN}', Reason.INVALID_JSON),
        (b"[1,2]", Reason.NOT_OBJECT),
        (b'"text"', Reason.NOT_OBJECT),
        (b'{"a":' * 501 + b"1" + b"}" * 501, Reason.TOO_DEEP),
        (b"{}", Reason.NO_TEXT),
        (b'{"messages":[]}', Reason.NO_TEXT),
    ],
)
def test_bytes_that_hold_no_record_end_with_their_reason(raw: bytes, reason: Reason) -> None:
    """Any bytes lead to an outcome with a reason, never to an exception."""
    assert _draft(raw, ordinal=1).result is reason


def test_a_byte_order_mark_is_dropped_on_the_first_line_only() -> None:
    """Elsewhere it is not JSON; alone it is not blank."""
    marked = b"\xef\xbb\xbf" + TRACE
    assert isinstance(_draft(marked, ordinal=0).result, Text)
    assert _draft(marked, ordinal=1).result is Reason.INVALID_JSON
    assert _draft(b"\xef\xbb\xbf", ordinal=0).result is not Reason.BLANK


def test_a_source_without_a_pool_is_said_so() -> None:
    """Before anything is decoded: a blank line is blank even there, all else is `no_pool`."""
    assert _draft(TRACE, source="nobody").result is Reason.NO_POOL
    assert _draft(b"not json", source="nobody").result is Reason.NO_POOL
    assert _draft(b"  ", source="nobody").result is Reason.BLANK


def test_a_record_may_name_its_own_source() -> None:
    """The field decides on pool and partition; a record without it is a dead letter, one of no pool is skipped."""
    sources = frozenset({"codex"})
    named = _draft(TRACE, name_field="who", sources=sources)
    assert (named.subject.source, named.subject.group) == ("codex", GROUP)
    missing = _draft(TRACE, name_field="meta.nothing", sources=sources)
    assert missing.result is Reason.MISSING_FIELD
    assert missing.subject.source == "claude_cli"
    other = _draft(TRACE, name_field="who", sources=frozenset({"else"}))
    assert (other.result, other.subject.source) == (Reason.NO_POOL, "codex")
    assert _draft(b"not json", name_field="who", sources=sources).result is Reason.INVALID_JSON


def test_a_field_that_is_empty_names_no_source() -> None:
    """An empty text is as good as none."""
    raw = TRACE.replace(b'"codex"', b'""')
    assert _draft(raw, name_field="who").result is Reason.MISSING_FIELD


def test_what_is_known_of_a_record_travels_with_it() -> None:
    """Shape, group, neutralised tokens, and the fields that config passes through as one JSON text."""
    draft = _draft(TRACE, meta=("meta.run", "meta.tags", "meta.none"))
    assert isinstance(draft.result, Text)
    assert draft.subject.group == GROUP
    assert draft.subject.shape == "openai_messages"
    assert draft.subject.neutralised_tokens == 1
    assert json.loads(draft.subject.meta or "") == {"meta.run": "7", "meta.tags": '["x"]'}
    assert _draft(TRACE).subject.meta is None


def test_a_record_well_under_the_limit_is_sent_uncounted() -> None:
    """Its body holds the rendered text between the template's parts; admission counts the estimate."""
    pool = prompting()
    draft = _draft(TRACE, pool=pool)
    assert tokenize_body(draft, pool, counted=None) is None
    prepared = finish_draft(draft, pool, estimator=Estimator())
    assert isinstance(prepared, Prepared)
    system, user = json.loads(prepared.body)["messages"]
    assert system["content"] == "Grade it."
    assert "Hello <\u200b|im_end|> you" in user["content"]
    assert isinstance(draft.result, Text)
    assert prepared.prompt_tokens == draft.result.estimate.tokens
    assert prepared.raw_tokens == draft.result.estimate.raw


def test_a_record_far_over_the_limit_loses_its_middle() -> None:
    """Uncounted: the upper end of its estimate fits afterwards; head and tail stay, and the row says how much is gone."""
    pool = prompting(context_tokens=4096, max_tokens=1024)
    draft = _draft(_long(40_000), pool=pool)
    assert tokenize_body(draft, pool, counted=None) is None
    prepared = finish_draft(draft, pool, estimator=Estimator())
    assert isinstance(prepared, Prepared)
    user = json.loads(prepared.body)["messages"][1]["content"]
    assert "step 0 of many" in user
    assert "step 9999 of many" in user
    assert "tokens left out here" in user
    assert prepared.subject.truncated_tokens > 1000
    assert prepared.prompt_tokens <= pool.prompt_tokens_max


def test_a_record_over_the_limit_is_a_dead_letter_if_so_configured() -> None:
    """`overflow = "dead_letter"`."""
    pool = prompting(context_tokens=4096, max_tokens=1024, truncate=False)
    assert finish_draft(_draft(_long(40_000), pool=pool), pool, estimator=Estimator()) is Reason.OVER_LENGTH


def test_a_pool_without_room_for_a_record_says_over_length() -> None:
    """Not even a note fits beside the shared part of the prompt: nothing is sent with an empty record."""
    pool = prompting(context_tokens=1100, max_tokens=1024)
    assert finish_draft(_draft(_long(4_000), pool=pool), pool, estimator=Estimator()) is Reason.OVER_LENGTH


def test_an_exact_count_decides_where_the_estimate_cannot() -> None:
    """Near the limit: what fits is sent whole, what does not is cut until it does, each cut is counted again."""
    pool = prompting(context_tokens=4096, max_tokens=1024)
    draft = _near(pool)
    body = tokenize_body(draft, pool, counted=None)
    assert body is not None
    assert "max_tokens" not in json.loads(body)
    fits = draft.cut_to(pool.prompt_tokens_max, pool, Estimator())
    assert tokenize_body(fits, pool, counted=pool.prompt_tokens_max) is None
    prepared = finish_draft(fits, pool, estimator=Estimator())
    assert isinstance(prepared, Prepared)
    assert (prepared.prompt_tokens, prepared.subject.truncated_tokens) == (pool.prompt_tokens_max, 0)
    over = draft.cut_to(pool.prompt_tokens_max + 200, pool, Estimator())
    assert over.subject.truncated_tokens >= 200
    assert tokenize_body(over, pool, counted=pool.prompt_tokens_max + 200) is not None


def test_an_exact_count_over_the_limit_is_a_dead_letter_if_so_configured() -> None:
    """Nothing is cut then."""
    pool = prompting(context_tokens=4096, max_tokens=1024, truncate=False)
    draft = _near(pool).cut_to(pool.prompt_tokens_max + 1, pool, Estimator())
    assert draft.subject.truncated_tokens == 0
    assert finish_draft(draft, pool, estimator=Estimator()) is Reason.OVER_LENGTH


def _near(pool: Prompting) -> Draft:
    """A record whose estimate is about the limit."""
    low, high = 0, 40_000
    while high - low > 4:
        middle = (low + high) // 2
        text = _draft(_long(middle), pool=pool).result
        assert isinstance(text, Text)
        low, high = (middle, high) if text.estimate.tokens < pool.prompt_tokens_max else (low, middle)
    return _draft(_long(low), pool=pool)
