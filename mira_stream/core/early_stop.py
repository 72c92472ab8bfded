"""When a reply that is still being written need not be waited for: it runs in a loop, or all that is asked for is there.

Fed piece by piece as it streams in; each piece costs a few string searches, whatever the length of the reply.
"""

from collections.abc import Sequence

from mira_stream.core.reply import parse

LOOP = "repetition"
"""Finish reason of a reply that repeats itself, as vLLM calls it."""
COMPLETE = "stop"
_LOOKED_CHARS = 64
"""New characters after which it is looked again."""
_PROBE_CHARS = 24
_LOOP_CHARS = 600
_LOOP_TIMES = 8
_PERIOD_CHARS_MAX = 500


def loops(text: str) -> bool:
    """Whether the text ends in at least 600 characters that are one piece repeated at least eight times.

    No healthy reply does: its lines differ in their labels, and nothing in it is that monotonous.
    """
    end = len(text) - _PROBE_CHARS
    if len(text) < _LOOP_CHARS:
        return False
    before = text.rfind(text[end:], max(0, end - _PERIOD_CHARS_MAX), len(text) - 1)
    if before < 0:
        return False
    period = end - before
    repeated = max(_LOOP_CHARS, _LOOP_TIMES * period) - period
    # What ends here equals what ended one period earlier: everything in between is that period again and again.
    return len(text) >= repeated + period and text[-repeated:] == text[-repeated - period : -period]


class EarlyStop:
    """Watches one reply. `slots` are those of the rubric."""

    def __init__(self, slots: Sequence[str]) -> None:
        self._slots = tuple(slots)
        self._pieces: list[str] = []
        self._text = ""
        self._new = 0
        self._judged_lines = 0

    @property
    def text(self) -> str:
        """All that came so far."""
        if self._pieces:
            self._text += "".join(self._pieces)
            self._pieces.clear()
        return self._text

    def feed(self, piece: str) -> str | None:
        """Take in the next piece; the finish reason if the rest need not be waited for."""
        self._pieces.append(piece)
        self._new += len(piece)
        if self._new < _LOOKED_CHARS and "\n" not in piece:
            return None
        self._new = 0
        text = self.text
        if loops(text):
            return LOOP
        return COMPLETE if "\n" in piece and self._is_complete(text) else None

    def _is_complete(self, text: str) -> bool:
        """Whether the last line asked for has come, whole, and everything before it can be read."""
        lines = text.count("\n")
        said = text.rstrip("\n").lower().rfind("brief")
        if lines == self._judged_lines or said < 0 or "\n" not in text[said:]:
            return False
        self._judged_lines = lines
        parsed = parse(text, COMPLETE, self._slots)
        return parsed.complete and not parsed.missing
