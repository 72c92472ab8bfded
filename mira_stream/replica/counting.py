"""The process that counts: texts in, numbers of tokens (or the ids) out, over one socket, until that is closed.

A process of its own, because loading a vocabulary holds the interpreter for half a second, and because gigatoken's
cache only ever grows: when it has grown too large, the process is replaced, and its memory is the system's again.
Started as `python -m mira_stream.replica.counting` with the socket as its standard input.
"""

import os
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path

import msgspec

from mira_stream.replica.tokenizer import Tokenizer

ASK = struct.Struct("<BI")
"""Before each text: what is wanted of it, and its length in bytes."""
ANSWER = struct.Struct("<IQI")
"""Before each answer: tokens, resident bytes of this process, length in bytes of the ids that follow."""
_PIECE_BYTES = 1 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Want(IntEnum):
    """What is wanted of a text: the number of its tokens, or its ids as JSON without brackets.

    SLOW_IDS are those that `tokenizers` finds; PROMPT_IDS take what spells a special token for one.
    """

    COUNT = 1
    IDS = 2
    SLOW_IDS = 3
    PROMPT_IDS = 4


class Start(msgspec.Struct, frozen=True):
    """The first text: which tokenizer, and by which library if that is known."""

    file: str
    library: str | None = None


class Started(msgspec.Struct, frozen=True):
    """The answer to it, in place of ids: which library counts, and why not the quicker one."""

    library: str
    remark: str = ""


def _serve(wire: socket.socket) -> None:
    first = _receive(wire)
    if first is None:
        return
    start = msgspec.json.decode(first[1], type=Start)
    tokenizer = Tokenizer(Path(start.file), library=start.library)
    _answer(wire, 0, msgspec.json.encode(Started(tokenizer.library, tokenizer.remark)))
    ways: dict[Want, Callable[[bytes], Sequence[int]]] = {
        Want.COUNT: tokenizer.encode,
        Want.IDS: tokenizer.encode,
        Want.SLOW_IDS: tokenizer.encode_slowly,
        Want.PROMPT_IDS: tokenizer.encode_prompt,
    }
    while (asked := _receive(wire)) is not None:
        want, text = Want(asked[0]), asked[1]
        ids = ways[want](text)
        _answer(wire, len(ids), b"" if want is Want.COUNT else _as_json(ids))


def _as_json(ids: Sequence[int]) -> bytes:
    plain = ids.tolist() if hasattr(ids, "tolist") else ids
    return msgspec.json.encode(plain)[1:-1]


def _receive(wire: socket.socket) -> tuple[int, bytes] | None:
    """What is wanted and the text; None if nobody is there any more."""
    head = _exactly(wire, ASK.size)
    if head is None:
        return None
    want, size = ASK.unpack(head)
    text = _exactly(wire, size)
    return None if text is None else (want, text)


def _exactly(wire: socket.socket, size: int) -> bytes | None:
    """So many bytes, or None if the socket closes before."""
    pieces = []
    while size:
        piece = wire.recv(min(size, _PIECE_BYTES))
        if not piece:
            return None
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _answer(wire: socket.socket, tokens: int, ids: bytes) -> None:
    wire.sendall(ANSWER.pack(tokens, resident_bytes(), len(ids)) + ids)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        return int(os.pread(_statm(), 128, 0).split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@cache
def _statm() -> int:
    """Opened once: opening costs as much as counting a page of text."""
    return os.open("/proc/self/statm", os.O_RDONLY)


def main() -> None:
    """Count until the socket is closed. Signals are for the parent, which may still need counts while it drains."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=0) as wire:
        try:
            _serve(wire)
        except ConnectionError:
            return


if __name__ == "__main__":
    main()
