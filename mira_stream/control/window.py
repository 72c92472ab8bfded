"""The look-ahead window of a pool: prepared records in order of arrival, with an age bound."""

from collections.abc import Iterator

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A record that may be sent.

    Args:
        ticket: unique in the pool.
        prompt_tokens: counted or estimated.
        retry: it was sent before, so it spends the retry budget.
        avoid: replicas that failed it; they are used only if no other is left.
        alone: a poison suspect: sent only where nothing else is in flight.
        not_before: when it may be sent at the earliest.
    """

    ticket: int
    prompt_tokens: int
    retry: bool = False
    avoid: frozenset[str] = frozenset()
    alone: bool = False
    not_before: float = 0.0


class Window:
    """At most `places` new records; those that come back for another try are taken in always."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._candidates: dict[int, Candidate] = {}
        self._passed_over: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    @property
    def room(self) -> int:
        """Places free for new records."""
        return max(0, self.places - len(self._candidates))

    def add(self, candidate: Candidate) -> None:
        """Put a record at the end of the order."""
        assert candidate.ticket not in self._candidates, f"ticket {candidate.ticket} is in the window"
        self._candidates[candidate.ticket] = candidate
        self._passed_over[candidate.ticket] = 0

    def take(self, ticket: int) -> Candidate:
        """Remove a record that is sent; those that came before it have been passed over."""
        for earlier in self._candidates:
            if earlier == ticket:
                break
            self._passed_over[earlier] += 1
        del self._passed_over[ticket]
        return self._candidates.pop(ticket)

    def passed_over(self, ticket: int) -> int:
        """How often later records went first."""
        return self._passed_over[ticket]
