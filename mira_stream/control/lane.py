"""Everything about one replica: what we hold there, what it can hold and do, whether it is well, whom a failure blames."""

from collections import deque

from mira_stream.control.blame import Blame
from mira_stream.control.capacity import Capacity
from mira_stream.control.health import Breaker
from mira_stream.control.looks import STALE_SECONDS, Look, Looks
from mira_stream.control.permits import Holdings, Permit
from mira_stream.control.prefill import PrefillClock
from mira_stream.control.retry import REPLICA_FAULTS, Fault, FaultKind
from mira_stream.control.routing import drain_seconds
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

_UNBOUNDED = 1 << 62
_RAMP_TARGET_TOKENS = 65_536
_ROUND_TRIPS = 2
_SAMPLE_WAITING_MAX = 2
_FOREIGN_MIN = 2
_STALE_SHARE = 0.9
_DRAIN_AFTER_SECONDS = 5.0
_DRAIN_SHARE = 0.7
_FINISHED_SECONDS = 30.0
_MEAN_WEIGHT = 0.02
_CACHED_WEIGHT = 0.05
_SLACK_SECONDS = 1e-6
_ANSWERED_SECONDS = 60.0
_SATURATION_SECONDS = 1.0
_ANSWERS_MIN = 16
_WARM_UPS_MAX = 2


class Lane:
    """One replica of a pool. `now` is monotonic seconds and never goes back."""

    def __init__(self, name: str, settings: AdmissionSettings) -> None:
        self.name = name
        self.holdings = Holdings()
        self.capacity = Capacity(settings)
        self.prefill = PrefillClock(settings.prefill_tokens_per_second)
        self.looks = Looks()
        self.breaker = Breaker(settings)
        self.answered_at: float | None = None
        self.wants_look = False
        self.leaving = False
        self._settings = settings
        self._still_since = 0.0
        self._drained_at = 0.0
        self._drain_credit = 0.0
        self._settled_at: deque[float] = deque()
        self._mean_tokens = 0.0
        self._mean_prompt_tokens = 0.0
        self._cached_ratio: float | None = None
        self._limiting = False
        self._answers = 0
        self._warm_ups = 0
        self._holds_suspect = False
        self.blame = Blame()

    def __repr__(self) -> str:
        return f"Lane({self.name}, {self.holdings!r}, {self.capacity!r}, {self.breaker!r})"

    # What fits.

    def limit_tokens(self, now: float) -> int:
        """What our permits may hold there: less while telemetry is stale, and less what others hold there."""
        limit = self.capacity.limit_tokens
        if self.is_stale(now):
            limit = int(limit * _STALE_SHARE)
        foreign = self.looks.foreign_requests
        if foreign > _FOREIGN_MIN:
            limit = max(limit - int(foreign * self._mean_tokens), limit // 2)
        return limit

    def room_tokens(self, now: float) -> int:
        """KV tokens that are not reserved; negative while a record larger than the limit is there."""
        return self.limit_tokens(now) - self.holdings.tokens

    def room(self, now: float) -> tuple[int, int]:
        """Tokens of a whole request, and of its prompt, that fit by their size. Where nothing of ours is in flight
        any one request fits: at least one goes out, however large."""
        if len(self.holdings) == 0:
            return (_UNBOUNDED, _UNBOUNDED)
        if now < self.opens_at(now) or self._is_full:
            return (-1, -1)
        return (self.room_tokens(now), self.batched_tokens_max - self.holdings.unprefilled_tokens)

    @property
    def batched_tokens_max(self) -> int:
        """The batched-token budget of all engines behind the address: which one gets a request is not ours to say."""
        load = self.looks.load
        return self._settings.batched_tokens_max * (1 if load is None else load.engines)

    def is_open(self, now: float) -> bool:
        """Whether the replica may be sent anything now."""
        return not self.leaving and self.breaker.allows(now, in_flight=len(self.holdings))

    def refusal(
        self, prompt_tokens: int, need_tokens: int, now: float, *, alone: bool
    ) -> LimitingFactor | None:
        """What keeps a record out; None if it may go."""
        requests = len(self.holdings)
        if requests == 0:
            return None
        if need_tokens > self.room_tokens(now):
            return LimitingFactor.KV
        if prompt_tokens > self.batched_tokens_max - self.holdings.unprefilled_tokens:
            return LimitingFactor.PREFILL
        if now < self.opens_at(now):
            return LimitingFactor.PREFILL
        if alone or self._is_full:
            return LimitingFactor.REQUESTS
        return None

    def opens_at(self, now: float) -> float:
        """When the soft gate on prefill opens: two round trips before the last prompt is predicted to be done, so
        that the engine finds the next one just then; far earlier while the cache is less than half full."""
        if len(self.holdings) == 0:
            return 0.0
        target = 2 * _ROUND_TRIPS * self.looks.network_seconds * self.prefill.tokens_per_second
        if self.holdings.tokens < self.limit_tokens(now) / 2:
            target = max(target, _RAMP_TARGET_TOKENS)
        return self.prefill.opens_at(target)

    def limited_by(self, factor: LimitingFactor | None, now: float) -> None:
        """What keeps the next record out; where only missing evidence does, a fresh look may bring some."""
        self._limiting = factor is LimitingFactor.KV
        self.wants_look = factor is LimitingFactor.PREFILL and now >= self.opens_at(now)

    def uncached(self, prompt_tokens: int) -> int:
        """The part of a prompt that the engine will have to compute, by what it was seen to find in its cache."""
        ratio = self.cached_ratio
        return prompt_tokens if ratio is None else prompt_tokens - int(prompt_tokens * ratio)

    @property
    def cached_ratio(self) -> float | None:
        """Share of prompt tokens verified to come from the prefix cache: as replies say, else as the counters do."""
        return self._cached_ratio if self._cached_ratio is not None else self.looks.prefix_hit_ratio

    def misses_prefix(self, possible_ratio: float) -> bool:
        """Whether its prefix cache was seen to miss most of what all prompts have in common, answer after answer."""
        ratio = self.cached_ratio
        seen = self._answers >= _ANSWERS_MIN * (self._warm_ups + 1)
        return seen and self._warm_ups < _WARM_UPS_MAX and ratio is not None and ratio < possible_ratio / 4

    def warmed_up(self) -> None:
        """The shared prefix was sent alone; what was seen before does not count any more."""
        self._warm_ups += 1
        self._cached_ratio = None
        self.looks.forget_prefix()

    def drain_seconds(self, prompt_tokens: int, now: float) -> float:
        """How long a prompt sent now would take to be worked off."""
        return drain_seconds(
            unprefilled_tokens=self.prefill.tokens(now),
            prompt_tokens=self.uncached(prompt_tokens),
            prefill_tokens_per_second=self.prefill.tokens_per_second,
            filled_share=self.holdings.tokens / max(1, self.limit_tokens(now)),
        )

    # What is in flight.

    def reserve(self, permit: Permit, *, alone: bool) -> None:
        """A request goes there."""
        assert not self._holds_suspect, f"{self.name}: nothing may join a suspect"
        assert not alone or len(self.holdings) == 0, f"{self.name}: a suspect must be alone"
        if len(self.holdings) == 0:
            self._still_since = permit.sent_at
        self._holds_suspect = alone
        self.holdings.reserve(permit)
        self.prefill.sent(self.uncached(permit.prompt_tokens), permit.sent_at)
        first = self._mean_tokens == 0.0
        self._mean_tokens = _mean(self._mean_tokens, permit.tokens, first=first)
        self._mean_prompt_tokens = _mean(self._mean_prompt_tokens, permit.prompt_tokens, first=first)

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """A request there has ended; `usage` if it was answered."""
        was_alone = self.holdings.settle(permit, answered=usage is not None)
        self._settled_at.append(now)
        while self._settled_at[0] < now - _FINISHED_SECONDS:
            self._settled_at.popleft()
        if len(self.holdings) == 0:
            self.prefill.ends_at = min(self.prefill.ends_at, now)
        if was_alone:
            self._holds_suspect = False
        if usage is not None:
            self._answers += 1
            self._count_cached(usage)
            self.breaker.succeeded()
            self.proved(now)
            return
        self.blame.failed(permit.ticket, alone=was_alone)

    def proved(self, now: float) -> None:
        """The replica answered: it works, and it accepts our settings."""
        self.answered_at = now
        self.blame.answered()

    def answered_lately(self, now: float) -> bool:
        """Whether somebody was answered within the last minute."""
        return self.answered_at is not None and now - self.answered_at <= _ANSWERED_SECONDS

    def failed(self, fault: Fault, now: float, jitter: float) -> None:
        """A request there failed; its permit is settled separately."""
        if fault.kind is FaultKind.SATURATION:
            pause = fault.retry_after_seconds
            self.breaker.saturated(
                now + (pause if pause is not None else _SATURATION_SECONDS * (0.5 + jitter / 2))
            )
        elif fault.kind in REPLICA_FAULTS:
            self.breaker.failed(now, jitter, at_once=fault.kind is FaultKind.ABSENT)

    # What looks at the engine say.

    def observe(self, load: Load, asked_at: float, now: float, *, output_tokens: float) -> None:
        """A look at the engine, asked for at `asked_at`, has come."""
        self.wants_look = False
        ours = self.holdings.sent_before(asked_at) + self._finished_since(asked_at)
        look = self.looks.take(load, asked_at, now, ours=ours)
        if look.restarted:
            self.capacity.reset()
            self.prefill.reset()
            self._cached_ratio = None
            self._answers = self._warm_ups = 0
        if not look.moved:
            return
        self.holdings.first_come = load.engines == 1
        self._learn_rates(load)
        if look.generated_tokens:
            self._count_output(look)
            self.holdings.looked(asked_at, waiting=load.waiting)
        if load.waiting == 0:
            self.prefill.idle(now, self.uncached(self.holdings.prompt_tokens_since(asked_at)))
        self._learn_capacity(look, now, output_tokens)

    def idle(self, now: float) -> None:
        """Nothing waited there when an answer left it: at most what was on its way then is left to prefill."""
        sent_since = self.holdings.prompt_tokens_since(now - 2 * self.looks.network_seconds)
        self.prefill.idle(now, self.uncached(sent_since))

    def is_stale(self, now: float) -> bool:
        """Whether the engine's metrics have stood still for too long while it had work of ours."""
        return len(self.holdings) > 0 and now >= self._still_from + STALE_SECONDS

    def tick(self, now: float) -> None:
        """Time passes: while metrics stand still and replies come all the same, prompts are taken to be prefilled
        in order, at well below the known rate."""
        starts = max(self._still_from + _DRAIN_AFTER_SECONDS, self._drained_at)
        if not self._drains() or now <= starts:
            self._drain_credit, self._drained_at = 0.0, now
            return
        self._drain_credit += (now - starts) * self._drain_rate
        self._drained_at = now
        self._drain_credit = self.holdings.drained(self._drain_credit)

    def wake_at(self, now: float) -> float | None:
        """When time alone may let a record in that is kept out now."""
        times = [at for at in (self.breaker.wake_at(now), self.drain_wake_at(now)) if at is not None]
        if (at := self.opens_at(now)) > now:
            times.append(at)
        return min(times, default=None)

    def drain_wake_at(self, now: float) -> float | None:
        """When time alone will next take a prompt to be prefilled; None if it will not."""
        oldest = self.holdings.oldest_unprefilled
        if oldest is None or not self._drains():
            return None
        starts = max(self._still_from + _DRAIN_AFTER_SECONDS, self._drained_at)
        left = max(0.0, oldest.prompt_tokens - self._drain_credit)
        return max(now + _SLACK_SECONDS, starts + left / self._drain_rate + _SLACK_SECONDS)

    # Parts.

    @property
    def _is_full(self) -> bool:
        return self._holds_suspect or len(self.holdings) >= self._settings.requests_max

    @property
    def _still_from(self) -> float:
        moved_at = self.looks.moved_at
        return self._still_since if moved_at is None else max(moved_at, self._still_since)

    def _drains(self) -> bool:
        answers_since = self.answered_at is not None and self.answered_at > self._still_from
        return len(self.holdings) > 0 and answers_since

    @property
    def _drain_rate(self) -> float:
        return _DRAIN_SHARE * self.prefill.tokens_per_second

    def _finished_since(self, moment: float) -> int:
        return sum(at >= moment for at in self._settled_at)

    def _count_cached(self, usage: Usage) -> None:
        if usage.cached_tokens is not None and usage.prompt_tokens > 0:
            ratio = min(1.0, usage.cached_tokens / usage.prompt_tokens)
            known = self._cached_ratio
            self._cached_ratio = ratio if known is None else known + _CACHED_WEIGHT * (ratio - known)

    def _learn_rates(self, load: Load) -> None:
        if load.prefilled_tokens is not None and load.prefill_seconds is not None:
            self.prefill.learn(load.prefilled_tokens, load.prefill_seconds)

    def _count_output(self, look: Look) -> None:
        """Every running request has got its share of what was generated since the last look."""
        assert look.generated_tokens is not None
        share = look.generated_tokens / max(1, look.load.running)
        for flight in self.holdings.oldest(look.load.running):
            flight.output_tokens += share

    def _learn_capacity(self, look: Look, now: float, output_tokens: float) -> None:
        load = look.load
        usage = load.kv_usage
        if load.kv_tokens is not None:
            self.capacity.says(load.kv_tokens)
        if usage is None:
            return
        resident = list(self.holdings.oldest(self._resident(look)))
        prompts = sum(one.permit.prompt_tokens for one in resident)
        self.capacity.saw(resident_tokens=prompts, usage=usage)
        quiet = not self._settled_at or now - self._settled_at[-1] >= 2 * self.looks.network_seconds
        if load.waiting <= _SAMPLE_WAITING_MAX and quiet:
            outputs = sum(min(one.output_tokens, 2 * output_tokens) for one in resident)
            others = look.foreign * (self._mean_prompt_tokens + output_tokens / 2)
            self.capacity.sample(held_tokens=prompts + outputs + others, usage=usage)
        fullest = load.kv_usage_max if load.kv_usage_max is not None else usage
        self.capacity.judge(now, waiting=load.waiting, usage=fullest, limiting=self._limiting)

    def _resident(self, look: Look) -> int:
        """How many of ours, the oldest, hold KV there."""
        if look.foreign:
            return max(0, self.holdings.sent_before(look.asked_at) - look.load.waiting)
        return look.load.running


def _mean(mean: float, value: float, *, first: bool) -> float:
    return float(value) if first else mean + _MEAN_WEIGHT * (value - mean)
