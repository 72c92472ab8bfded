"""When the prompts that were sent will be prefilled, by prediction: the soft gate that keeps the queue thin.

The prediction is a clock that runs ahead: every prompt sent pushes `ends_at` on by its uncached tokens over the rate.
It is never evidence; the hard bound on the batched-token budget rests on `permits.Holdings` alone.
"""

from collections import deque

_RATE_MIN, _RATE_MAX = 200.0, 2_000_000.0
_LOOKS = 64
_SECONDS_MIN = 1.0
"""Prefill time, summed over requests, from which on a rate is believed."""


class PrefillClock:
    """Rate (tokens per second) and predicted end (monotonic seconds) of what one replica has to prefill."""

    def __init__(self, tokens_per_second: float) -> None:
        assert tokens_per_second > 0
        self._prior = tokens_per_second
        self._totals: deque[tuple[float, float]] = deque(maxlen=_LOOKS)
        self.tokens_per_second = tokens_per_second
        self.ends_at = 0.0

    def reset(self) -> None:
        """Another engine stands there; what it was sent is not lost sight of."""
        self._totals.clear()
        self.tokens_per_second = self._prior

    def sent(self, tokens: float, now: float) -> None:
        """A prompt with so many uncached tokens goes out."""
        self.ends_at = max(now, self.ends_at) + max(0.0, tokens) / self.tokens_per_second

    def idle(self, now: float, tokens_since: float) -> None:
        """A look showed nothing waiting: at most what was sent since then is left."""
        self.ends_at = min(self.ends_at, now + tokens_since / self.tokens_per_second)

    def tokens(self, now: float) -> float:
        """Q_pred: tokens predicted to be not yet prefilled."""
        return max(0.0, self.ends_at - now) * self.tokens_per_second

    def opens_at(self, target_tokens: float) -> float:
        """The moment from which on fewer than `target_tokens` are predicted to be left."""
        return self.ends_at - target_tokens / self.tokens_per_second

    def learn(self, prefilled_tokens: float, prefill_seconds: float) -> None:
        """Totals of the engine's counters, both as of the same requests: tokens computed, and the time it took."""
        totals = self._totals
        if totals and (prefilled_tokens < totals[-1][0] or prefill_seconds < totals[-1][1]):
            totals.clear()
        totals.append((prefilled_tokens, prefill_seconds))
        tokens, seconds = prefilled_tokens - totals[0][0], prefill_seconds - totals[0][1]
        if seconds >= _SECONDS_MIN and tokens > 0:
            self.tokens_per_second = min(_RATE_MAX, max(_RATE_MIN, tokens / seconds))
