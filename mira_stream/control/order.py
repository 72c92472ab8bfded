"""Which record goes first: in order, by best fit, longest first, or the one that a replica is kept free for."""

from collections.abc import Callable, Sequence

import msgspec

from mira_stream.control.lane import Lane
from mira_stream.control.settings import AdmissionSettings
from mira_stream.control.window import Candidate, Window

_BEST_FIT_BELOW = 3 * 65_536


class Kept(msgspec.Struct, frozen=True):
    """A replica that takes nothing else until the record with `ticket` has gone, there or elsewhere."""

    ticket: int
    lane: Lane


class Order:
    """The order of a window. `kept` is the replica kept free, and for which record."""

    def __init__(self, window: Window, settings: AdmissionSettings) -> None:
        self._window = window
        self._settings = settings
        self.in_tail = False
        self.kept: Kept | None = None

    def keep(
        self,
        due: Sequence[Candidate],
        usable: Callable[[Candidate], list[Lane]],
        route: Callable[[Candidate, list[Lane]], Lane],
    ) -> None:
        """Keep a replica free for one of those `due`, if there is one. It stays the same one while it can: hopping
        about, none would ever become free enough."""
        before, self.kept = self.kept, None
        if not due:
            return
        chosen = next((one for one in due if before is not None and one.ticket == before.ticket), due[0])
        lanes = usable(chosen)
        if before is not None and before.ticket == chosen.ticket and before.lane in lanes:
            self.kept = before
        else:
            self.kept = Kept(chosen.ticket, route(chosen, lanes))

    def due(
        self, sendable: list[Candidate], need: Callable[[Candidate], int], limit_tokens: int
    ) -> list[Candidate]:
        """Records that a replica must be kept free for: passed over too often, or fitting only where nothing else is."""
        return [
            one
            for one in sendable
            if need(one) > limit_tokens
            or self._window.passed_over(one.ticket) >= self._settings.passed_over_max
        ]

    def ordered(self, sendable: list[Candidate], room_tokens: int) -> list[Candidate]:
        """Best fit (longest first) while room is scarce, and longest first at the end, when the last one to finish is
        what everybody waits for; else in order. One that a replica is kept for comes first."""
        order = sendable
        if self.in_tail or room_tokens < _BEST_FIT_BELOW:
            order = sorted(sendable, key=lambda one: -one.prompt_tokens)  # stable: equal ones stay in order
        if self.kept is None:
            return order
        ticket = self.kept.ticket
        return sorted(order, key=lambda one: one.ticket != ticket)

    def kept_free(self, candidate: Candidate) -> Lane | None:
        """The replica that this record may not have."""
        return self.kept.lane if self.kept is not None and self.kept.ticket != candidate.ticket else None

    def sent(self, sendable: list[Candidate], sent: Candidate) -> None:
        """Count those that stood before the one that goes as passed over."""
        for earlier in sendable:
            if earlier.ticket == sent.ticket:
                return
            self._window.pass_over(earlier.ticket)
