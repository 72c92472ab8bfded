"""The look-ahead window of a pool: prepared records in order of arrival, each with the count that bounds its wait."""

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
    """`places` for new records, which whoever offers them keeps to; those that come back are taken in always."""

    def __init__(self, places: int) -> None:
        assert places >= 1
        self.places = places
        self._candidates: dict[int, Candidate] = {}
        self._passed_over: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    def add(self, candidate: Candidate) -> None:
        """Put a record at the end of the order."""
        assert candidate.ticket not in self._candidates, f"ticket {candidate.ticket} is in the window"
        assert candidate.prompt_tokens >= 0
        self._candidates[candidate.ticket] = candidate
        self._passed_over[candidate.ticket] = 0

    def take(self, ticket: int) -> Candidate:
        """Remove a record that is sent."""
        del self._passed_over[ticket]
        return self._candidates.pop(ticket)

    def pass_over(self, ticket: int) -> None:
        """A record that came later goes first, although this one might have been sent as well."""
        self._passed_over[ticket] += 1

    def passed_over(self, ticket: int) -> int:
        """How often later records went first."""
        return self._passed_over[ticket]
