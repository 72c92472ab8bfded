"""Objects that cannot be read while others can: when each may be tried again, so that they hold up nothing."""

from collections import OrderedDict

_WAIT_SECONDS = 30.0
_WAIT_SECONDS_MAX = 3600.0
_KEPT_MAX = 10_000


class Setbacks:
    """Waits that double from 30 s to an hour, per uri. Of more than 10,000 the oldest are forgotten: tried sooner."""

    def __init__(self) -> None:
        self._waits: OrderedDict[str, tuple[float, float]] = OrderedDict()  # seconds, and when they are over

    def __contains__(self, uri: str) -> bool:
        """Whether its last reading failed."""
        return uri in self._waits

    def __len__(self) -> int:
        """How many there are."""
        return len(self._waits)

    def put_off(self, uri: str, now: float) -> float:
        """A reading failed; how many seconds it is left alone."""
        before = self._waits.pop(uri, None)
        seconds = _WAIT_SECONDS if before is None else min(2 * before[0], _WAIT_SECONDS_MAX)
        self._waits[uri] = (seconds, now + seconds)
        if len(self._waits) > _KEPT_MAX:
            self._waits.popitem(last=False)
        return seconds

    def forget(self, uri: str) -> bool:
        """A reading went well, or came to its end; whether the one before had failed."""
        return self._waits.pop(uri, None) is not None

    def resting(self, now: float) -> frozenset[str]:
        """Those whose wait is not over."""
        return frozenset(uri for uri, (_, until) in self._waits.items() if now < until)
