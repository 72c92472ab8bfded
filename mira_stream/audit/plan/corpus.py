"""From a sample to the corpus: how many records and tokens there are, and how sure that is."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import mean

import msgspec

from mira_stream.audit.bench.figures import spread
from mira_stream.audit.bench.sample import Part, Sample
from mira_stream.audit.plan.values import CorpusFigures, Interval, Length, OverContext, SourceLengths

RESAMPLES = 400
EXPANSION = 5.0
"""How much longer compressed objects are once unpacked, where no whole one was read."""
_PACKED = (".zst", ".gz")
_TAIL = 0.025


class ContextLimits(msgspec.Struct, frozen=True):
    """The contexts to look at, the `prompt_tokens_max` of each, and whether longer records are cut or left out."""

    contexts: Sequence[int]
    prompts: Sequence[int]
    cut: bool

    def sent(self, tokens: Sequence[int], limit: int) -> int:
        """Tokens that are sent of such prompts."""
        return sum(min(one, limit) if self.cut else one if one <= limit else 0 for one in tokens)


class Total(msgspec.Struct, frozen=True):
    """One guess at the corpus: its lines, the scorable ones, the mean tokens of those; for each limit the share over
    it, and the mean tokens that are sent."""

    lines: float
    records: float
    mean_tokens: float
    over: tuple[float, ...]
    sent: tuple[float, ...]


def corpus_figures(
    origin: str, sample: Sample, found: Sequence[Length], *, limits: ContextLimits, random: Random
) -> CorpusFigures:
    """What `found`, the lengths of `sample`, say of the whole. At least one of `found` must be scorable."""
    best = guess(sample, sample.parts, found, limits)
    again = resampled(sample, found, limits, random)
    scorable = [one.tokens for one in found if one.reason is None]
    reasons = Counter(one.reason for one in found if one.reason is not None)
    return CorpusFigures(
        origin=origin,
        objects=sample.objects,
        listed=sample.listed,
        listed_bytes=sample.listed_bytes,
        lines_read=sample.lines,
        sampled=len(found),
        exact=_exact(sample, found),
        lines=interval(best.lines, [one.lines for one in again]),
        records=interval(best.records, [one.records for one in again]),
        mean_tokens=interval(best.mean_tokens, [one.mean_tokens for one in again]),
        tokens=interval(best.records * best.mean_tokens, [one.records * one.mean_tokens for one in again]),
        lengths=spread(scorable),
        unscorable={reason: count / len(found) for reason, count in reasons.most_common()},
        over=[_over(number, limits, best, again, scorable) for number in range(len(limits.prompts))],
        sources=_by_source(found),
    )


def guess(sample: Sample, parts: Sequence[Part], found: Sequence[Length], limits: ContextLimits) -> Total:
    """The corpus as these objects and these lines of them say it is.

    If all objects were read whole, their lines are counted; otherwise lines per byte of the objects read, times the
    bytes of all.
    """
    scorable = [one.tokens for one in found if one.reason is None]
    lines = float(sample.lines)
    if not sample.whole:
        expansion = _expansion(sample.parts)
        size = sum(part.size for part in parts)
        lines = sum(lines_of(part, expansion) for part in parts) * sample.listed_bytes / size if size else 0.0
    count = max(1, len(scorable))
    return Total(
        lines,
        lines * len(scorable) / max(1, len(found)),
        mean(scorable) if scorable else 0.0,
        tuple(sum(one > limit for one in scorable) / count for limit in limits.prompts),
        tuple(limits.sent(scorable, limit) / count for limit in limits.prompts),
    )


def lines_of(part: Part, expansion: float) -> float:
    """Lines of an object, of which perhaps only the head was read."""
    if part.whole or not part.read:
        return float(part.lines)
    unpacked = part.size * (expansion if part.version.uri.endswith(_PACKED) else 1.0)
    return part.lines * max(1.0, unpacked / part.read)


def resampled(sample: Sample, found: Sequence[Length], limits: ContextLimits, random: Random) -> list[Total]:
    """Guesses from samples of the sample: objects drawn again (unless all were read), then lines of each.

    Empty where nothing was left to chance.
    """
    if _exact(sample, found):
        return []
    groups: list[list[Length]] = [[] for _ in sample.parts]
    for one in found:
        groups[one.part].append(one)
    numbers = range(len(groups))
    by_chance = sample.listed > sample.objects
    totals = []
    for _ in range(RESAMPLES):
        drawn = random.choices(numbers, k=len(groups)) if by_chance else numbers
        if by_chance:
            lines = [
                one for at in drawn for one in random.choices(groups[at], k=len(groups[at])) if groups[at]
            ]
        else:
            lines = random.choices(found, k=len(found))
        total = guess(sample, [sample.parts[at] for at in drawn], lines, limits)
        if total.records:
            totals.append(total)
    return totals


def interval(value: float, again: Sequence[float]) -> Interval:
    """The middle 95 of 100 resampled values; without any, the value itself."""
    if not again:
        return Interval(value=value, low=value, high=value)
    ordered = sorted(again)
    cut = int(_TAIL * len(ordered))
    return Interval(value=value, low=min(value, ordered[cut]), high=max(value, ordered[-1 - cut]))


def notes(figures: CorpusFigures, *, names_max: int) -> list[str]:
    """What makes the sample worse than it looks."""
    said = []
    if figures.sampled < 30:
        said.append(
            f"only {figures.sampled} records were sampled: the figures say little of the rest, and the intervals less"
        )
    if figures.objects == 1 and figures.listed > 1:
        said.append(
            f"one object of {figures.listed} was read: the intervals know nothing of how objects differ; raise --objects"
        )
    if figures.listed >= names_max:
        said.append(
            f"the listing was broken off after {figures.listed:,} objects: the corpus is larger than said"
        )
    return said


def _over(
    number: int, limits: ContextLimits, best: Total, again: Sequence[Total], scorable: Sequence[int]
) -> OverContext:
    limit = limits.prompts[number]
    return OverContext(
        context=limits.contexts[number],
        prompt_tokens_max=limit,
        share=interval(best.over[number], [one.over[number] for one in again]),
        lost_share=sum(max(0, one - limit) for one in scorable) / max(1, sum(scorable)),
        sent_tokens=interval(
            best.records * best.sent[number], [one.records * one.sent[number] for one in again]
        ),
    )


def _exact(sample: Sample, found: Sequence[Length]) -> bool:
    return sample.whole and len(found) == sample.lines


def _expansion(parts: Sequence[Part]) -> float:
    whole = [part for part in parts if part.whole and part.size and part.version.uri.endswith(_PACKED)]
    return sum(part.read for part in whole) / sum(part.size for part in whole) if whole else EXPANSION


def _by_source(found: Sequence[Length]) -> list[SourceLengths]:
    names = Counter(one.source for one in found)
    return [
        SourceLengths(
            source=name,
            records=count,
            unscorable=sum(one.source == name and one.reason is not None for one in found),
            tokens=spread([one.tokens for one in found if one.source == name and one.reason is None]),
        )
        for name, count in names.most_common()
    ]
