"""What a failed request means, and what happens to its record next: nothing is lost for a replica's fault."""

from enum import StrEnum

import msgspec

from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient, TransientKind
from mira_stream.core.outcome import Reason

_PAUSE_SECONDS = 0.5
_PAUSE_SECONDS_MAX = 30.0
_DOUBLINGS_MAX = 10
_ALONE_AFTER_CRASHES = 2
_POISON_AFTER_CRASHES_ALONE = 2
_REFILL_SECONDS = 600.0
"""In this time, time alone fills an empty budget: a trickle, so that a pool in which everything failed comes back by itself."""


class FaultKind(StrEnum):
    """Whose fault it was; also the `reason` label of the fault counters."""

    RECORD = "record"
    LENGTH = "length"
    CONFIGURATION = "configuration"
    SATURATION = "saturation"
    ABSENT = "absent"
    DROPPED = "dropped"
    CRASH = "crash"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"


REPLICA_FAULTS = frozenset(
    {FaultKind.ABSENT, FaultKind.DROPPED, FaultKind.CRASH, FaultKind.TIMEOUT, FaultKind.PROTOCOL}
)
"""Those that a breaker counts."""

_KINDS = {
    TransientKind.REFUSED: FaultKind.ABSENT,
    TransientKind.SHUTDOWN: FaultKind.ABSENT,
    TransientKind.DROPPED: FaultKind.DROPPED,
    TransientKind.RESET: FaultKind.CRASH,
    TransientKind.SERVER: FaultKind.CRASH,
    TransientKind.TIMEOUT: FaultKind.TIMEOUT,
    TransientKind.PROTOCOL: FaultKind.PROTOCOL,
}


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
        return Fault(_refused(error, others_answered=others_answered, over_length=over_length), message)
    assert isinstance(error, Transient), f"a replica raised {error!r}"
    return Fault(_KINDS[error.kind], message)


def _refused(error: Permanent, *, others_answered: bool, over_length: bool) -> FaultKind:
    """A refusal is the record's fault only where something shows that the settings are right."""
    # vLLM names `max_tokens` both where the prompt fills the context exactly and where the setting is too large.
    about_length = error.param == "input_tokens" or (error.param == "max_tokens" and over_length)
    if error.status == 400 and about_length:
        return FaultKind.LENGTH
    if error.status in (400, 413, 422) and others_answered:
        return FaultKind.RECORD
    return FaultKind.CONFIGURATION


class History(msgspec.Struct, frozen=True):
    """What has happened to one record: failures, and crashes that point at it, being the only request there.

    A connection that was closed as it was sent says nothing once (`drops`); the second time it is a crash: a record
    that takes a server down at once looks the same.
    """

    failures: int = 0
    crashes: int = 0
    crashes_alone: int = 0
    avoid: frozenset[str] = frozenset()
    drops: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what the replicas crashed over: it is sent only where nothing else is in flight."""
        return self.crashes >= _ALONE_AFTER_CRASHES


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
    """What happens to a record after `fault` at `replica`.

    `was_alone`: the record was the only request there and nothing else there explains the fault
    (`PoolControl.blames`). A replica's fault never ends a record, but for poison: two crashes of that sort.
    """
    match fault.kind:
        case FaultKind.DROPPED if history.drops > 0:
            fault = msgspec.structs.replace(fault, kind=FaultKind.CRASH)
        case FaultKind.LENGTH:
            return GiveUp(Reason.OVER_LENGTH)
        case FaultKind.RECORD:
            return GiveUp(Reason.REFUSED)
        case FaultKind.CONFIGURATION:
            return StopPool(fault.message)
    after = _after(history, fault, replica, was_alone=was_alone)
    if after.crashes_alone >= _POISON_AFTER_CRASHES_ALONE:
        return GiveUp(Reason.POISON)
    return _resend(after, fault.kind, jitter)


def _after(history: History, fault: Fault, replica: str, *, was_alone: bool) -> History:
    # Time-outs and nonsense are no crashes: a replica that hangs would take its records with it.
    crashed = fault.kind is FaultKind.CRASH
    full = fault.kind is FaultKind.SATURATION
    return History(
        failures=history.failures + 1,
        drops=history.drops + (fault.kind is FaultKind.DROPPED),
        crashes=history.crashes + crashed,
        crashes_alone=history.crashes_alone + (crashed and was_alone),
        avoid=history.avoid if full else history.avoid | {replica},
    )


def _resend(history: History, kind: FaultKind, jitter: float) -> Resend:
    assert 0.0 <= jitter < 1.0
    pause = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2 ** min(history.failures - 1, _DOUBLINGS_MAX))
    pause *= 0.5 + jitter / 2
    alone = history.is_suspect
    if kind in (FaultKind.SATURATION, FaultKind.ABSENT, FaultKind.DROPPED):
        # No work was lost, and another replica may have a place: at once the first time.
        return Resend(history, 0.0 if history.failures == 1 else pause, alone=alone, spends_budget=False)
    return Resend(history, pause, alone=alone)


class RetryBudget:
    """Tokens that may be sent again: a store of `retry_budget_tokens`, earned back by a share of what succeeds."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._max = settings.retry_budget_tokens
        self._ratio = settings.retry_budget_ratio
        self._tokens = float(self._max)
        self._at = 0.0

    def __repr__(self) -> str:
        return f"RetryBudget({self._tokens:.0f} of {self._max} tokens)"

    def tokens(self, now: float) -> float:
        """What is there now. Asking changes nothing, so that who watches does not decide."""
        trickle = max(0.0, now - self._at) * self._max / _REFILL_SECONDS
        return min(float(self._max), self._tokens + trickle)

    def ready_at(self, tokens: int, now: float) -> float:
        """When a request of `tokens` may be sent again; a full store allows any size: nothing waits for ever."""
        missing = min(tokens, self._max) - self.tokens(now)
        return now + max(0.0, missing) * _REFILL_SECONDS / self._max

    def spend(self, tokens: int, now: float) -> None:
        """A request is sent again."""
        assert self.ready_at(tokens, now) == now, f"{tokens} tokens are more than {self!r} allows"
        self._set(max(0.0, self.tokens(now) - tokens), now)

    def earn(self, tokens: int, now: float) -> None:
        """A request of `tokens` was answered."""
        assert tokens >= 0
        self._set(min(float(self._max), self.tokens(now) + self._ratio * tokens), now)

    def _set(self, tokens: float, now: float) -> None:
        self._tokens = tokens
        self._at = max(self._at, now)
