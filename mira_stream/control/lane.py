"""Everything about one replica: what we hold there, what fits, whether it is well, and whom a failure points at."""

from mira_stream.control.capacity import Capacity
from mira_stream.control.health import Breaker
from mira_stream.control.permits import Holdings, Permit
from mira_stream.control.routing import drain_seconds
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor

_UNBOUNDED = 1 << 62


class Lane:
    """One replica of a pool."""

    def __init__(self, name: str, settings: AdmissionSettings) -> None:
        self.name = name
        self.holdings = Holdings()
        self.capacity = Capacity(settings)
        self.breaker = Breaker(settings)
        self.answered_at: float | None = None
        self._settings = settings
        self._holds_suspect = False
        # Whom a failure points at: the ticket that all failures since the last answer have in common.
        self._culprit: int | None = None
        self._culprit_is_certain = False

    def __repr__(self) -> str:
        return f"Lane({self.name}, {self.holdings!r}, {self.breaker!r})"

    @property
    def room_tokens(self) -> int:
        """KV tokens that are not reserved; negative while a record larger than the limit is there."""
        return self.capacity.limit_tokens - self.holdings.tokens

    @property
    def room(self) -> tuple[int, int]:
        """Tokens of a whole request, and of its prompt, that fit by their size. Where nothing of ours is in flight
        any one request fits: at least one goes out, however large."""
        if len(self.holdings) == 0:
            return (_UNBOUNDED, _UNBOUNDED)
        return (self.room_tokens, self._settings.batched_tokens_max - self.holdings.unprefilled_tokens)

    def is_open(self, now: float) -> bool:
        """Whether the replica may be sent anything now."""
        return self.breaker.allows(now, in_flight=len(self.holdings))

    def refusal(self, prompt_tokens: int, need_tokens: int, *, alone: bool) -> LimitingFactor | None:
        """What keeps a record out; None if it may go."""
        tokens, batched_tokens = self.room
        if need_tokens > tokens:
            return LimitingFactor.KV
        if prompt_tokens > batched_tokens:
            return LimitingFactor.PREFILL
        requests = len(self.holdings)
        if requests == 0:
            return None
        if alone or self._holds_suspect or requests >= self._settings.requests_max:
            return LimitingFactor.REQUESTS
        return None

    def drain_seconds(self, prompt_tokens: int) -> float:
        """How long a prompt sent now would take to be worked off."""
        return drain_seconds(
            unprefilled_tokens=self.holdings.unprefilled_tokens,
            prompt_tokens=prompt_tokens,
            prefill_tokens_per_second=self._settings.prefill_tokens_per_second,
            filled_share=self.holdings.tokens / self.capacity.limit_tokens,
        )

    def reserve(self, permit: Permit, *, alone: bool) -> None:
        """A request goes there."""
        assert not self._holds_suspect, f"{self.name}: nothing may join a suspect"
        assert not alone or len(self.holdings) == 0, f"{self.name}: a suspect must be alone"
        self._holds_suspect = alone
        self.holdings.reserve(permit)

    def settle(self, permit: Permit, *, answered: bool, now: float) -> None:
        """A request there has ended."""
        was_alone = self.holdings.settle(permit, answered=answered)
        if was_alone:
            self._holds_suspect = False
        if answered:
            self.breaker.succeeded()
            self.proved(now)
            return
        self._culprit_is_certain &= was_alone and self._culprit in (None, permit.ticket)
        self._culprit = permit.ticket

    def proved(self, now: float) -> None:
        """The replica answered: it works, and it accepts our settings."""
        self.answered_at = now
        self._culprit, self._culprit_is_certain = None, True

    def blames(self, ticket: int) -> bool:
        """Whether the failures here point at this record and at nothing else.

        They do if the replica has answered somebody before, and since then only this record failed, each time as the
        only request there. A replica that fails everybody never points at anybody.
        """
        return self._culprit_is_certain and self._culprit == ticket
