"""What a replica can hold, learned from its engine: our tokens per unit of KV usage, and a one-sided safety.

One resident prompt and one look give the capacity within a few percent: the engine says which share of its cache is in
use, and we know which tokens are ours. That ratio absorbs what we do not count, a shared prefix or the fixed state of
a hybrid model, so it is "our tokens per full cache" and not a property of the card.
"""

from collections import deque
from enum import StrEnum
from statistics import median

from mira_stream.control.settings import AdmissionSettings

FIRST_TOKENS = 65_536
"""Until anything is known: one request of full length."""
_RAMP_TOKENS = 131_072
_RAMP_FACTOR = 4
_RAMP_USAGE = 0.5
_SAMPLES = 48
_USAGE_MIN = 0.005
_FULL_USAGE = 0.75
_WAITING = 3
_LOOKS = 3
_CUT, _CUT_FLOOR, _CUT_SECONDS = 0.9, 0.5, 15.0
_RECOVER = 0.001


class CapacityOrigin(StrEnum):
    """Where a capacity comes from."""

    PRIOR = "prior"  # nothing is known yet: one request of full length
    CONFIG = "config"
    ENGINE = "engine"  # what the server says of its own cache; gives way to what is learned
    LEARNED = "learned"


class Capacity:
    """The KV tokens of one replica. Everything is told; nothing here looks at a clock."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._configured = settings.kv_tokens
        self._engine: int | None = None
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        self._learned: float | None = None
        self._seen_tokens = 0
        self._usage_max = 0.0
        self._crowded_looks = 0
        self._cut_at: float | None = None
        self.share = 1.0

    def __repr__(self) -> str:
        return f"Capacity({self.tokens} tokens, {self.origin}, share {self.share:.3f})"

    def reset(self) -> None:
        """Another engine stands there: what was learned of the last one means nothing."""
        self._engine, self._learned = None, None
        self._samples.clear()
        self._seen_tokens, self._usage_max = 0, 0.0
        self._crowded_looks, self._cut_at = 0, None
        self.share = 1.0

    @property
    def origin(self) -> CapacityOrigin:
        """Where `tokens` comes from."""
        if self._configured is not None:
            return CapacityOrigin.CONFIG
        if self._learned is not None:
            return CapacityOrigin.LEARNED
        return CapacityOrigin.PRIOR if self._engine is None else CapacityOrigin.ENGINE

    @property
    def tokens(self) -> int:
        """C: what the cache holds when full, in our tokens."""
        known = self._learned if self._learned is not None else self._engine
        if self._configured is not None:
            known = self._configured
        return FIRST_TOKENS if known is None else int(known)

    @property
    def learned_tokens(self) -> int | None:
        """What the looks say, whether it is used or not; None before the first sample."""
        return None if self._learned is None else int(self._learned)

    @property
    def limit_tokens(self) -> int:
        """What may be reserved. Below half usage at most four times what was seen there: a sample taken from one
        small prompt may be off, and an engine that is filled in steps shows it before harm is done."""
        limit = self.tokens * self.share
        if self._configured is None and self._usage_max < _RAMP_USAGE:
            limit = min(limit, max(_RAMP_TOKENS, _RAMP_FACTOR * self._seen_tokens))
        return int(limit)

    def says(self, engine_tokens: int | None) -> None:
        """What the server says that its cache holds."""
        self._engine = engine_tokens

    def sample(self, *, held_tokens: float, usage: float) -> None:
        """A look in which `held_tokens` of known requests made up the `usage` (0…1) of the cache."""
        if usage <= _USAGE_MIN or held_tokens <= 0:
            return
        self._samples.append((held_tokens / usage, usage))
        fullest = max(used for _, used in self._samples)
        self._learned = median(ratio for ratio, used in self._samples if used >= fullest / 2)

    def saw(self, *, resident_tokens: int, usage: float) -> None:
        """Prompts of that size were resident at once, and that share of the cache was in use."""
        self._seen_tokens = max(self._seen_tokens, resident_tokens)
        self._usage_max = max(self._usage_max, usage)

    def judge(self, now: float, *, waiting: int, usage: float, limiting: bool) -> None:
        """Give back a tenth when requests queue up before a full cache, look after look; take it back bit by bit.

        `limiting`: KV is what keeps the next record out. Preemptions alone are no reason: one or two per 100
        requests are the optimum.
        """
        crowded = waiting > _WAITING and usage > _FULL_USAGE
        self._crowded_looks = self._crowded_looks + 1 if crowded else 0
        rested = self._cut_at is None or now - self._cut_at >= _CUT_SECONDS
        if self._crowded_looks >= _LOOKS and rested:
            self.share = max(_CUT_FLOOR, self.share * _CUT)
            self._cut_at, self._crowded_looks = now, 0
        elif waiting == 0 and limiting and rested:
            self.share = min(1.0, self.share + _RECOVER)
