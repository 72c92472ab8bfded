"""The breaker of one replica: open after failures in a row, half open for one request after a good look at it."""

from enum import StrEnum

from mira_stream.control.settings import AdmissionSettings


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """`now` is monotonic seconds, `jitter` is in [0, 1)."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.state = BreakerState.CLOSED
        self.failures = 0
        self.open_until = 0.0
        self.saturated_until = 0.0
        self._openings = 0

    def allows(self, now: float, *, in_flight: int) -> bool:
        """Whether a request may go there now: none while open or saturated, one while half open."""
        if now < self.saturated_until or self.state is BreakerState.OPEN:
            return False
        return self.state is BreakerState.CLOSED or in_flight == 0

    def wake_at(self) -> float | None:
        """When a pause of its own ends; None if only an event can change it."""
        return self.saturated_until if self.state is not BreakerState.OPEN else None

    def succeeded(self) -> None:
        """A request was answered."""
        self.failures = 0
        self._openings = 0
        self.state = BreakerState.CLOSED

    def failed(self, now: float, jitter: float, *, at_once: bool) -> None:
        """A request failed and the replica is to blame; `at_once`: it is plainly not there."""
        self.failures += 1
        if (
            at_once
            or self.state is BreakerState.HALF_OPEN
            or self.failures >= self._settings.breaker_failures
        ):
            self.open(now, jitter)

    def open(self, now: float, jitter: float) -> None:
        """Send nothing there until a probe goes well."""
        pause = self._settings.breaker_seconds_min * 2**self._openings
        pause = min(pause, self._settings.breaker_seconds_max)
        self.state = BreakerState.OPEN
        self.open_until = now + pause * (0.5 + jitter / 2)
        self._openings = min(self._openings + 1, 16)

    def saturated(self, until: float) -> None:
        """The replica asked for a pause."""
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
