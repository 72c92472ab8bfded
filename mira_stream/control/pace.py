"""How fast the pipeline goes: its totals of the last ten minutes, and the rates that follow from them."""

import itertools
from collections import deque

import msgspec

SAMPLE_SECONDS = 5.0
_SAMPLES = 121
_RATE_SECONDS = 60.0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What was done since the start. Objects, records, replies and tokens."""

    discovered: float
    read: float
    answered: float
    received: float
    published: float
    dead_lettered: float
    prompt_tokens: float
    completion_tokens: float

    def per_second(self, before: "Totals", seconds: float) -> "Totals":
        """The rates between two totals."""
        names = self.__struct_fields__
        return Totals(**{one: (getattr(self, one) - getattr(before, one)) / seconds for one in names})


class Pace:
    """A sample of the totals every few seconds. `note` is told the time and the totals as often as one likes."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Totals]] = deque(maxlen=_SAMPLES)

    def note(self, now: float, totals: Totals) -> None:
        """Keep these totals if the last sample is old enough."""
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, totals))

    def rates(self, now: float, totals: Totals) -> Totals:
        """Each total's growth a second over the last minute, or since the start if that is shorter."""
        for at, before in self._samples:
            if 0 < now - at <= _RATE_SECONDS + SAMPLE_SECONDS:
                return totals.per_second(before, now - at)
        return totals.per_second(totals, 1.0)

    def history(self) -> list[Totals]:
        """The rates between the samples, oldest first."""
        kept = list(self._samples)
        return [
            later.per_second(before, at - begin) for (begin, before), (at, later) in itertools.pairwise(kept)
        ]
