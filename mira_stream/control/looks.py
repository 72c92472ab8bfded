"""What looks at an engine say over time: whether it moves, whether it is still the same one, who else uses it."""

from collections import deque

import msgspec

from mira_stream.core.usage import Load

STALE_SECONDS = 10.0
"""Unchanged for so long with work in flight: frozen. A single prefill step may last five seconds."""
_DELAYS = 32
_FOREIGN_LOOKS = 3
_PREFIX_LOOKS = 120
_NETWORK_SECONDS = 0.025
_NETWORK_SECONDS_MIN = 0.005
"""On the same machine it is the scheduling of both ends that counts."""


class Look(msgspec.Struct, frozen=True):
    """What one look added to the one before.

    `moved`: something changed since; `generated_tokens`: output of the whole engine since then, None if not known;
    `foreign`: requests there that are not ours, as this look alone shows it.
    """

    load: Load
    asked_at: float
    restarted: bool
    moved: bool
    generated_tokens: float | None
    foreign: int


class Looks:
    """The looks at one replica, in order. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.load: Load | None = None
        self.moved_at: float | None = None
        self._delays: deque[float] = deque(maxlen=_DELAYS)
        self.network_seconds = _NETWORK_SECONDS
        """The way there, from the quickest of the last looks."""
        self._foreign: deque[int] = deque(maxlen=_FOREIGN_LOOKS)
        self._prefix: deque[tuple[float, float]] = deque(maxlen=_PREFIX_LOOKS)

    @property
    def foreign_requests(self) -> int:
        """Requests of others: the least that the last three looks showed, for ours cross each other with looks."""
        return min(self._foreign) if len(self._foreign) == _FOREIGN_LOOKS else 0

    @property
    def prefix_hit_ratio(self) -> float | None:
        """Share of the prompt tokens that the engine found in its prefix cache of late; None if it does not say."""
        if len(self._prefix) < 2:
            return None
        queries, hits = (last - first for first, last in zip(self._prefix[0], self._prefix[-1], strict=True))
        return min(1.0, max(0.0, hits / queries)) if queries > 0 else None

    def age_seconds(self, now: float) -> float | None:
        """Time since a look showed anything new; None before the first."""
        return None if self.moved_at is None else now - self.moved_at

    def take(self, load: Load, asked_at: float, now: float, *, ours: int) -> Look:
        """A look, asked for at `asked_at`, has come; `ours` is how many of our requests may be in it."""
        assert asked_at <= now
        before, self.load = self.load, load
        self._delays.append(now - asked_at)
        self.network_seconds = max(_NETWORK_SECONDS_MIN, min(self._delays) / 2)
        restarted = before is not None and _differ(before, load)
        moved = before is None or restarted or load != before
        foreign = max(0, load.running + load.waiting - ours)
        if restarted:
            self._foreign.clear()
            self._prefix.clear()
        if moved:
            self.moved_at = asked_at
            self._foreign.append(foreign)
            self._count_prefix(load)
        generated = None if before is None or restarted else _rise(before, load)
        return Look(load, asked_at, restarted, moved, generated, foreign)

    def forget_prefix(self) -> None:
        """Judge the prefix cache anew."""
        self._prefix.clear()

    def _count_prefix(self, load: Load) -> None:
        if load.prefix_cache_queries is not None and load.prefix_cache_hits is not None:
            if self._prefix and load.prefix_cache_queries < self._prefix[-1][0]:
                self._prefix.clear()
            self._prefix.append((load.prefix_cache_queries, load.prefix_cache_hits))


def _differ(before: Load, after: Load) -> bool:
    """Whether another process answers, or the same with another cache."""
    if before.process_start_seconds != after.process_start_seconds:
        return True
    if before.blocks is not None and after.blocks is not None and before.blocks != after.blocks:
        return True
    return before.engines != after.engines


def _rise(before: Load, after: Load) -> float | None:
    if before.generation_tokens is None or after.generation_tokens is None:
        return None
    return max(0.0, after.generation_tokens - before.generation_tokens)
