"""Exact token counts of prompts: the client of the process that counts, and a pool's prompts around it.

The client never holds up the loop: texts go over a socket, answers come back in order. When the process has grown too
large it is replaced by a fresh one, and counts on until that is ready.
"""

import asyncio
import re
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import structlog

from mira_stream.core.errors import Refusal, Transient, TransientKind
from mira_stream.core.request import PromptIds
from mira_stream.replica.chat_template import ChatTemplate
from mira_stream.replica.counter_settings import CounterSettings
from mira_stream.replica.counting import ANSWER, ASK, Start, Started, Want

_log = structlog.get_logger(__name__)
_PIECE_CHARS = 1 << 18
_BUFFER_BYTES = 4 << 20
_END_SECONDS = 5.0


class _Answer(msgspec.Struct, frozen=True):
    tokens: int
    resident_bytes: int
    ids: bytes


class _Line(asyncio.Protocol):
    """The connection to one process: answers come in the order of the texts."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.fresh_bytes = 0
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: deque[asyncio.Future[_Answer]] = deque()
        self._sending = asyncio.Lock()
        self._buffer = bytearray()
        self._retired = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From asyncio: the socket is ready."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
        """From asyncio: the process has ended; whoever waits is told."""
        self._transport = None
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the process that counts has ended"))
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """From asyncio: a part of an answer, or several."""
        self._buffer += data
        while len(self._buffer) >= ANSWER.size:
            tokens, resident_bytes, size = ANSWER.unpack_from(self._buffer)
            end = ANSWER.size + size
            if len(self._buffer) < end:
                return
            answer = _Answer(tokens, resident_bytes, bytes(memoryview(self._buffer)[ANSWER.size : end]))
            del self._buffer[:end]
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(answer)
            if self._retired and not self._waiting:
                self.close()

    async def ask(self, want: Want | int, text: str) -> _Answer:
        """What the process says of `text`. Raises ConnectionError if it has ended."""
        waiting: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        async with self._sending:
            data = await _encoded(text)
            if self._transport is None:
                raise ConnectionResetError("the process that counts has ended")
            self._waiting.append(waiting)
            self._transport.write(ASK.pack(want, len(data)))
            self._transport.write(data)
        return await waiting

    def retire(self) -> None:
        """Close as soon as everything that was asked is answered."""
        self._retired = True
        if not self._waiting and not self._sending.locked():
            self.close()

    def close(self) -> None:
        """Close the socket, which ends the process; idempotent."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def ended(self) -> bool:
        return self._transport is None


async def _encoded(text: str) -> bytes:
    """UTF-8; of a very long text in pieces, between which others run."""
    if len(text) <= _PIECE_CHARS:
        return text.encode()
    pieces = []
    for start in range(0, len(text), _PIECE_CHARS):
        pieces.append(text[start : start + _PIECE_CHARS].encode())
        await asyncio.sleep(0)
    return b"".join(pieces)


class TokenizerProcess:
    """One tokenizer, in a process of its own that is replaced when it has grown too large or has ended.

    `started` says which library counts, and why not the quicker one.
    """

    def __init__(self, file: Path, *, settings: CounterSettings, executor: Executor) -> None:
        self.file = file
        self.started = Started("")
        self.replaced = 0
        self._settings = settings
        self._executor = executor
        self._line: _Line | None = None
        self._lines: list[_Line] = []
        self._renewing = asyncio.Lock()

    @property
    def library(self) -> str:
        """What counts: gigatoken or tokenizers."""
        return self.started.library

    @property
    def pid(self) -> int:
        """The process that counts now."""
        assert self._line is not None, "not open"
        return self._line.process.pid

    async def open(self) -> None:
        """Start it and check gigatoken against `tokenizers`. Raises Refusal."""
        try:
            self._line = await self._start(None)
        except (ConnectionError, TimeoutError):
            try:
                self._line = await self._start("tokenizers")
            except (ConnectionError, TimeoutError) as error:
                text = f"the tokenizer {self.file} cannot be read: {error or 'it took too long'}"
                raise Refusal(
                    text, "what the library says stands on stderr; give the model's own file"
                ) from error
            self.started = Started("tokenizers", "gigatoken cannot read it")
        if self.started.remark:
            _log.warning("gigatoken is not used", tokenizer=str(self.file), why=self.started.remark)

    async def forget_reference(self) -> None:
        """All is checked: a fresh process without the library that it was checked against. Raises Transient."""
        if self.library == "gigatoken":
            assert self._line is not None, "not open"
            await self._renew(self._line)
            self.replaced = 0

    async def close(self) -> None:
        """End the processes, and wait for them; idempotent."""
        for line in self._lines:
            line.close()
        ended, self._lines = self._lines, []
        for line in ended:
            await asyncio.get_running_loop().run_in_executor(self._executor, _end, line.process)

    async def ask(self, want: Want, text: str) -> PromptIds:
        """The tokens of `text`, special tokens off. Raises Transient if no process can say."""
        for wanted in (want, Want.SLOW_IDS if want in (Want.COUNT, Want.IDS) else want):
            line = self._line
            assert line is not None, "not open"
            try:
                answer = await line.ask(wanted, text)
            except ConnectionError:
                # Perhaps it was this very text: the other library is asked next.
                await self._renew(line)
                continue
            if answer.resident_bytes > line.fresh_bytes + self._settings.cache_bytes_max:
                await self._renew(line)
            return PromptIds(answer.tokens, answer.ids)
        raise Transient(
            TransientKind.PROTOCOL, f"the process that counts with {self.file} ended twice over one text"
        )

    async def _renew(self, old: _Line) -> None:
        """Replace `old`, unless somebody does so now and it still counts."""
        if self._renewing.locked() and not old.ended:
            return
        async with self._renewing:
            if self._line is not old:
                return
            try:
                fresh = await self._start(self.started.library)
            except (ConnectionError, TimeoutError, OSError) as error:
                raise Transient(
                    TransientKind.PROTOCOL, f"no process that counts can be started: {error}"
                ) from error
            self._line = fresh
            self.replaced += 1
            old.retire()

    async def _start(self, library: str | None) -> _Line:
        loop = asyncio.get_running_loop()
        self._reap()
        near, process = await loop.run_in_executor(self._executor, _spawn)
        _, line = await loop.create_unix_connection(lambda: _Line(process), sock=near)
        self._lines.append(line)
        start = msgspec.json.encode(Start(str(self.file), library)).decode()
        try:
            async with asyncio.timeout(self._settings.start_timeout_seconds):
                answer = await line.ask(0, start)
                if not self.started.library:
                    self.started = msgspec.json.decode(answer.ids, type=Started)
                line.fresh_bytes = (await line.ask(Want.COUNT, "")).resident_bytes
        except BaseException:
            line.close()
            raise
        return line

    def _reap(self) -> None:
        self._lines = [line for line in self._lines if not (line.ended and line.process.poll() is not None)]


def _spawn() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    near, far = socket.socketpair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    near.setblocking(False)
    with far:
        process = subprocess.Popen([sys.executable, "-m", "mira_stream.replica.counting"], stdin=far.fileno())
    return near, process


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@asynccontextmanager
async def tokenizer_process(
    file: Path, *, settings: CounterSettings, executor: Executor
) -> AsyncIterator[TokenizerProcess]:
    """The process for `file`, ended on the way out. Raises Refusal."""
    process = TokenizerProcess(file, settings=settings, executor=executor)
    try:
        await process.open()
        yield process
    finally:
        await process.close()


class PromptCounter:
    """Counts a pool's prompts exactly as its replicas will, and encodes them; implements `ports.PromptCounter`.

    A special token ends what stands before it, so the prompt is three: what comes before the last special token in
    front of the record, what follows the first one behind it, and the text between them, which holds the record. The
    first two are encoded once, special tokens on; the text between them each time, special tokens off.
    """

    def __init__(
        self, process: TokenizerProcess, *, head: PromptIds, tail: PromptIds, between: tuple[str, str]
    ) -> None:
        self._process = process
        self._head = head
        self._tail = tail
        self._before, self._after = between

    @property
    def library(self) -> str:
        """What counts, as people name it."""
        return self._process.library

    async def count(self, user: str) -> int:
        """Exact tokens of the prompt with this user message."""
        text = f"{self._before}{user}{self._after}"
        return self._head.tokens + (await self._process.ask(Want.COUNT, text)).tokens + self._tail.tokens

    async def encode(self, user: str) -> PromptIds:
        """Its ids."""
        text = f"{self._before}{user}{self._after}"
        middle = await self._process.ask(Want.IDS, text)
        parts = [part for part in (self._head, middle, self._tail) if part.tokens]
        return PromptIds(sum(part.tokens for part in parts), b",".join([part.ids for part in parts]))


async def prompt_counter(
    process: TokenizerProcess,
    template: ChatTemplate,
    *,
    system: str,
    special: dict[str, int],
    probes: Sequence[str],
) -> PromptCounter:
    """The counter of all prompts with this system message, checked on `probes`: user messages of every kind.

    Raises Refusal if the prompt cannot be taken apart at its special tokens, or not so that all ids stay the same.
    """
    around = template.around(system)
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
    head_end = max((match.end() for match in pattern.finditer(around.lead)), default=0)
    tail = pattern.search(around.trail)
    tail_start = tail.start() if tail else len(around.trail)
    counter = PromptCounter(
        process,
        head=await _fixed(process, around.lead[:head_end], pattern, special),
        tail=await _fixed(process, around.trail[tail_start:], pattern, special),
        between=(around.lead[head_end:], around.trail[:tail_start]),
    )
    for user in probes:
        whole = template.render(system, user)
        expected = await process.ask(Want.PROMPT_IDS, whole)
        if whole != around.lead + user + around.trail or await counter.encode(user) != expected:
            raise Refusal(
                f"the chat template of {process.file} changes what it is given: {user[:40]!r}",
                "leave `tokenizer` out of this [[pool]]: its prompts can only be counted by estimate",
            )
    return counter


async def _fixed(
    process: TokenizerProcess, text: str, pattern: "re.Pattern[str]", special: dict[str, int]
) -> PromptIds:
    """A part of the template, its special tokens on."""
    parts = []
    last = 0
    for match in [*pattern.finditer(text), None]:
        between = text[last : match.start() if match else len(text)]
        if between:
            parts.append(await process.ask(Want.IDS, between))
        if match:
            parts.append(PromptIds(1, b"%d" % special[match.group()]))
            last = match.end()
    return PromptIds(sum(part.tokens for part in parts), b",".join([part.ids for part in parts]))
