"""What admission decides: a record goes now, or nothing can go and why."""

import msgspec

from mira_stream.control.permits import Permit
from mira_stream.control.window import Candidate
from mira_stream.core.outcome import LimitingFactor


class Admitted(msgspec.Struct, frozen=True):
    """Send it now: the permit is reserved and must be settled exactly once."""

    candidate: Candidate
    permit: Permit


class Deferred(msgspec.Struct, frozen=True):
    """Nothing can be sent now. `wake_at`: when time alone may change that; None: only an event can.

    Events are what the caller tells: an offer, a settlement, a look at a replica, a probe.
    """

    factor: LimitingFactor
    wake_at: float | None = None


Decision = Admitted | Deferred
