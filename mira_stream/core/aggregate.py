"""One number for a record: the trimmed mean of the scores whose slots the mask leaves, for the daemon and offline alike.

The number is a mean of exactly rounded sums (`math.fsum`), rounded to 6 decimals, halves to even: it depends on no
order and no platform. A record of which nothing is left has no number, which is not zero.
"""

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Annotated

import msgspec
from msgspec import Meta

from mira_stream.core.errors import Refusal
from mira_stream.core.mask import Mask, Policy
from mira_stream.core.row import SLOTS

DECIMALS = 6
_Weight = Annotated[float, Meta(gt=0)]


class AggregateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How slots become one number."""

    trim_fraction: Annotated[
        float,
        Meta(
            ge=0,
            lt=0.5,
            description="Share of the counted scores that is left out at each end, rounded down to whole scores. "
            "MIRA's own is not public.",
        ),
    ] = 0.1
    weights: Annotated[
        dict[str, _Weight],
        Meta(description="Weight of a slot in the mean, such as `{ A3 = 2.0 }`; 1 for those not named."),
    ] = {}


def trimmed_mean(
    scores: Iterable[float], trim_fraction: float, weights: Iterable[float] | None = None
) -> float | None:
    """The mean of `scores` without the int(`trim_fraction` · n) lowest and as many highest; None of no scores.

    `weights` count in the mean and not in the trimming; of equal scores at the edge the first ones are the lower.
    """
    values = list(scores)
    shares = [1.0] * len(values) if weights is None else list(weights)
    if not values:
        return None
    cut = int(trim_fraction * len(values))
    kept = sorted(range(len(values)), key=values.__getitem__)[cut : len(values) - cut]
    total = math.fsum(values[place] * shares[place] for place in kept)
    return round(total / math.fsum(shares[place] for place in kept), DECIMALS)


class Aggregate(msgspec.Struct, frozen=True):
    """A record's number, and the slots that had a score and did not count."""

    value: float | None
    masked: tuple[str, ...]


class Aggregator:
    """Aggregates the scores of one rubric.

    Args:
        settings: raises Refusal if they weigh a slot that cannot be.
        mask: which slots do not count, by source; None: all count.
    """

    def __init__(self, settings: AggregateSettings, mask: Mask | None = None) -> None:
        if strange := sorted(set(settings.weights) - set(SLOTS)):
            raise Refusal(
                f"weights name a slot {strange[0]}",
                f"slots are {SLOTS[0]} to {SLOTS[-1]}: names of criteria repeat and are no keys",
            )
        self._trim_fraction = settings.trim_fraction
        self._weights = [settings.weights.get(slot, 1.0) for slot in SLOTS] if settings.weights else None
        self._masked = mask.masked_slots() if mask else {}
        hides_all = mask is not None and mask.unknown is Policy.MASK
        self._masked_elsewhere = frozenset(SLOTS) if hides_all else frozenset()
        about = (
            settings.trim_fraction,
            sorted(settings.weights.items()),
            mask.fingerprint if mask else None,
        )
        self.fingerprint = blake2b(msgspec.json.encode(about), digest_size=16).hexdigest()
        """blake2b-128, hex, of settings and mask: aggregates compare only under the same one."""

    def of(self, source: str, scores: Sequence[float | None]) -> Aggregate:
        """The aggregate of a record of `source`; `scores` in the order of SLOTS, None where there is none."""
        masked = self._masked.get(source, self._masked_elsewhere)
        places = [place for place, score in enumerate(scores) if score is not None]
        counted = [place for place in places if SLOTS[place] not in masked]
        value = trimmed_mean(
            [score for place in counted if (score := scores[place]) is not None],
            self._trim_fraction,
            None if self._weights is None else [self._weights[place] for place in counted],
        )
        return Aggregate(value, tuple(SLOTS[place] for place in places if SLOTS[place] in masked))
