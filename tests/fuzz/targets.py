"""What is fuzzed: each target takes any bytes and fails where a promise about hostile input is broken."""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.decode import decode, field_text
from mira_stream.core.early_stop import EarlyStop
from mira_stream.core.errors import Corrupt, MiraStreamError, Refusal
from mira_stream.core.naming import SourceNaming
from mira_stream.core.outcome import Reason
from mira_stream.core.partition import partition_name
from mira_stream.core.prompt import PromptTemplate
from mira_stream.core.record import Line, ObjectVersion, RecordKey
from mira_stream.core.reply import parse, parse_tolerantly
from mira_stream.core.request import RequestEncoder, RequestSettings
from mira_stream.core.row import SLOTS
from mira_stream.core.rubric import Criterion, Rubric
from mira_stream.core.segment import Trailer
from mira_stream.core.tokens import Estimator
from mira_stream.core.trace import Rendered, Shape, render
from mira_stream.daemon.config import parse_config
from mira_stream.pipeline.draft import Prepared, Prompting, draft_record, finish_draft
from mira_stream.pipeline.raw import RawRecord
from mira_stream.replica.errors import answered
from mira_stream.replica.load import parse_load, parse_report
from mira_stream.replica.stream import EventReader, NotAStream, StreamedReply, StreamError
from mira_stream.sink.format import decode_rows, parse_segment_key, published_key, read_trailer, trailer_frame
from mira_stream.source.codec import STEP_BYTES, Decoder
from mira_stream.source.lines import BATCH_LINES_MAX, LineFramer
from mira_stream.source.names import NameFilter

KEY = "sk-a-secret-that-must-not-show"
SQLITE_MAX = 2**63 - 1
_CUT_SIZES = (1, 2, 3, 7, 64, 1000, 1 << 16)


def _cut(data: bytes, seed: int) -> Iterator[bytes]:
    """`data` in pieces whose sizes go round, from one that `seed` chooses."""
    sizes = itertools.cycle(_CUT_SIZES[seed % len(_CUT_SIZES) :] + _CUT_SIZES)
    at = 0
    while at < len(data):
        size = next(sizes)
        yield data[at : at + size]
        at += size


def _text(data: bytes) -> str:
    """What follows the first byte as text; by that byte, what is no UTF-8 becomes lone surrogates or U+FFFD."""
    return data[1:].decode("utf-8", "surrogateescape" if data[:1] > b"\x80" else "replace")


def _decompressed(pieces: Iterable[bytes]) -> tuple[bytes, Reason | None]:
    decoder, output = Decoder(window_log_max=23), []
    try:
        for piece in pieces:
            output += decoder.feed(piece)
        output += decoder.finish()
    except Corrupt as error:
        return b"".join(output), error.reason
    assert max(map(len, output), default=0) <= STEP_BYTES
    return b"".join(output), None


def codec(data: bytes) -> None:
    """Any object decompresses, or ends for a reason, and does so alike however it is cut into pieces."""
    seed, whole = sum(data[:1]), data[1:]
    assert _decompressed([whole]) == _decompressed(_cut(whole, seed))


def _framed(pieces: Iterable[bytes], line_bytes_max: int) -> tuple[list[Line], Reason | None]:
    framer, lines = LineFramer(line_bytes_max), []
    try:
        for piece in pieces:
            for batch in framer.feed(piece):
                assert len(batch) <= BATCH_LINES_MAX
                lines += batch
    except Corrupt as error:
        return lines, error.reason
    return lines + framer.finish(), None


def framing(data: bytes) -> None:
    """Any bytes are the same lines however they are cut into pieces, and together they are those bytes."""
    seed, line_bytes_max, whole = sum(data[:1]), sum(data[1:2]) + 1, data[2:]
    lines, reason = _framed([whole], line_bytes_max)
    assert (lines, reason) == _framed(_cut(whole, seed), line_bytes_max)
    assert [line.ordinal for line in lines] == list(range(len(lines)))
    assert all(len(line.raw) <= line_bytes_max for line in lines)
    if reason is None and not any(line.oversized for line in lines):
        assert b"\n".join(line.raw for line in lines) == whole.removesuffix(b"\n")


def records(data: bytes) -> None:
    """Any line is a record or has a reason; any record has a text that can be written down, or none."""
    record = decode(data, first=True)
    if isinstance(record, Reason):
        return
    assert isinstance(field_text(record, "messages.0.content"), str | None)
    rendered = render(record)
    if isinstance(rendered, Rendered):
        rendered.text.encode()
        assert rendered.text.strip()
        assert rendered.shape in set(Shape)
        assert list(rendered.turns) == sorted(set(rendered.turns))
        assert rendered.turns[0] == 0
        assert rendered.turns[-1] < len(rendered.text)
    else:
        assert rendered is Reason.NO_TEXT


@cache
def _prompting(truncate: bool) -> Prompting:
    return Prompting(
        group="g",
        slots=("A1",),
        template=PromptTemplate.build(Rubric("g", (Criterion("A1", "One"),))),
        encoder=RequestEncoder(RequestSettings(), "m"),
        context_tokens=4096,
        max_tokens=2048,
        truncate=truncate,
    )


_SPECIAL = re.compile(
    r"<\|[^\s<>|]+\|>|<tts_pad>|<tts_text_bos>|<tts_text_eod>|<[\s/]{0,4}judged_record", re.IGNORECASE
)


def prompts(data: bytes) -> None:
    """Any line becomes a request in which it cannot leave its place, or has a reason; it fits by its estimate."""
    truncate = sum(data[:1]) % 2 == 0
    prompting, estimator = _prompting(truncate), Estimator()
    raw = RawRecord(RecordKey(ObjectVersion("file:///x", "e"), 1), "s", data[1:])
    draft = draft_record(
        raw, lambda _: prompting, name_field=None, meta_fields=("a.b", "messages"), estimator=estimator
    )
    if isinstance(draft.result, Reason):
        return
    prepared = finish_draft(draft, prompting, estimator=estimator)
    if not isinstance(prepared, Prepared):
        assert prepared is Reason.OVER_LENGTH
        return
    assert not truncate or prepared.prompt_tokens <= prompting.prompt_tokens_max
    system, user = (message["content"] for message in json.loads(prepared.body)["messages"])
    template = prompting.template
    assert system == template.system
    place = user.removeprefix(template.before).removesuffix(template.after)
    assert user == template.before + place + template.after
    assert not _SPECIAL.search(place)


def replies(data: bytes) -> None:
    """Any reply parses, cut or not, streamed or not, to values in their ranges; the quick reader says the same."""
    seed, text = sum(data[:1]), _text(data)
    for finish_reason in ("stop", "length"):
        reply = parse(text, finish_reason)
        assert reply == parse_tolerantly(text, SLOTS, cut=finish_reason == "length")
        msgspec.json.encode(reply)
        scores = [score for score in msgspec.structs.astuple(reply.scores) if score is not None]
        assert all(0 <= score <= 10 for score in scores)
        assert reply.overall is None or 0 <= reply.overall <= 100
        assert reply.complete == (reply.reason is None)
    watch = EarlyStop(SLOTS)
    at = 0
    for size in itertools.islice(itertools.cycle(_CUT_SIZES[seed % 5 :]), len(text)):
        if at >= len(text) or watch.feed(text[at : at + size]) is not None:
            break
        at += size


def trailers(data: bytes) -> None:
    """The end of any file is a trailer that nobody's progress is poisoned by, or corrupt; so are its rows."""
    try:
        trailer = read_trailer(data)
    except Corrupt:
        pass
    else:
        _assert_sound(trailer)
        assert read_trailer(trailer_frame(trailer)) == trailer
    for read in (lambda: list(decode_rows(data)), lambda: published_key(data)):
        try:
            read()
        except Corrupt:
            continue
    parse_segment_key(data.decode("utf-8", "replace"))


def _assert_sound(trailer: Trailer) -> None:
    """All of it can stand in the ledger."""
    assert 0 <= trailer.seq <= SQLITE_MAX
    for held in trailer.ranges:
        held.uri.encode()
        assert 0 <= held.generation <= SQLITE_MAX
        assert all(0 <= start < end <= SQLITE_MAX for start, end in held.spans)
        IntervalSet(held.spans)
    assert all(0 <= lines.count <= SQLITE_MAX for lines in trailer.lines)


def metrics_pages(data: bytes) -> None:
    """Any page is a load whose numbers can be calculated with, or none."""
    page = data.decode("utf-8", "replace")
    load = parse_load(page)
    if load is not None:
        numbers = [value for value in msgspec.structs.astuple(load) if value is not None]
        assert all(math.isfinite(value) and value >= 0 for value in numbers)
        assert load.kv_usage_max is None or load.kv_usage_max <= 1
    report = parse_report("JSON " + page)
    if report is not None:
        assert report.waiting is None or report.waiting >= 0


def _streamed(pieces: Iterable[bytes]) -> tuple[list[bytes], object]:
    events, reply, payloads = EventReader(), StreamedReply(EarlyStop(SLOTS)), []
    try:
        for piece in pieces:
            for payload in events.feed(piece):
                payloads.append(payload)
                reply.take(payload)
    except StreamError as error:
        return payloads, error.status
    except NotAStream:
        return payloads, NotAStream
    return payloads, (reply.text, reply.finish_reason, reply.cost, reply.over)


def streams(data: bytes) -> None:
    """Any stream is the same events, and the same reply or error, however it is cut into pieces."""
    seed, whole = sum(data[:1]), data[1:]
    assert _streamed([whole]) == _streamed(_cut(whole, seed))


def error_bodies(data: bytes) -> None:
    """Any answer is an error of ours, in one line that a terminal can show, and never tells a key."""
    status, body = 300 + 2 * sum(data[:1]) % 300, data[1:]
    error = answered("http://replica", status, {"Retry-After": body[:40].decode("latin-1")}, body, (KEY,))
    assert isinstance(error, MiraStreamError)
    text = str(error)
    assert len(text) < 1000
    assert text.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
    assert KEY not in text


def names(data: bytes) -> None:
    """Any source name and any key is one chain, in a folder of its own below the sink."""
    source, _, key = _text(data).partition("\n")
    for name in (source, SourceNaming().of_key(key)):
        partition = partition_name(name, key, 4)
        parts = partition.split("/")
        assert len(parts) == 2
        assert re.fullmatch(r"source=[A-Za-z0-9_.%~-]{1,200}", parts[0])
        assert parts[0] not in ("source=.", "source=..", "source=")
        assert parse_segment_key(f"{partition}/00000007.jsonl.zst") == (partition, 7)
    NameFilter(("*.jsonl*", "**/x?z/*")).refuses(key)


def configurations(data: bytes) -> None:
    """Any text is a configuration, or is refused."""
    with suppress(Refusal):
        parse_config(data.decode("utf-8", "replace"), "mira.toml")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "codec": codec,
    "framing": framing,
    "records": records,
    "prompts": prompts,
    "replies": replies,
    "trailers": trailers,
    "metrics_pages": metrics_pages,
    "streams": streams,
    "error_bodies": error_bodies,
    "names": names,
    "configurations": configurations,
}
