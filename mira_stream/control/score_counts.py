"""How often each score was given, by group and source: what the status shows as histograms."""

from collections.abc import Iterator
from math import ceil

from mira_stream.core.reply import ParsedReply

POINTS = 11
"""Bins of a scale of 0 to 10: bin n counts what is above n - 1, and at most n. `overall` has a tenth of its points."""
RECOMMENDATIONS = ("keep", "downsample", "drop")


class Distribution:
    """The scores of one source, as counts: by slot, of the overall score, and of what is recommended."""

    __slots__ = ("overall", "recommendations", "replies", "slots")

    def __init__(self, slots: tuple[str, ...]) -> None:
        self.replies = 0
        self.slots = {slot: [0] * POINTS for slot in slots}
        self.overall = [0] * POINTS
        self.recommendations = dict.fromkeys(RECOMMENDATIONS, 0)

    def add(self, parsed: ParsedReply) -> None:
        """Count a complete reply."""
        assert parsed.overall is not None, "a complete reply has an overall score"
        assert parsed.training_recommendation is not None, "and a recommendation"
        self.replies += 1
        for slot, counts in self.slots.items():
            counts[ceil(getattr(parsed.scores, slot))] += 1
        self.overall[ceil(parsed.overall / 10)] += 1
        self.recommendations[parsed.training_recommendation] += 1


class ScoreCounts:
    """A distribution for each group and source that was scored. `source` is a label: there is a bounded number."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Distribution] = {}

    def __iter__(self) -> Iterator[tuple[str, str, Distribution]]:
        """Group, source and distribution, sorted by both."""
        return ((group, source, self._known[group, source]) for group, source in sorted(self._known))

    def of(self, group: str, source: str, slots: tuple[str, ...]) -> Distribution:
        """That distribution, empty at first; all sources of a group have the same `slots`."""
        found = self._known.get((group, source))
        if found is None:
            found = self._known[group, source] = Distribution(slots)
        return found
