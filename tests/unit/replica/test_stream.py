"""Streamed replies: the same reply however the bytes come, and no error of the server is taken for one."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mira_stream.core.usage import Usage
from mira_stream.replica.stream import EventReader, NotAStream, StreamedReply, StreamError


def event(**changes: object) -> bytes:
    return b"data: " + json.dumps({"model": "m", "choices": [], **changes}).encode() + b"\n\n"


def piece(text: str | None, *, finish: str | None = None, **fields: object) -> bytes:
    delta = {} if text is None else {"content": text}
    return event(choices=[{"index": 0, "delta": {**delta, **fields}, "finish_reason": finish}])


USAGE = event(
    usage={"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
)
STREAM = (
    piece("", role="assistant")
    + b": a comment\r\n\r\n"
    + piece("[A1] – 7/10").replace(b"\n", b"\r\n")
    + b"event: message\nid: 7\n"
    + piece(" é 漢", finish=None)
    + piece(None, finish="stop")
    + USAGE
    + b"data: [DONE]\n\n"
)


def read(*chunks: bytes) -> StreamedReply:
    events, reply = EventReader(), StreamedReply(None)
    for chunk in chunks:
        for payload in events.feed(chunk):
            reply.take(payload)
    return reply


class Watch:
    """Stops at a `b`, of which it must be told once."""

    answer: str | None = None
    stopped = False

    def feed(self, piece: str) -> str | None:
        assert not self.stopped
        self.stopped = piece == "b"
        return "repetition" if self.stopped else None

    def think(self, piece: str) -> str | None:
        return self.feed(piece)


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_chunking_gives_the_same_reply(cuts: list[int]) -> None:
    """Cut anywhere, inside a character, between CR and LF."""
    places = [0, *sorted(cuts), len(STREAM)]
    reply = read(*(STREAM[start:end] for start, end in pairwise(places)))
    assert (reply.text, reply.finish_reason, reply.done) == ("[A1] – 7/10 é 漢", "stop", True)
    assert (reply.cost, reply.model) == (Usage(10, 3, 4), "m")


def test_the_first_token_is_the_first_piece_even_an_empty_one() -> None:
    """A chat stream opens with its first token; a usage alone is none; thinking is."""
    assert not read(USAGE).started
    assert read(piece("")).started
    assert read(piece(None, reasoning="hm")).started
    assert read(event(choices=[{"index": 0, "text": "x"}])).started


def test_several_data_lines_are_one_event() -> None:
    """As the standard has it."""
    payload = json.dumps({"choices": [{"delta": {"content": "x"}}]})
    first, second = payload[:12], payload[12:]
    assert list(EventReader().feed(f"data: {first}\ndata: {second}\n\n".encode())) == [
        f"{first}\n{second}".encode()
    ]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b'{"error": {"message": "engine died", "code": 500}}', 500),
        (b'{"error": {"message": "busy", "code": 503}}', 503),
        (b'{"error": {"message": "no code"}}', 500),
        (b'{"error": {"message": "odd code", "code": 7}}', 500),
        (b'{"error": {"message": "odd code", "code": "x"}}', 500),
        (b'{"error": "in words"}', 500),
    ],
)
def test_an_error_in_a_stream_stands_for_an_answer(payload: bytes, status: int) -> None:
    """It came after a 200; its code is the status it would have had."""
    with pytest.raises(StreamError) as failed:
        StreamedReply(None).take(payload)
    assert failed.value.status == status
    assert failed.value.said in payload


@pytest.mark.parametrize(
    "payload",
    [
        b"not JSON",
        b'{"choices": 7}',
        b'{"choices": [7]}',
        b'{"usage": {"prompt_tokens": -1}}',
        b"[]",
        b"[" * 5000,
    ],
)
def test_what_is_no_piece_of_a_reply_is_an_error(payload: bytes) -> None:
    """Nothing is made of it."""
    with pytest.raises(NotAStream):
        StreamedReply(None).take(payload)


def test_what_says_that_nothing_is_wrong_is_no_error() -> None:
    """A null error, another choice."""
    assert read(event(error=None), event(choices=[{"index": 1, "delta": {"content": "x"}}])).text == ""


def test_bytes_that_are_not_complete_are_counted() -> None:
    """So that a line that never ends can be refused."""
    events = EventReader()
    for _ in range(1000):
        assert list(events.feed(b"data: xxxx")) == []
    assert events.held_bytes == 10_000
    assert len(list(events.feed(b"\n\n:"))) == 1
    assert events.held_bytes == 1


def test_a_watch_ends_it() -> None:
    """At the first reason it gives, and it is not asked again."""

    reply = StreamedReply(Watch())
    for text in "abc":
        reply.take(piece(text)[6:])
    assert reply.over
    assert (reply.stopped_early, reply.text) == ("repetition", "abc")


def test_thinking_is_watched_beside_the_text() -> None:
    """It is no part of the reply, and may loop as well."""
    reply = StreamedReply(Watch())
    reply.take(piece(None, reasoning="a")[6:])
    assert not reply.over
    reply.take(piece(None, reasoning_content="b")[6:])
    assert (reply.stopped_early, reply.text) == ("repetition", "")


def test_what_follows_the_answer_is_left_out() -> None:
    """Where the reply was left for it."""
    watch = Watch()
    reply = StreamedReply(watch)
    reply.take(piece("a")[6:])
    watch.answer = "the answer"
    assert reply.text == "a"
    reply.take(piece("b")[6:])
    assert reply.text == "the answer"


def test_a_reply_that_ends_by_itself_was_not_left() -> None:
    """Its last piece is not watched any more."""
    reply = StreamedReply(Watch())
    reply.take(piece("b", finish="length")[6:])
    assert (reply.stopped_early, reply.finish_reason) == (None, "length")


def test_tokens_are_guessed_where_the_server_does_not_say() -> None:
    """One for each piece, or more where pieces are long; and the guess is marked."""
    assert read(piece(""), piece("a"), piece("b")).cost == Usage(0, 2, estimated=True)
    assert read(piece("word " * 80)).cost == Usage(0, 100, estimated=True)
