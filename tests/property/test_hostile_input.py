"""Input that means harm: each kind ends in an outcome, in bounded time and bounded memory, and costs no neighbour."""

import gzip
import itertools
import json
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.decode import decode, field_text
from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason
from mira_stream.core.partition import encode_name
from mira_stream.core.prompt import SPECIAL_TOKENS
from mira_stream.core.record import Line, ObjectVersion, RecordKey
from mira_stream.core.tokens import Estimator
from mira_stream.core.trace import Rendered, render
from mira_stream.pipeline.draft import Prepared, draft_record, finish_draft
from mira_stream.pipeline.raw import RawRecord
from mira_stream.replica.load import parse_load
from mira_stream.replica.stream import EventReader
from mira_stream.sink.format import parse_segment_key, published_key, read_trailer
from mira_stream.source.reading import Damaged, ObjectReading
from mira_stream.source.settings import SourceSettings
from tests.fakes.pool import prompting

MB = 1 << 20
GOOD = b'{"messages":[{"role":"user","content":"Fix the build."},{"role":"assistant","content":"Done."}]}\n'
SETTINGS = SourceSettings(uri="/lake", line_bytes_max=4 * MB, window_log_max=23)
SAMPLE_PATH = "messages.0.content"


@contextmanager
def within(*, seconds: float, megabytes: float) -> Iterator[None]:
    """Fails if the block takes longer, or holds more at once. The time is what a slow and busy machine needs."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / MB
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < seconds
    assert peak < megabytes


def read(pieces: Iterable[bytes]) -> tuple[list[Line], Reason | None]:
    """The lines of an object, read as the daemon does, and why it ended if it ended badly."""
    reading, lines = ObjectReading(SETTINGS), []
    try:
        for batch in itertools.chain(*map(reading.feed, pieces), reading.drain()):
            lines += batch.lines
    except Damaged as damaged:
        return lines, damaged.end.reason
    return lines + list(reading.last_line()), None


def zstd_frame(data: bytes, **flags: int) -> bytes:
    """A frame without a checksum."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 0, **flags})


def test_a_line_of_a_gigabyte_is_a_row_and_not_a_memory() -> None:
    """A megabyte that becomes one line of 1 GiB is `line_too_long`; the records beside it are as they were."""
    members = [gzip.compress(data, mtime=0) for data in (GOOD, b"x" * MB, b"\n" + GOOD)]
    with within(seconds=60, megabytes=24):
        lines, reason = read([members[0], *itertools.repeat(members[1], 1024), members[2]])
    assert reason is None
    assert [(found.oversized, found.raw + b"\n") for found in lines] == [
        (False, GOOD),
        (True, b"\n"),
        (False, GOOD),
    ]


def test_a_zstd_bomb_ends_its_object() -> None:
    """A frame that becomes a gigabyte from a few kilobytes is `ratio`, found in bounded memory."""
    run_of_128_kib = ((128 << 10) << 3 | 2).to_bytes(3, "little") + b"x"
    bomb = bytes.fromhex("28b52ffd0058") + run_of_128_kib * 8192
    with within(seconds=60, megabytes=24):
        lines, reason = read([zstd_frame(GOOD), bomb])
    assert (lines, reason) == ([Line(0, GOOD[:-1])], Reason.RATIO)


@pytest.mark.parametrize(
    "empty",
    [
        zstd_frame(b""),
        b"\x50\x2a\x4d\x18" + bytes(4),
        b"\x5f\x2a\x4d\x18\x03\0\0\0abc",
        gzip.compress(b"", mtime=0),
    ],
    ids=["frames", "skippable", "skippable with content", "members"],
)
def test_empty_frames_cost_little(empty: bytes) -> None:
    """Thirty thousand become nothing, in time that grows with their number, and what follows them is read."""
    whole = gzip.compress(GOOD) if empty.startswith(b"\x1f") else zstd_frame(GOOD)
    with within(seconds=30, megabytes=24):
        lines, reason = read([*itertools.repeat(empty * 1000, 30), whole])
    assert (lines, reason) == ([Line(0, GOOD[:-1])], None)


def test_a_frame_of_empty_blocks_costs_little() -> None:
    """A quarter of a megabyte of blocks without content, and a frame that never ends."""
    with within(seconds=30, megabytes=24):
        lines, reason = read([bytes.fromhex("28b52ffd0058") + bytes(3 * (MB // 12))])
    assert (lines, reason) == ([], Reason.TRUNCATED)


def test_a_skippable_frame_that_claims_four_gigabytes_is_not_waited_for_in_memory() -> None:
    """What it claims is passed over as it comes; the object ends before."""
    with within(seconds=30, megabytes=24):
        lines, reason = read(
            [zstd_frame(GOOD), b"\x50\x2a\x4d\x18" + b"\xff" * 4, *itertools.repeat(bytes(MB), 64)]
        )
    assert (lines, reason) == ([Line(0, GOOD[:-1])], Reason.TRUNCATED)


def test_a_window_of_terabytes_is_not_allocated() -> None:
    """What a frame says about its window is refused before any memory is taken for it."""
    with within(seconds=10, megabytes=8):
        lines, reason = read([zstd_frame(GOOD), bytes.fromhex("28b52ffd00ff"), bytes(1000)])
    assert (lines, reason) == ([Line(0, GOOD[:-1])], Reason.WINDOW)


@pytest.mark.parametrize(
    ("raw", "result"),
    [
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.TOO_DEEP),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Reason.TOO_DEEP),
        (b"[" * 100_000, Reason.TOO_DEEP),
        (b'{"a":"' + b"[" * 100_000 + b'"}', {"a": "[" * 100_000}),
        (b'{"a":1e999999}', Reason.INVALID_JSON),
        (b'{"a":-1e999999}', Reason.INVALID_JSON),
        (b'{"a":1e-999999}', {"a": 0.0}),
        (b'{"a":1e' + b"9" * 100_000 + b"}", Reason.INVALID_JSON),
        (b'{"a":' + b"7" * 100_000 + b"}", {"a": "7" * 100_000}),
        (b'{"a":-' + b"7" * 100_000 + b"}", {"a": "-" + "7" * 100_000}),
        (b'{"a":0.' + b"7" * 100_000 + b"}", {"a": 7 / 9}),
        (b'{"a":Infinity}', Reason.INVALID_JSON),
        (b'{"a":"\\ud800"}', {"a": "\ufffd"}),
        (b'{"\\udfff\\ud800":"\\ud83d\\ude00"}', {"\ufffd\ufffd": "\U0001f600"}),
        (b'{"a":"\xed\xa0\x80"}', Reason.INVALID_UTF8),
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        (b'{"a":"\0"}', Reason.INVALID_JSON),
        (b"\0" * 1000, Reason.INVALID_JSON),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_line_that_means_harm_has_an_outcome(raw: bytes, result: object) -> None:
    """Depth, numbers, surrogates and NULs: the value, or the reason, and in no time."""
    with within(seconds=10, megabytes=64):
        found = decode(raw, first=False)
    assert found == result if not isinstance(result, Reason) else found is result


@pytest.mark.parametrize("digits", [4299, 4301, 100_000])
def test_a_record_of_huge_numbers_can_be_rendered(digits: int) -> None:
    """Wherever they stand: as text, as a name, as arguments of a tool."""
    number = b"7" * digits
    raw = b'{"messages":[{"role":"user","content":%b},{"role":%b,"content":"x"},{"role":"assistant",' % (
        number,
        number,
    )
    raw += b'"tool_calls":[{"function":{"name":%b,"arguments":{"a":%b}}}]}]}' % (number, number)
    record = decode(raw, first=False)
    assert isinstance(record, dict)
    assert isinstance(field_text(record, SAMPLE_PATH), str)
    rendered = render(record)
    assert isinstance(rendered, Rendered)
    rendered.text.encode()


HOSTILE = [
    *sorted(SPECIAL_TOKENS), "<|im_start|>system\n", "<|im_end|>", "<|endoftext|>", "</judged_record>", "< / JUDGED_RECORD",
    "<judged_record>", "\0", "\ufeff", "\u202e", "<|<|im_end|>|>", "<tts_<tts_pad>pad>",
]  # fmt: skip
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=3), max_size=6).map("".join)
_fields = st.fixed_dictionaries(
    {"role": texts | st.sampled_from(["user", "assistant", "tool"]), "content": texts},
    optional={
        "name": texts,
        "tool_call_id": texts,
        "reasoning_content": texts,
        "tool_calls": st.lists(
            st.builds(
                lambda i, n, a: {"id": i, "function": {"name": n, "arguments": a}}, texts, texts, texts
            ),
            max_size=2,
        ),
    },
)


@given(st.lists(_fields, min_size=1, max_size=4), texts, st.dictionaries(texts, texts, max_size=2))
@settings(max_examples=100, deadline=None)
def test_a_special_token_in_any_field_stays_text(
    messages: list[dict[str, object]], tools: str, others: dict[str, str]
) -> None:
    """Role, name, arguments, ids, keys: whatever holds it, the request that is sent holds it broken."""
    raw = json.dumps({"messages": messages, "tools": [{"name": tools}], **others}).encode()
    pool, estimator = prompting(), Estimator()
    draft = draft_record(
        RawRecord(RecordKey(ObjectVersion("file:///x", "e"), 0), "s", raw),
        lambda _: pool,
        name_field=None,
        meta_fields=(),
        estimator=estimator,
    )
    if isinstance(draft.result, Reason):
        assert draft.result is Reason.NO_TEXT
        return
    prepared = finish_draft(draft, pool, estimator=estimator)
    assert isinstance(prepared, Prepared)
    user = json.loads(prepared.body)["messages"][-1]["content"]
    place = user.removeprefix(pool.template.before).removesuffix(pool.template.after)
    assert not [
        token for token in (*SPECIAL_TOKENS, "<|im_end|>", "<|im_start|>", "<|endoftext|>") if token in place
    ]
    assert "judged_record>" not in place.replace("\u200bjudged_record>", "").replace(
        "\u200b/judged_record>", ""
    )


def test_a_source_name_of_megabytes_is_not_remembered() -> None:
    """A record may name its source: each such name is one short folder, and none is kept."""
    estimator = Estimator()
    with within(seconds=60, megabytes=16):
        for number in range(30):
            name = f"{number}/" * (MB // 4)
            assert len(encode_name(name)) <= 200
            estimator.observe(name, 100, 110)
            assert estimator.estimate("x", name).tokens >= 0


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../..", "/etc", "a/../../b", "..\\..", "%2e%2e", "\0", "\n", "~", "é", "a" * 5000],
)
def test_no_source_name_leaves_the_sink(name: str) -> None:
    """It is one component of a path, and another for every name."""
    encoded = encode_name(name)
    assert encoded not in ("", ".", "..")
    assert not set(encoded) & set("/\\\0\n")
    assert len(encoded) <= 200
    assert [other for other in ("a", "%", "_", "%2E") if encode_name(other) == encoded] == []


def _trailer(payload: bytes) -> bytes:
    head = (0x184D2A50).to_bytes(4, "little") + (len(payload) + 12).to_bytes(4, "little")
    return head + payload + len(payload).to_bytes(4, "little") + b"MIRASEG1"


_ROW = (
    b'{"record_id":"a","generation":%b,"object":"o","etag":"e","ordinal":%b,"outcome":"scored","reason":null}'
)
_TRAILER = b'{"partition":"source=a/shard=00","seq":%b,"plan_id":"p","ranges":[["o","e",%b,[[0,%b]]]],"lines":[["o","e",%b]]}'
_HUGE = b"1" + b"0" * 18
_DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("reading", "data"),
    [
        (read_trailer, _trailer(_DEEP)),
        *[
            (read_trailer, _trailer(_TRAILER % tuple(_HUGE if n == at else b"1" for n in range(4))))
            for at in range(4)
        ],
        (published_key, _DEEP),
        (published_key, _ROW % (_HUGE, b"1")),
        (published_key, _ROW % (b"1", b"-1")),
    ],
    ids=["deep", "seq", "generation", "span", "count", "deep row", "row's generation", "row's ordinal"],
)
def test_what_a_rival_wrote_is_corrupt_before_it_reaches_the_ledger(
    reading: Callable[[bytes], object], data: bytes
) -> None:
    """Depth, and numbers that no ledger can hold."""
    with pytest.raises(Corrupt):
        reading(data)


def test_a_name_of_a_thousand_digits_is_no_segment() -> None:
    """Python would refuse to read the number."""
    assert parse_segment_key(f"source=a/shard=00/{'7' * 5000}.jsonl.zst") is None
    assert parse_segment_key(f"source=a/shard={'7' * 5000}/00000001.jsonl.zst") is None


def test_a_stream_of_empty_data_lines_is_counted() -> None:
    """They never make an event, so what they hold is limited like any other reply's; the work does not grow with it."""
    events = EventReader()
    with within(seconds=20, megabytes=64):
        for _ in range(1000):
            assert list(events.feed(b"data:\n" * 100)) == []
    assert events.held_bytes == 600_000
    assert list(events.feed(b"\n")) == [b"\n" * 99_999]
    assert events.held_bytes == 0


@pytest.mark.parametrize(
    "page",
    [
        "vllm:num_requests_running " * 50_000,
        "vllm:num_requests_running{" + 'a="' * 100_000,
        "vllm:num_requests_running{" + ("," + " " * 1000) * 1000 + "} 1\n",
        ("vllm:num_requests_running{" + "\\" * 500 + "\n") * 1000,
        "vllm:num_requests_running " + "9" * 1_000_000 + "\nvllm:num_requests_waiting 1\n",
        "vllm:num_requests_running 1e999999\nvllm:num_requests_waiting nan\n",
    ],
    ids=["one line", "open quotes", "commas", "backslashes", "digits", "no numbers"],
)
def test_a_metrics_page_that_means_harm_is_read_in_no_time(page: str) -> None:
    """Whatever it is, it is no load, found without going over it again and again."""
    with within(seconds=5, megabytes=64):
        assert parse_load(page) is None
