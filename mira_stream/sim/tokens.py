"""The simulator's tokenizer: every three bytes of UTF-8 are a token, every special token is one, nothing is learned.

So a count costs next to nothing, `/tokenize` and `usage` agree exactly, and ids turn back into text. Three bytes a
token is close to what Qwen's tokenizer makes of agent traces (2.99). As in vLLM, `<|im_end|>` *inside* a message is
the special token, not text.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

BYTES_PER_TOKEN = 3
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPECIAL_PATTERN = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
_MARK = re.compile(r"<\|")  # quicker than `in` for so short a needle, and than the whole pattern
_ENDOFTEXT, _IM_START, _IM_END = range(3)
# Roles take one token each, as they do in Qwen's vocabulary.
_ROLES = ("system", "user", "assistant", "tool")
_ROLE_BASE = len(SPECIAL)
# A piece of one, two or three bytes: its base plus its bytes as a number.
_BASE_1 = _ROLE_BASE + len(_ROLES)
_BASE_2 = _BASE_1 + (1 << 8)
_BASE_3 = _BASE_2 + (1 << 16)
VOCABULARY_SIZE = _BASE_3 + (1 << 24)
_NEWLINE = _BASE_1 + 0x0A

MESSAGE_TOKENS = 5
"""What the chat template adds to each message: start, role, newline, end, newline."""
GENERATION_TOKENS = 3
"""What it adds to open the assistant's turn: start, role, newline."""


class Turn(NamedTuple):
    """One message of a conversation, its parts joined to one text."""

    role: str
    text: str


def count_text(*parts: str) -> int:
    """Tokens of a text on its own, which may be given in parts.

    A long part without non-ASCII characters is counted at once, so a record is better kept apart from its template.
    """
    if not any(map(_MARK.search, parts)):
        return -(-sum(map(_size, parts)) // BYTES_PER_TOKEN)
    pieces = _SPECIAL_PATTERN.split("".join(parts))
    return len(pieces) // 2 + sum(-(-_size(piece) // BYTES_PER_TOKEN) for piece in pieces[::2])


def count_chat(turns: Sequence[Turn], *, generation: bool = True) -> int:
    """Tokens of a conversation, the chat template's included; `generation` opens the assistant's turn."""
    return template_tokens(turns, generation=generation) + sum(count_text(turn.text) for turn in turns)


def template_tokens(turns: Sequence[Turn], *, generation: bool = True) -> int:
    """What the chat template adds to the texts of a conversation."""
    return MESSAGE_TOKENS * len(turns) + (GENERATION_TOKENS if generation else 0)


def encode_text(text: str) -> list[int]:
    """The ids of `text`; as many as `count_text` says."""
    ids: list[int] = []
    for number, part in enumerate(_SPECIAL_PATTERN.split(text)):
        if number % 2:
            ids.append(SPECIAL.index(part))
        else:
            ids.extend(_encode_pieces(part.encode()))
    return ids


def encode_chat(turns: Iterable[Turn], *, generation: bool = True) -> list[int]:
    """The ids of a conversation; as many as `count_chat` says."""
    ids: list[int] = []
    for turn in turns:
        ids += [_IM_START, _role(turn.role), _NEWLINE, *encode_text(turn.text), _IM_END, _NEWLINE]
    if generation:
        ids += [_IM_START, _role("assistant"), _NEWLINE]
    return ids


def piece_of(token: int) -> bytes:
    """The bytes of one id; empty for an id outside the vocabulary."""
    if not 0 <= token < VOCABULARY_SIZE:
        return b""
    if token < _ROLE_BASE:
        return SPECIAL[token].encode()
    if token < _BASE_1:
        return _ROLES[token - _ROLE_BASE].encode()
    if token < _BASE_2:
        return bytes((token - _BASE_1,))
    if token < _BASE_3:
        return (token - _BASE_2).to_bytes(2, "big")
    return (token - _BASE_3).to_bytes(3, "big")


def decode(ids: Iterable[int]) -> str:
    """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
    return b"".join(map(piece_of, ids)).decode(errors="replace")


def first_unknown(ids: Sequence[int]) -> int | None:
    """The first id outside the vocabulary, or None."""
    return next((token for token in ids if not 0 <= token < VOCABULARY_SIZE), None)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _encode_pieces(data: bytes) -> list[int]:
    whole = len(data) // 3 * 3
    threes = zip(data[0:whole:3], data[1:whole:3], data[2:whole:3], strict=True)
    ids = [_BASE_3 + (a << 16 | b << 8 | c) for a, b, c in threes]
    rest = data[whole:]
    if rest:
        ids.append((_BASE_1 if len(rest) == 1 else _BASE_2) + int.from_bytes(rest, "big"))
    return ids


def _role(role: str) -> int:
    return _ROLE_BASE + (_ROLES.index(role) if role in _ROLES else _ROLES.index("user"))
