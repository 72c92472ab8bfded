"""What a failed request means, and what happens to its record next."""

from enum import StrEnum

import msgspec

from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient, TransientKind
from mira_stream.core.outcome import Reason

_PAUSE_SECONDS = 0.5
_PAUSE_SECONDS_MAX = 30.0
_ALONE_AFTER = 2
_POISON_AFTER = 2
_REFILL_SECONDS = 60.0


class FaultKind(StrEnum):
    """Whose fault it was; also the `reason` label of the fault counters."""

    RECORD = "record"
    LENGTH = "length"
    CONFIGURATION = "configuration"
    SATURATION = "saturation"
    ABSENT = "absent"
    CRASH = "crash"
    TIMEOUT = "timeout"


class Fault(msgspec.Struct, frozen=True):
    """One failed request, judged."""

    kind: FaultKind
    message: str
    retry_after_seconds: float | None = None


def classify(error: MiraStreamError, *, others_answered: bool, over_length: bool) -> Fault:
    """Judge a failed request.

    Args:
        error: Transient, Saturated or Permanent, as a replica raises them.
        others_answered: that replica answered another record with the same settings a moment ago, so the settings
            are right and a refusal is about this record.
        over_length: our own count says that prompt and reply are over the context.
    """
    message = str(error)
    if isinstance(error, Saturated):
        return Fault(FaultKind.SATURATION, message, error.retry_after_seconds)
    if isinstance(error, Permanent):
        if error.status == 400 and (
            error.param == "input_tokens" or (error.param == "max_tokens" and over_length)
        ):
            return Fault(FaultKind.LENGTH, message)
        about_record = error.status in (400, 413, 422) and others_answered
        return Fault(FaultKind.RECORD if about_record else FaultKind.CONFIGURATION, message)
    assert isinstance(error, Transient), f"a replica raised {error!r}"
    if error.kind in (TransientKind.REFUSED, TransientKind.SHUTDOWN):
        return Fault(FaultKind.ABSENT, message)
    if error.kind is TransientKind.TIMEOUT:
        return Fault(FaultKind.TIMEOUT, message)
    return Fault(FaultKind.CRASH, message)


class History(msgspec.Struct, frozen=True):
    """What has happened to one record: failures, and crashes while it was the only request at a replica."""

    failures: int = 0
    crashes: int = 0
    crashes_alone: int = 0
    avoid: frozenset[str] = frozenset()


class Resend(msgspec.Struct, frozen=True):
    """Try again, not before `after_seconds` from now; `alone` where nothing else is in flight."""

    history: History
    after_seconds: float
    alone: bool = False
    spends_budget: bool = True


class GiveUp(msgspec.Struct, frozen=True):
    """The record ends as a dead letter."""

    reason: Reason


class StopPool(msgspec.Struct, frozen=True):
    """The configuration is wrong: stop the pool, keep the record, blame nobody."""

    message: str


Step = Resend | GiveUp | StopPool


def next_step(history: History, fault: Fault, *, replica: str, was_alone: bool, jitter: float) -> Step:
    """What happens to a record after `fault` at `replica`. A replica's fault never ends a record, but for poison:
    two crashes while the record was the only request there."""
    if fault.kind is FaultKind.LENGTH:
        return GiveUp(Reason.OVER_LENGTH)
    if fault.kind is FaultKind.RECORD:
        return GiveUp(Reason.REFUSED)
    if fault.kind is FaultKind.CONFIGURATION:
        return StopPool(fault.message)
    blames = fault.kind in (FaultKind.CRASH, FaultKind.TIMEOUT)
    after = History(
        failures=history.failures + 1,
        crashes=history.crashes + blames,
        crashes_alone=history.crashes_alone + (blames and was_alone),
        avoid=history.avoid if fault.kind is FaultKind.SATURATION else history.avoid | {replica},
    )
    if after.crashes_alone >= _POISON_AFTER:
        return GiveUp(Reason.POISON)
    pause = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2 ** min(history.failures, 10)) * (0.5 + jitter / 2)
    if fault.kind is FaultKind.SATURATION:
        return Resend(after, fault.retry_after_seconds or pause, spends_budget=False)
    if fault.kind is FaultKind.ABSENT:
        return Resend(after, 0.0 if history.failures == 0 else pause, spends_budget=False)
    return Resend(after, pause, alone=after.crashes >= _ALONE_AFTER)


class RetryBudget:
    """Tokens that may be sent again: a store of `retry_budget_tokens`, earned back by a share of what succeeds, and
    slowly by time, so that a pool in which everything failed comes back by itself."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._max = settings.retry_budget_tokens
        self._ratio = settings.retry_budget_ratio
        self._tokens = float(self._max)
        self._at = 0.0

    def tokens(self, now: float) -> float:
        """What is there now."""
        self._tokens = min(
            float(self._max), self._tokens + max(0.0, now - self._at) * self._max / _REFILL_SECONDS
        )
        self._at = max(self._at, now)
        return self._tokens

    def ready_at(self, tokens: int, now: float) -> float:
        """When a request of `tokens` may be sent again; a full store allows any size: nothing waits for ever."""
        missing = min(tokens, self._max) - self.tokens(now)
        return now if missing <= 0 else now + missing * _REFILL_SECONDS / self._max

    def spend(self, tokens: int, now: float) -> None:
        """A request is sent again."""
        self._tokens = max(0.0, self.tokens(now) - tokens)

    def earn(self, tokens: int, now: float) -> None:
        """A request of `tokens` was answered."""
        self._tokens = min(float(self._max), self.tokens(now) + self._ratio * tokens)
