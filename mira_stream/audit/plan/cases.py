"""Plays every setting that was asked for, finds the best of them, and what it hinges on."""

from collections.abc import Callable, Sequence

import msgspec

from mira_stream.audit.plan.assumptions import Assumption, Assumptions
from mira_stream.audit.plan.costs import Layout, kv_tokens, refuse_unfit
from mira_stream.audit.plan.lengths import prompts_within
from mira_stream.audit.plan.play import Request, play
from mira_stream.audit.plan.values import CorpusFigures, Interval, Length, Outcome, Setting, Swing
from mira_stream.core.errors import Refusal

NEAR = 0.02
"""Rates closer than that are the same: the model's own noise."""
_TP = "tp_doubling_efficiency"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be scored: the sampled lengths and what follows from them. `cut`: over-long records are shortened,
    else left out."""

    found: Sequence[Length]
    corpus: CorpusFigures
    request: Request
    cut: bool


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Layouts, contexts and batch limits, each of which goes with each."""

    layouts: Sequence[Layout]
    contexts: Sequence[int]
    batched_tokens: Sequence[int]

    @property
    def cells(self) -> list[tuple[Layout, Setting]]:
        """All of them."""
        return [
            (layout, Setting(layout=layout.name, context=context, batched_tokens=batched))
            for layout in self.layouts
            for context in self.contexts
            for batched in self.batched_tokens
        ]


def play_all(
    grid: Grid, load: Load, given: Assumptions, *, on_played: Callable[[str], None]
) -> tuple[list[Outcome], list[str]]:
    """The outcomes, in order of the grid, and of settings that no engine could start with why. Raises Refusal if that
    is all of them."""
    outcomes, unfit = [], []
    last: Refusal | None = None
    for layout, setting in grid.cells:
        try:
            refuse_unfit(layout, setting, given)
        except Refusal as refusal:
            last = refusal
            unfit.append(str(refusal))
            continue
        outcomes.append(outcome(layout, setting, load, given))
        on_played(f"{setting.layout}, context {setting.context}, batched tokens {setting.batched_tokens}")
    if not outcomes and last is not None:
        raise last
    return outcomes, unfit


def outcome(layout: Layout, setting: Setting, load: Load, given: Assumptions) -> Outcome:
    """One setting played, and what the corpus takes with it. Raises Refusal."""
    limit = setting.context - load.request.output_tokens_max
    prompts = prompts_within(load.found, limit, cut=load.cut)
    if not prompts:
        raise Refusal(
            f"no sampled record fits a context of {setting.context}",
            'raise --context, or set overflow = "middle" in [request]',
        )
    scorable = sum(one.reason is None for one in load.found)
    played = play(layout, setting, prompts, load.request, given)
    if not played.records_per_second:
        raise Refusal(
            f"{setting.layout} has done nothing at all by the end of the play: with these assumptions a step takes hours",
            "look at what --set replaces: rates, bandwidths, seconds",
        )
    share = len(prompts) / scorable
    return Outcome(
        setting=setting,
        gpus=layout.gpus,
        kv_tokens=kv_tokens(layout, setting.batched_tokens, given),
        played=played,
        scored_share=share,
        gpu_hours=gpu_hours(load.corpus, setting.context, layout.gpus, played.records_per_second / share),
    )


def gpu_hours(corpus: CorpusFigures, context: int, gpus: int, records_per_second: float) -> Interval:
    """For all records, of which those left out take no time: so many per second are got rid of. The hours vary as the
    tokens that are sent do, for it is tokens that take time."""
    hours = corpus.records.value * gpus / records_per_second / 3600
    tokens = next(one.sent_tokens for one in corpus.over if one.context == context)
    return Interval(
        value=hours, low=hours * tokens.low / tokens.value, high=hours * tokens.high / tokens.value
    )


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The most records per second and GPU among those of the largest context, for a smaller one scores less of the
    records; of those that are the same, the one with the shortest latency."""
    widest = max(one.setting.context for one in outcomes)
    those = [one for one in outcomes if one.setting.context == widest]
    most = max(one.records_per_second_per_gpu for one in those)
    near = [one for one in those if one.records_per_second_per_gpu >= (1 - NEAR) * most]
    return min(near, key=lambda one: one.played.p95)


def best_by_layout(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The best of each layout, the best of all first."""
    names = dict.fromkeys(one.setting.layout for one in outcomes)
    found = [best([one for one in outcomes if one.setting.layout == name]) for name in names]
    return sorted(found, key=lambda one: -one.records_per_second_per_gpu)


def swings(
    outcomes: Sequence[Outcome],
    layouts: Sequence[Layout],
    load: Load,
    given: Assumptions,
    *,
    on_played: Callable[[str], None],
) -> list[Swing]:
    """How each uncertain assumption moves the GPU-hours of these outcomes, the widest first."""
    by_name = {layout.name: layout for layout in layouts}
    found = []
    for one in outcomes:
        layout = by_name[one.setting.layout]
        for assumption in uncertain(given, layout):
            found.append(_swing(one, layout, assumption, load, given))
            on_played(f"{layout.name}, {assumption.name}")
    return sorted(found, key=lambda one: -abs(one.gpu_hours_high - one.gpu_hours_low))


def uncertain(given: Assumptions, layout: Layout) -> list[Assumption]:
    """Those with a range that matter to a layout."""
    ranged = [one for one in given if one.low is not None and one.high is not None]
    return [one for one in ranged if layout.tp > 1 or one.name != _TP]


def _swing(one: Outcome, layout: Layout, assumption: Assumption, load: Load, given: Assumptions) -> Swing:
    low, high = assumption.low or assumption.value, assumption.high or assumption.value

    def hours(value: float) -> float:
        other = given.replaced({assumption.name: value})
        return outcome(layout, one.setting, load, other).gpu_hours.value

    return Swing(
        layout=layout.name,
        assumption=assumption.name,
        low=low,
        high=high,
        gpu_hours_low=hours(low),
        gpu_hours_high=hours(high),
    )
