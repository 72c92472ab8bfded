"""Who holds how many tokens where: a permit is reserved once and settled once, and counts are whole tokens.

Two sums per replica: `tokens` (K), what our requests are expected to hold in its KV cache, and `unprefilled_tokens`
(Q_seen), what was sent and is not shown to be prefilled. K needs an exact zero, so nothing here is a float.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

_LOOKS = 3
"""Looks after sending, each with a moved generation counter, that show a request as prefilled."""


class Permit(msgspec.Struct, frozen=True):
    """The right to have one request in flight. `tokens` is what it is expected to hold in KV: prompt and reply."""

    number: int
    ticket: int
    replica: str
    prompt_tokens: int
    tokens: int
    sent_at: float


class Flight(msgspec.Struct):
    """A permit in use: whether its prompt is shown to be prefilled, and the output it is taken to have so far."""

    permit: Permit
    looks: int = 0
    prefilled: bool = False
    output_tokens: float = 0.0


class Holdings:
    """The permits of one replica, in the order they were sent.

    `unprefilled_tokens` falls by evidence only, never by a guess: an engine works first come, first served, so the
    answer to a request shows that everything sent before it has been prefilled. Behind an address with several
    engines each has a queue of its own, and that does not follow: `first_come` is False there.
    """

    def __init__(self) -> None:
        self._flights: dict[int, Flight] = {}
        self._lone: int | None = None
        self._newest = 0
        self.first_come = True
        self.tokens = 0
        self.unprefilled_tokens = 0

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    def __repr__(self) -> str:
        return f"Holdings({len(self)} requests, {self.tokens} tokens, {self.unprefilled_tokens} unprefilled)"

    def reserve(self, permit: Permit) -> None:
        """The request goes out now."""
        assert permit.number > self._newest, f"permit {permit.number} is reserved twice or out of order"
        assert permit.tokens >= permit.prompt_tokens >= 0
        self._lone = None if self._flights else permit.number
        self._newest = permit.number
        self._flights[permit.number] = Flight(permit)
        self.tokens += permit.tokens
        self.unprefilled_tokens += permit.prompt_tokens

    def settle(self, permit: Permit, *, answered: bool) -> bool:
        """The request has ended; only an answer is evidence about those sent before it.

        Returns whether it was the only request here from its start to its end.
        """
        flight = self._flights.get(permit.number)
        assert flight is not None, f"permit {permit.number} is settled twice"
        assert flight.permit == permit
        if answered:
            self._started(flight)
        self._prefilled(flight)
        del self._flights[permit.number]
        self.tokens -= permit.tokens
        assert self.tokens >= 0
        assert self.unprefilled_tokens >= 0
        assert self._flights or (self.tokens, self.unprefilled_tokens) == (0, 0), repr(self)
        return self._lone == permit.number

    def started(self, permit: Permit) -> None:
        """The first token of its reply has come; what has ended meanwhile is let be."""
        flight = self._flights.get(permit.number)
        if flight is not None and flight.permit == permit:
            self._started(flight)

    def looked(self, asked_at: float, *, waiting: int) -> None:
        """A look at the engine, asked for at `asked_at`, in which its generation counter had moved.

        A request that was sent before three such looks has been prefilled, but for the newest `waiting` of them:
        whoever's requests wait, the engine's queue cannot hold more of ours than that.
        """
        assert waiting >= 0
        seen = []
        for flight in self._flights.values():
            if flight.permit.sent_at < asked_at:
                flight.looks += 1
                if flight.looks >= _LOOKS:
                    seen.append(flight)
        if waiting and not self.first_come:
            return  # which engine's queue they stand in, and behind whom, is not known
        for flight in seen[: max(0, len(seen) - waiting)]:
            self._prefilled(flight)

    def drained(self, tokens: float) -> float:
        """Count the oldest prompts as prefilled while `tokens` cover them whole; returns what is left of `tokens`."""
        for flight in self._flights.values():
            if flight.prefilled:
                continue
            if flight.permit.prompt_tokens > tokens:
                break
            tokens -= flight.permit.prompt_tokens
            self._prefilled(flight)
        return tokens

    @property
    def oldest_unprefilled(self) -> Permit | None:
        """Of those not shown to be prefilled, the one sent first."""
        return next((one.permit for one in self._flights.values() if not one.prefilled), None)

    def sent_before(self, moment: float) -> int:
        """How many of those in flight were sent before that moment."""
        return sum(one.permit.sent_at < moment for one in self._flights.values())

    def prompt_tokens_since(self, moment: float) -> int:
        """Prompt tokens of those in flight that were sent at that moment or later."""
        total = 0
        for flight in reversed(self._flights.values()):
            if flight.permit.sent_at < moment:
                break
            total += flight.permit.prompt_tokens
        return total

    def oldest(self, count: int) -> Iterable[Flight]:
        """The `count` that were sent first."""
        return islice(self._flights.values(), min(max(0, count), len(self._flights)))

    def _started(self, flight: Flight) -> None:
        if not self.first_come:
            self._prefilled(flight)
            return
        for earlier in self._flights.values():
            self._prefilled(earlier)
            if earlier is flight:
                return

    def _prefilled(self, flight: Flight) -> None:
        if not flight.prefilled:
            flight.prefilled = True
            self.unprefilled_tokens -= flight.permit.prompt_tokens
