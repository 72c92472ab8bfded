"""A trial of every gate with the settings at hand: each must be able to close, and to open again.

A gate that never opens stops a pool for ever, one that never closes guards nothing, and neither shows until it is too
late. The trial needs no replica: it plays one against the very code that will decide, on a clock of its own.
"""

from collections.abc import Callable

from msgspec.structs import replace

from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted
from mira_stream.control.permits import Permit
from mira_stream.control.retry import Fault, FaultKind
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

_REPLICA = "trial"
_WIDE = 1 << 40
_SENT_MAX = 100_000
_PROMPTS = 16
"""How many prompts of the trial fill the gate that is tried."""


def self_test(settings: AdmissionSettings) -> list[str]:
    """What is wrong with the gates of a pool under these settings; empty if each closes and opens."""
    trials: dict[LimitingFactor, Callable[[AdmissionSettings], str | None]] = {
        LimitingFactor.KV: _try_kv,
        LimitingFactor.PREFILL: _try_prefill,
        LimitingFactor.REQUESTS: _try_requests,
        LimitingFactor.BREAKER: _try_breaker,
        LimitingFactor.RETRY_BUDGET: _try_retry_budget,
    }
    found = ((factor, trial(settings)) for factor, trial in trials.items())
    return [f"the gate `{factor}` {problem}" for factor, problem in found if problem is not None]


class _Trial:
    """A pool of one replica, and a clock."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self.control = PoolControl([_REPLICA], replace(settings, window_records=1))
        self.now = 0.0
        self.sent: list[Permit] = []
        self._tickets = 0

    def fill(self, prompt_tokens: int) -> LimitingFactor | None:
        """Send until something keeps the next record out; None if nothing does."""
        for _ in range(_SENT_MAX):
            decision = self.decide(prompt_tokens)
            if isinstance(decision, LimitingFactor):
                return decision
        return None

    def decide(self, prompt_tokens: int, *, retry: bool = False) -> Permit | LimitingFactor:
        """Try to send one record; the one that waits if there is one."""
        if len(self.control.window) == 0:
            self._tickets += 1
            self.control.offer(Candidate(ticket=self._tickets, prompt_tokens=prompt_tokens, retry=retry))
        decision = self.control.decide(self.now)
        if not isinstance(decision, Admitted):
            return decision.factor
        self.sent.append(decision.permit)
        return decision.permit

    def settle_all(self, *, answered: bool = True) -> None:
        for permit in self.sent:
            usage = Usage(permit.prompt_tokens, permit.tokens - permit.prompt_tokens) if answered else None
            self.control.settle(permit, usage, self.now)
        self.sent.clear()

    def look(self, number: int, *, running: int, usage: float = 0.6) -> None:
        load = Load(running, 0, usage, usage, generation_tokens=float(number))
        self.control.observe(_REPLICA, load, self.now, self.now)


def _verdict(closed: LimitingFactor | None, wanted: LimitingFactor, opened: object) -> str | None:
    if closed is not wanted:
        return f"does not close: {closed or 'nothing'} does instead"
    if isinstance(opened, LimitingFactor):
        return f"does not open again: {opened} stays shut"
    return None


def _only(settings: AdmissionSettings, **kept: object) -> AdmissionSettings:
    """These settings with every other gate wide open."""
    wide = {
        "kv_tokens": _WIDE,
        "batched_tokens_max": _WIDE,
        "requests_max": _WIDE,
        "prefill_tokens_per_second": float(_WIDE),
        "passed_over_max": _WIDE,
    }
    return replace(settings, **{**wide, **kept})


def _try_kv(settings: AdmissionSettings) -> str | None:
    """Where the capacity is learned, it is taught first."""
    trial = _Trial(_only(settings, kv_tokens=settings.kv_tokens))
    capacity = settings.kv_tokens or _PROMPTS * 65_536
    prompt = max(1, capacity // _PROMPTS)
    first = trial.decide(prompt)
    if isinstance(first, LimitingFactor):
        return f"does not let a first record in: {first}"
    trial.now += 60.0
    trial.look(1, running=1, usage=min(1.0, prompt / capacity))
    trial.look(2, running=1, usage=0.6)
    closed = trial.fill(prompt)
    trial.settle_all()
    return _verdict(closed, LimitingFactor.KV, trial.decide(prompt))


def _try_prefill(settings: AdmissionSettings) -> str | None:
    """It opens by evidence alone: nothing is settled."""
    trial = _Trial(_only(settings, batched_tokens_max=settings.batched_tokens_max))
    prompt = max(1, settings.batched_tokens_max // _PROMPTS)
    closed = trial.fill(prompt)
    for number in range(1, 5):
        trial.now += 1.0
        trial.look(number, running=len(trial.sent))
    return _verdict(closed, LimitingFactor.PREFILL, trial.decide(prompt))


def _try_requests(settings: AdmissionSettings) -> str | None:
    trial = _Trial(_only(settings, requests_max=min(settings.requests_max, _SENT_MAX - 1)))
    closed = trial.fill(1)
    trial.settle_all()
    return _verdict(closed, LimitingFactor.REQUESTS, trial.decide(1))


def _try_breaker(settings: AdmissionSettings) -> str | None:
    trial = _Trial(_only(settings))
    for _ in range(settings.breaker_failures):
        permit = trial.decide(1)
        if isinstance(permit, LimitingFactor):
            break
        trial.settle_all(answered=False)
        trial.control.failed(_REPLICA, Fault(FaultKind.CRASH, ""), trial.now, 0.5)
    closed = trial.fill(1)
    trial.now += settings.breaker_seconds_max + settings.breaker_seconds_min
    for name in trial.control.probes_due(trial.now):
        trial.control.probed(name, trial.now, 0.5, ok=True)
    return _verdict(closed, LimitingFactor.BREAKER, trial.decide(1))


def _try_retry_budget(settings: AdmissionSettings) -> str | None:
    """It fills up again with time, whatever share of the answers is earned back."""
    trial = _Trial(_only(settings))
    prompt = max(1, settings.retry_budget_tokens // 2)
    closed: LimitingFactor | None = None
    for _ in range(_PROMPTS):
        decision = trial.decide(prompt, retry=True)
        if isinstance(decision, LimitingFactor):
            closed = decision
            break
    wake_at = trial.control.decide(trial.now)
    assert not isinstance(wake_at, Admitted)
    if wake_at.wake_at is None:
        return "does not open again: no time is known at which it would"
    trial.now = wake_at.wake_at
    return _verdict(closed, LimitingFactor.RETRY_BUDGET, trial.decide(prompt, retry=True))
