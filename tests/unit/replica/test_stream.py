"""Streamed replies: the same reply however the bytes come, and no error of the server is taken for one."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mira_stream.replica.stream import EventReader, StreamedReply, StreamError


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


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_chunking_gives_the_same_reply(cuts: list[int]) -> None:
    """Cut anywhere, inside a character, between CR and LF."""
    places = [0, *sorted(cuts), len(STREAM)]
    reply = read(*(STREAM[start:end] for start, end in pairwise(places)))
    assert (reply.text, reply.finish_reason, reply.done) == ("[A1] – 7/10 é 漢", "stop", True)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.completion_tokens, reply.model) == (10, 3, "m")
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 4


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
    "payload",
    [
        b'{"error": {"message": "engine died", "code": 500}}',
        b"not JSON",
        b'{"choices": 7}',
        b'{"choices": [7]}',
    ],
)
def test_what_is_no_piece_of_a_reply_is_an_error(payload: bytes) -> None:
    """An error in the midst of a stream came with status 200."""
    with pytest.raises(StreamError):
        StreamedReply(None).take(payload)


def test_a_watch_ends_it() -> None:
    """At the first reason it gives, and it is not asked again."""

    class Watch:
        asked = 0

        def feed(self, text: str) -> str | None:
            self.asked += 1
            return "repetition" if text == "b" else None

    reply = StreamedReply(Watch())
    for text in "abc":
        reply.take(piece(text)[6:])
    assert reply.over
    assert (reply.stopped_early, reply.text) == ("repetition", "abc")


def test_tokens_are_counted_by_pieces_where_the_server_does_not_say() -> None:
    """One for each."""
    assert read(piece(""), piece("a"), piece("b")).completion_tokens == 2
