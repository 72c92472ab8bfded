"""A streamed completion: server-sent events, in whatever pieces they come, put together into one reply."""

from collections.abc import Iterator
from typing import Protocol

import msgspec


class StreamWatch(Protocol):
    """Looks at a reply while it comes in."""

    def feed(self, piece: str) -> str | None:
        """The next piece of text; a finish reason if the rest need not be waited for."""


class Details(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int | None = None


class StreamUsage(msgspec.Struct):
    """The running cost, which vLLM tells in every chunk if asked to."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    text: str | None = None
    finish_reason: str | None = None
    index: int = 0


class _Chunk(msgspec.Struct):
    model: str = ""
    choices: list[_Choice] = []
    usage: StreamUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode


class StreamError(Exception):
    """The server broke the stream off itself; the message is what it said, or what is wrong with the stream."""


class EventReader:
    """Splits bytes into the payloads of server-sent events.

    Lines end in LF or CR LF, events in a blank line; comments and fields other than `data` are let be. A payload that
    came in several `data` lines is joined.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The payloads that are complete now."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for ended in lines:
            line = ended.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].lstrip(b" "))
            elif not line and self._data:
                payload = b"\n".join(self._data)
                self._data.clear()
                yield payload

    @property
    def held_bytes(self) -> int:
        """Bytes of what is not complete yet."""
        return len(self._rest) + sum(map(len, self._data))


class StreamedReply:
    """What has come of one streamed completion."""

    def __init__(self, watch: StreamWatch | None) -> None:
        self._watch = watch
        self._pieces: list[str] = []
        self.model = ""
        self.usage: StreamUsage | None = None
        self.finish_reason: str | None = None
        self.stopped_early: str | None = None
        self.started = False
        self.thought = False
        self.done = False
        self.chunks = 0

    @property
    def text(self) -> str:
        """The reply so far."""
        return "".join(self._pieces)

    def take(self, payload: bytes) -> None:
        """One event. Raises StreamError if the server says that it failed, or nothing that can be understood."""
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise StreamError("it streamed something that is not a completion") from error
        if len(chunk.error):
            raise StreamError(bytes(chunk.error).decode("utf-8", "replace"))
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            self._add(choice)

    def _add(self, choice: _Choice) -> None:
        delta = choice.delta
        piece = choice.text if choice.text is not None else delta.content
        thought = delta.reasoning or delta.reasoning_content
        self.finish_reason = choice.finish_reason or self.finish_reason
        # A chat stream opens with an empty piece, sent with the first token; a completion's first piece has it.
        self.started = self.started or piece is not None or bool(thought)
        self.thought = self.thought or bool(thought)
        if piece:
            self.chunks += 1
            self._pieces.append(piece)
            if self._watch is not None and self.stopped_early is None:
                self.stopped_early = self._watch.feed(piece)

    @property
    def over(self) -> bool:
        """Whether nothing more need be read."""
        return self.done or self.stopped_early is not None

    @property
    def completion_tokens(self) -> int:
        """As the server counts, else one for each piece."""
        return self.usage.completion_tokens if self.usage else self.chunks
