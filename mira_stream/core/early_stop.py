"""When a reply that is still being written need not be waited for: it runs in a loop, or all that is asked for is there.

Fed piece by piece as it streams in. What is found does not depend on how the text was cut into pieces, and the work is
linear in its length.
"""

from collections.abc import Sequence

from mira_stream.core.reply import parse

LOOP = "repetition"
"""Finish reason of a reply that repeats itself, as vLLM calls it."""
COMPLETE = "stop"

_LOOKED_CHARS = 64
"""New characters after which it is looked for a loop again."""
_PROBE_CHARS = 24
_LOOP_CHARS = 600
_LOOP_TIMES = 8
_PERIOD_CHARS_MAX = 500

_TAIL_WORDS = ("overall", "recommendation", "domain", "brief")
"""Before all of them were said no reply is complete: it need not be parsed."""
_FREE_JUDGEMENTS = 8
_GROWTH = 1.125


def loops(text: str) -> bool:
    """Whether the text ends in at least 600 characters that are one piece, of at most 500, repeated eight times or more.

    No healthy reply does: its lines differ in their labels, and nothing in it is that monotonous.
    """
    if len(text) < _LOOP_CHARS:
        return False
    end = len(text) - _PROBE_CHARS
    probe, oldest = text[end:], max(0, end - _PERIOD_CHARS_MAX)
    before = text.rfind(probe, oldest, len(text) - 1)
    # The last characters may stand more than once in the piece that is repeated: each distance is tried.
    while before >= 0:
        if _repeats(text, end - before):
            return True
        before = text.rfind(probe, oldest, before + _PROBE_CHARS - 1)
    return False


def _repeats(text: str, period: int) -> bool:
    """Whether what ends here equals what ended one period earlier: it is that period again and again."""
    looped = max(_LOOP_CHARS, _LOOP_TIMES * period)
    return len(text) >= looped and text.endswith(text[-looped:-period])


class _Loops:
    """Looks for a loop at the end of what came so far; keeps only what that takes."""

    def __init__(self) -> None:
        self._end = ""
        self._new: list[str] = []
        self._chars = 0

    def feed(self, piece: str) -> bool:
        """The next piece; whether it runs in a loop."""
        self._new.append(piece)
        self._chars += len(piece)
        if self._chars < _LOOKED_CHARS:
            return False
        self._end = "".join((self._end, *self._new))[-_LOOP_TIMES * _PERIOD_CHARS_MAX :]
        self._new.clear()
        self._chars = 0
        return loops(self._end)


class _Lines:
    """Looks for the end of the answer, line by line. `answer` is all up to that end once every line has come."""

    def __init__(self, slots: tuple[str, ...]) -> None:
        self.answer: str | None = None
        self._slots = slots
        self._lines: list[str] = []
        self._open: list[str] = []
        self._unsaid: Sequence[str] = _TAIL_WORDS
        self._chars = 0
        self._judgements = 0
        self._judge_from = 0.0

    def feed(self, piece: str) -> bool:
        """The next piece; whether the answer is complete and something follows it."""
        self._open.append(piece)
        if "\n" not in piece and self.answer is None:
            return False
        *ended, rest = "".join(self._open).split("\n")
        self._open = [rest]
        for line in ended:
            if self._follows(line):
                return True
            self._end_line(line)
        return self._follows(rest)

    def _follows(self, line: str) -> bool:
        """Whether that is text behind the answer. White space and the end of a code block are none: a healthy reply
        ends by itself after them. A tag may say that all before it was thinking."""
        if self.answer is None or not any(map(str.isalnum, line)):
            return False
        if line.lstrip().startswith("<"):
            self.answer = None
            return False
        return True

    def _end_line(self, line: str) -> None:
        self._lines.append(line)
        self._chars += len(line) + 1
        if self._unsaid:
            lower = line.lower()
            self._unsaid = [word for word in self._unsaid if word not in lower]
        if self._unsaid or self.answer is not None or not line.strip() or self._chars < self._judge_from:
            return
        self._judge()

    def _judge(self) -> None:
        """Parse what came, as if it were cut here: what could still change is missing then."""
        text = "\n".join((*self._lines, ""))
        parsed = parse(text, "length", self._slots)
        if parsed.complete and not parsed.missing:
            self.answer = text
        # Something is missing that may never come: look ever more seldom, so that the work stays linear.
        self._judgements += 1
        if self._judgements >= _FREE_JUDGEMENTS:
            self._judge_from = self._chars * _GROWTH


class EarlyStop:
    """Watches one reply. `slots` are those of the rubric."""

    def __init__(self, slots: Sequence[str]) -> None:
        self._lines = _Lines(tuple(slots))
        self._text = _Loops()
        self._thoughts = _Loops()

    def feed(self, piece: str) -> str | None:
        """Take in the next piece; the finish reason if the rest need not be waited for."""
        if self._lines.feed(piece):
            return COMPLETE
        if not self._text.feed(piece):
            return None
        return LOOP if self._lines.answer is None else COMPLETE

    def think(self, piece: str) -> str | None:
        """Take in the next piece of thinking that the server keeps apart; the finish reason if it runs in a loop."""
        return LOOP if self._thoughts.feed(piece) else None

    @property
    def answer(self) -> str | None:
        """The whole answer, without what follows it; None while something may be missing."""
        return self._lines.answer
