"""Tells completions piece by piece, as far as the engine has come with them."""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mira_stream.sim.answers import (
    CHAT,
    Choice,
    Form,
    Head,
    Usage,
    chunk_usage,
    opening_chunk,
    text_chunk,
    usage_chunk,
)
from mira_stream.sim.requests import StreamOptions
from mira_stream.sim.scorer import Completion
from mira_stream.sim.sequence import Sequence
from mira_stream.sim.tokens import BYTES_PER_TOKEN

_Utf8 = getincrementaldecoder("utf-8")


class Generated(NamedTuple):
    """One completion and the sequence that stands for it in the engine."""

    completion: Completion
    sequence: Sequence


class _Spool:
    """What of one completion has been told. A character is told once all its bytes are generated."""

    def __init__(self, index: int, generated: Generated) -> None:
        self.index = index
        self.completion, self.sequence = generated
        self._bytes = self.completion.text.encode()
        self._decoder = _Utf8()
        self._told_bytes = 0
        self.told_tokens = 0

    @property
    def ended(self) -> bool:
        return self.told_tokens == self.sequence.output_tokens

    def take(self) -> Choice | None:
        """What is new, or None."""
        tokens = self.sequence.generated
        if tokens == self.told_tokens:
            return None
        last = tokens == self.sequence.output_tokens
        end = len(self._bytes) if last else tokens * BYTES_PER_TOKEN
        text = self._decoder.decode(self._bytes[self._told_bytes : end], final=last)
        self._told_bytes, self.told_tokens = end, tokens
        completion = self.completion
        return Choice(
            self.index,
            text,
            completion.finish_reason if last else None,
            completion.stop_reason if last else None,
        )


class Teller:
    """Makes the chunks of one streamed answer."""

    def __init__(
        self,
        head: Head,
        generated: list[Generated],
        *,
        usage: Callable[[int], Usage],
        options: StreamOptions | None,
    ) -> None:
        """`usage` says what the answer has cost with so many completion tokens."""
        self._head = head
        self._spools = [_Spool(index, one) for index, one in enumerate(generated)]
        self._usage_with = usage
        self._options = options or StreamOptions()
        self._opened = False

    @property
    def ended(self) -> bool:
        """Whether everything has been told."""
        return all(spool.ended for spool in self._spools)

    def chunks(self) -> Iterator[bytes]:
        """The chunks for what is new since the last call; a chat stream opens with its first token."""
        if not self._opened and any(spool.sequence.generated for spool in self._spools):
            self._opened = True
            if self._head.kind is CHAT:
                yield from (opening_chunk(self._head, spool.index, self._usage()) for spool in self._spools)
        for spool in self._spools:
            choice = spool.take()
            if choice is not None:
                closes = self.ended and not self._options.include_usage
                yield text_chunk(self._head, choice, self._usage(), closes=closes)

    def closing_chunks(self) -> Iterator[bytes]:
        """The usage, if asked for."""
        if self._options.include_usage:
            yield usage_chunk(self._head, self._usage_with(self._completion_tokens()))

    def _usage(self) -> Form | None:
        if not self._options.continuous_usage_stats:
            return None
        return chunk_usage(self._head.kind, self._usage_with(self._completion_tokens()))

    def _completion_tokens(self) -> int:
        return sum(spool.told_tokens for spool in self._spools)
