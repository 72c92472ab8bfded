"""What the answers of a pool have been like: the tokens of prompts and replies, and how long they took."""

from collections import deque

from mira_stream.core.usage import Usage

_WEIGHT = 0.02
_LATENCIES, _LATENCIES_MIN = 256, 16
_SLOW_QUANTILE = 0.95
_SLOW_FACTOR = 1.5
_SLOW_SECONDS_MIN = 10.0


class Averages:
    """Running means over the answers, the last few weighing most; `output_tokens` starts from a prior."""

    def __init__(self, output_tokens: int) -> None:
        self._output_tokens = float(output_tokens)
        self._prompt_tokens: float | None = None
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self.output_tokens = output_tokens

    def answered(self, usage: Usage, seconds: float) -> None:
        """An answer took that long."""
        self._output_tokens += _WEIGHT * (usage.completion_tokens - self._output_tokens)
        self.output_tokens = round(self._output_tokens)
        known = self._prompt_tokens
        prompt = usage.prompt_tokens
        self._prompt_tokens = float(prompt) if known is None else known + _WEIGHT * (prompt - known)
        self._latencies.append(seconds)

    def share(self, tokens: int) -> float:
        """What part of a mean prompt `tokens` are; 0 before the first answer."""
        return min(1.0, tokens / self._prompt_tokens) if self._prompt_tokens else 0.0

    @property
    def slow_seconds(self) -> float | None:
        """After which time a request is stuck rather than slow: one and a half times what 95 of 100 of the last
        answers took, at least ten seconds. None before there are enough."""
        if len(self._latencies) < _LATENCIES_MIN:
            return None
        usual = sorted(self._latencies)[int(len(self._latencies) * _SLOW_QUANTILE)]
        return max(_SLOW_SECONDS_MIN, _SLOW_FACTOR * usual)
