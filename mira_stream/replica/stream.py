"""A streamed completion: server-sent events, in whatever pieces they come, put together into one reply."""

from collections.abc import Iterator
from typing import Annotated, Protocol

import msgspec

from mira_stream.core.usage import Usage


class StreamWatch(Protocol):
    """Looks at a reply while it comes in."""

    def feed(self, piece: str) -> str | None:
        """The next piece of text; a finish reason if the rest need not be waited for."""

    def think(self, piece: str) -> str | None:
        """The next piece of thinking that the server keeps apart from the text; a finish reason likewise."""

    @property
    def answer(self) -> str | None:
        """What of the text is the answer, if what follows it is none; else None."""


_CHARS_PER_TOKEN = 4
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Details(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: Count | None = None


class StreamUsage(msgspec.Struct):
    """The running cost, which vLLM tells in every chunk if asked to."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
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


_NO_ERROR = msgspec.Raw(b"null")


class _Chunk(msgspec.Struct):
    model: str = ""
    choices: list[_Choice] = []
    usage: StreamUsage | None = None
    error: msgspec.Raw = _NO_ERROR


_decode = msgspec.json.Decoder(_Chunk).decode


class _Coded(msgspec.Struct):
    code: int | None = None


class StreamError(Exception):
    """The server broke the stream off itself: `said` is its error, `status` what it would have answered with it."""

    def __init__(self, said: bytes) -> None:
        super().__init__(said.decode("utf-8", "replace"))
        self.said = said
        self.status = _status(said)


class NotAStream(Exception):
    """What came is no piece of a completion."""


def _status(said: bytes) -> int:
    """The status that an error in a stream came without: its code, as vLLM gives it, else 500."""
    try:
        code = msgspec.json.decode(said, type=_Coded).code
    except (msgspec.DecodeError, RecursionError, ValueError):
        return 500
    return code if code is not None and 400 <= code < 600 else 500


class EventReader:
    """Splits bytes into the payloads of server-sent events.

    Lines end in LF or CR LF, events in a blank line; comments and fields other than `data` are let be. A payload that
    came in several `data` lines is joined.
    """

    def __init__(self) -> None:
        self._open: list[bytes] = []
        self._data: list[bytes] = []
        self._data_bytes = 0
        self.held_bytes = 0
        """Bytes of what is not complete yet."""

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The payloads that are complete now."""
        self._open.append(received)
        self.held_bytes += len(received)
        if b"\n" not in received:
            return
        *lines, rest = b"".join(self._open).split(b"\n")
        self._open = [rest]
        for ended in lines:
            line = ended.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].lstrip(b" "))
                # As received: lines that hold nothing take memory, too.
                self._data_bytes += len(ended) + 1
            elif not line and self._data:
                payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                self._data.clear()
                self._data_bytes = 0
                yield payload
        self.held_bytes = len(rest) + self._data_bytes


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
        self.done = False
        self.chunks = 0
        self.chars = 0

    @property
    def text(self) -> str:
        """The reply so far; without what followed the answer, if it was left for that."""
        if self.stopped_early is not None and self._watch is not None and self._watch.answer is not None:
            return self._watch.answer
        return "".join(self._pieces)

    def take(self, payload: bytes) -> None:
        """One event. Raises StreamError if the server says that it failed, NotAStream if it cannot be understood."""
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise NotAStream from error
        if chunk.error != _NO_ERROR:
            raise StreamError(bytes(chunk.error))
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            if choice.index == 0:
                self._add(choice)

    def _add(self, choice: _Choice) -> None:
        delta = choice.delta
        piece = choice.text if choice.text is not None else delta.content
        thought = delta.reasoning or delta.reasoning_content
        self.finish_reason = choice.finish_reason or self.finish_reason
        # A chat stream opens with an empty piece, sent with the first token; a completion's first piece has it.
        self.started = self.started or piece is not None or thought is not None
        if not (piece or thought):
            return
        self.chunks += 1
        self.chars += len(piece or "") + len(thought or "")
        if piece:
            self._pieces.append(piece)
        if self._watch is not None and self.finish_reason is None and self.stopped_early is None:
            stop = self._watch.feed(piece) if piece else None
            self.stopped_early = stop or (self._watch.think(thought) if thought else None)

    @property
    def over(self) -> bool:
        """Whether nothing more need be read."""
        return self.done or self.stopped_early is not None

    @property
    def cost(self) -> Usage:
        """As the server counts; else the reply's tokens are guessed, and the prompt's are not known."""
        if self.usage is None:
            return Usage(0, max(self.chunks, self.chars // _CHARS_PER_TOKEN), estimated=True)
        details = self.usage.prompt_tokens_details
        cached = details.cached_tokens if details else None
        return Usage(self.usage.prompt_tokens, self.usage.completion_tokens, cached)
