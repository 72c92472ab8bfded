"""The breaker of one replica: open after failures in a row, half open for one request after a good look at it."""

from enum import StrEnum

from mira_stream.control.settings import AdmissionSettings

_DOUBLINGS_MAX = 16


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """`now` is monotonic seconds, `jitter` is in [0, 1).

    closed → open: `breaker_failures` in a row, or one that shows that nobody is there. open → half open: the pause is
    over and a look at the replica went well (the caller does it when `probe_due`). half open → closed: an answer;
    → open, for longer: a failure. What was sent before it opened decides nothing while it is open.
    """

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.state = BreakerState.CLOSED
        self.failures = 0
        self.open_until = 0.0
        self.saturated_until = 0.0
        self._openings = 0

    def __repr__(self) -> str:
        return f"Breaker({self.state}, {self.failures} failures in a row, open until {self.open_until:.1f})"

    def allows(self, now: float, *, in_flight: int) -> bool:
        """Whether a request may go there now: none while open or saturated, one while half open."""
        if now < self.saturated_until or self.state is BreakerState.OPEN:
            return False
        return self.state is BreakerState.CLOSED or in_flight == 0

    def wake_at(self, now: float) -> float | None:
        """When time alone will let requests through again; None if only an event can."""
        waits = self.state is not BreakerState.OPEN and self.saturated_until > now
        return self.saturated_until if waits else None

    def succeeded(self) -> None:
        """A request was answered."""
        if self.state is BreakerState.OPEN:
            return
        self.failures = 0
        self._openings = 0
        self.state = BreakerState.CLOSED

    def failed(self, now: float, jitter: float, *, at_once: bool) -> None:
        """A request failed and the replica is to blame; `at_once`: it is plainly not there.

        A replica that dies fails all its requests: that is one opening, not one for each of them.
        """
        if self.state is BreakerState.OPEN:
            return
        self.failures += 1
        many = self.failures >= self._settings.breaker_failures
        if at_once or many or self.state is BreakerState.HALF_OPEN:
            self.open(now, jitter)

    def open(self, now: float, jitter: float) -> None:
        """Send nothing there until a probe goes well."""
        assert 0.0 <= jitter < 1.0
        pause = min(
            self._settings.breaker_seconds_min * 2**self._openings, self._settings.breaker_seconds_max
        )
        self.state = BreakerState.OPEN
        self.open_until = now + pause * (0.5 + jitter / 2)
        self._openings = min(self._openings + 1, _DOUBLINGS_MAX)

    def saturated(self, until: float) -> None:
        """The replica is there and asks for a pause."""
        self.saturated_until = max(self.saturated_until, until)

    def probe_due(self, now: float) -> bool:
        """Whether somebody should look whether the replica is back."""
        return self.state is BreakerState.OPEN and now >= self.open_until

    def probed(self, now: float, jitter: float, *, ok: bool) -> None:
        """That look's result."""
        if self.state is not BreakerState.OPEN:
            return
        if ok:
            self.state = BreakerState.HALF_OPEN
        else:
            self.open(now, jitter)
