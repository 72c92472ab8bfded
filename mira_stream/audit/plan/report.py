"""A plan as one value for scripts, and as tables and charts for people; what it does not know is part of both."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mira_stream.audit.bench.values import Spread
from mira_stream.audit.plan.assumptions import Assumption
from mira_stream.audit.plan.cases import best, best_by_layout
from mira_stream.audit.plan.values import CorpusFigures, Interval, Outcome, Swing
from mira_stream.audit.plots import Chart, Series, write_charts
from mira_stream.audit.text_plots import text_chart
from mira_stream.core.errors import Refusal

REPORT_FILE, PLOT_FILE = "plan.json", "plan.svg"
UNKNOWN = (
    "whether the GPUs do what is assumed: no replica was asked; `mira-stream bench` measures one, and --set takes it",
    "how a prompt's cost grows with its length: attention over a long prompt costs more per token than over a short one",
    "steps that run on all weights only in part: of few requests a mixture-of-experts model reads less than all",
    "the tokens that the model's tokenizer counts: they are estimated from bytes, mostly within 5 % per record",
    "how long replies are, and how that depends on the record",
    "re-asks of incomplete replies, failures, restarts, other users of the replicas: each takes more",
    "whether reading, network and sink keep up: the modelled replicas never wait for a record",
    "what came to the corpus since, and what of it was scored already: all of it is counted",
)
_COLUMN_WIDTH = 108
_CDF_POINTS = 24
_LABEL = 10


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One plan. `unfit`: settings that no engine could start with."""

    version: str
    group: str
    model: str
    gpu: str
    seed: int
    corpus: CorpusFigures
    quantiles: Sequence[tuple[float, float]]
    assumptions: Sequence[Assumption]
    outcomes: Sequence[Outcome]
    unfit: Sequence[str]
    swings: Sequence[Swing]
    notes: Sequence[str]
    unknown: Sequence[str] = UNKNOWN


def quantiles(tokens: Sequence[int]) -> list[tuple[float, float]]:
    """Points of the distribution: a length, and the share of the records that are no longer."""
    ordered = sorted(tokens)
    last = len(ordered) - 1
    places = sorted({round(last * step / _CDF_POINTS) for step in range(_CDF_POINTS + 1)})
    return [(float(ordered[at]), (at + 1) / len(ordered)) for at in places]


def tell(console: Console, plan: Plan) -> None:
    """The whole plan, for people."""
    for line in _corpus(plan.corpus):
        _say(console, line)
    if len(plan.corpus.sources) > 1:
        _say(console, "")
        console.print(_sources_table(plan.corpus))
    drawn = charts(plan)
    width = min(_COLUMN_WIDTH, console.width)
    _say(console, "\n" + text_chart(drawn[0], width=width, height=10) + "\n")
    console.print(_outcomes_table(plan.outcomes))
    for chart in drawn[1:]:
        _say(console, "\n" + text_chart(chart, width=width, height=10))
    _say(console, "")
    for line in _findings(plan):
        _say(console, line)
    if plan.swings:
        _say(
            console,
            "\nwhat it hinges on: GPU-hours of each layout's best setting, one assumption changed at a time",
        )
        console.print(_swings_table(plan.swings))
    _say(console, "\nassumptions: replace any with --set name=value")
    console.print(_assumptions_table(plan.assumptions))
    _say(console, "\nwhat this does not know")
    for line in plan.unknown:
        _say(console, f"  - {line}")
    for note in (*plan.unfit, *plan.notes):
        _say(console, f"note: {note}")


def charts(plan: Plan) -> list[Chart]:
    """The lengths; and records per second over what was varied, if anything was."""
    corpus = plan.corpus
    lengths = Chart(
        title="Records up to a length",
        x_label="prompt tokens, uncut",
        y_label="share of the records",
        series=[Series(name="records", x=[x for x, _ in plan.quantiles], y=[y for _, y in plan.quantiles])],
        upright=[(float(one.prompt_tokens_max), f"fits {one.context:,}") for one in corpus.over],
    )
    drawn = [lengths]
    batched = sorted({one.setting.batched_tokens for one in plan.outcomes})
    contexts = sorted({one.setting.context for one in plan.outcomes})
    if len(batched) > 1:
        drawn.append(
            _rates(plan.outcomes, "batched tokens", lambda one: one.setting.batched_tokens, contexts)
        )
    elif len(contexts) > 1:
        drawn.append(_rates(plan.outcomes, "context", lambda one: one.setting.context, []))
    return drawn


def write(plan: Plan, folder: Path) -> list[str]:
    """Write the plan and its charts into `folder`; what was written, or why not, a line each. Raises Refusal."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2))
    except OSError as error:
        raise Refusal(f"cannot write to {folder}: {error.strerror or error}", "give another --out") from error
    said = [f"{folder / REPORT_FILE}"]
    try:
        write_charts(folder / PLOT_FILE, charts(plan))
        said.append(f"{folder / PLOT_FILE}")
    except Refusal as error:
        said.append(f"no plot: {error}; {error.hint}")
    return said


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _corpus(corpus: CorpusFigures) -> list[str]:
    by_chance = (
        "objects by chance, of those lines by chance" if corpus.listed > corpus.objects else "lines by chance"
    )
    how = "every line was looked at" if corpus.exact else f"{by_chance}, all with the same chance"
    left = "; ".join(f"{100 * share:.1f} % {reason}" for reason, share in corpus.unscorable.items())
    lines = [
        f"corpus    {corpus.origin}: {corpus.listed:,} objects, {corpus.listed_bytes / 1e9:,.3f} GB as they lie there",
        f"sample    {corpus.sampled:,} lines of {corpus.lines_read:,} in {corpus.objects:,} objects: {how}",
        f"records   {_interval(corpus.records)} can be scored, of {_interval(corpus.lines)} lines",
        f"left out  {left or 'none'}",
        f"tokens    {_interval(corpus.tokens)} in all; {_interval(corpus.mean_tokens)} a prompt, on average",
        f"lengths   {_lengths(corpus.lengths)}",
    ]
    for over in corpus.over:
        share = _interval(over.share.times(100), ".1f")
        lines.append(
            f"over      {over.context:,}: {share} % of the records have more than "
            f"{over.prompt_tokens_max:,} prompt tokens; {100 * over.lost_share:.1f} % of all tokens are beyond that"
        )
    return lines


def _lengths(tokens: Spread) -> str:
    shares = {"p10": tokens.p10, "p50": tokens.p50, "p90": tokens.p90, "p95": tokens.p95, "p99": tokens.p99}
    return ", ".join(f"{name} {value:,.0f}" for name, value in {**shares, "longest": tokens.max}.items())


def _interval(one: Interval, form: str = ",.0f") -> str:
    if one.low == one.high:
        return format(one.value, form)
    return f"{one.value:{form}} ({one.low:{form}} … {one.high:{form}})"


def _findings(plan: Plan) -> list[str]:
    top, layouts = best(plan.outcomes), best_by_layout(plan.outcomes)
    rate, hours = top.played.records_per_second, top.gpu_hours.value / top.gpus
    lines = [
        f"best      {_setting(top)}: {rate:.3g} records/s",
        f"effort    {_interval(top.gpu_hours, ',.4g')} GPU-hours for the corpus; {hours:,.4g} hours on {top.gpus} GPUs",
    ]
    for other in layouts:
        if other.setting.layout != top.setting.layout:
            times = top.records_per_second_per_gpu / other.records_per_second_per_gpu
            lines.append(
                f"layouts   {top.setting.layout} does {times:.2f} times the records of {other.setting.layout} per GPU"
            )
    least = min(plan.outcomes, key=lambda one: one.setting.context)
    if least.setting.context != top.setting.context:
        same = [one for one in plan.outcomes if one.setting.context == least.setting.context]
        narrow = best([one for one in same if one.setting.layout == top.setting.layout] or same)
        gain = narrow.records_per_second_per_gpu / top.records_per_second_per_gpu
        lines.append(
            f"context   {narrow.setting.context:,} would do {gain:.2f} times the records, for it cuts or leaves out "
            "what is over"
        )
    lines.append(
        "interval  95 of 100 samples like this one; it does not cover the assumptions, and the model's own noise is 2 %"
    )
    return lines


def _setting(one: Outcome) -> str:
    setting = one.setting
    return f"{setting.layout}, context {setting.context:,}, batched tokens {setting.batched_tokens:,}"


def _rates(
    outcomes: Sequence[Outcome], label: str, x: Callable[[Outcome], int], contexts: Sequence[int]
) -> Chart:
    lines: dict[str, list[Outcome]] = {}
    for one in outcomes:
        many = len(contexts) > 1
        name = f"{one.setting.layout}, context {one.setting.context:,}" if many else one.setting.layout
        lines.setdefault(name, []).append(one)
    series = [
        Series(
            name=name,
            x=[x(one) for one in sorted(line, key=x)],
            y=[one.played.records_per_second for one in sorted(line, key=x)],
        )
        for name, line in lines.items()
    ]
    return Chart(title="Goodput", x_label=label, y_label="records/s", series=series, doubling=True)


def _table(*titles: str, left: int = 0) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < left else "right")
    return table


def _outcomes_table(outcomes: Sequence[Outcome]) -> Table:
    top = best(outcomes)
    columns: list[tuple[str, Callable[[Outcome], str]]] = [
        ("", lambda one: "best ▸" if one is top else ""),
        ("layout", lambda one: one.setting.layout),
        ("context", lambda one: f"{one.setting.context:,}"),
        ("batched\ntokens", lambda one: f"{one.setting.batched_tokens:,}"),
        ("records/s", lambda one: f"{one.played.records_per_second:.3g}"),
        ("prompt\ntokens/s", lambda one: f"{one.played.prompt_tokens_per_second:,.0f}"),
        ("KV M\ntokens", lambda one: f"{one.kv_tokens / 1e6:.2f}"),
        ("KV\nfill", lambda one: f"{one.played.kv_fill:.2f}"),
        ("run-\nning", lambda one: f"{one.played.running:.0f}"),
        ("p50 s", lambda one: f"{one.played.p50:.0f}"),
        ("p95 s", lambda one: f"{one.played.p95:.0f}"),
        ("preempted\nper 100", lambda one: f"{one.played.preemptions_per_100:.1f}"),
        ("GPU-hours", lambda one: f"{one.gpu_hours.value:,.4g}"),
    ]
    table = _table(*(title for title, _ in columns))
    for one in outcomes:
        table.add_row(*(Text(cell(one)) for _, cell in columns), style="bold" if one is top else None)
    return table


def _sources_table(corpus: CorpusFigures) -> Table:
    table = _table("source", "sampled", "not scorable", "mean tokens", "p50", "p90", "p99", left=1)
    for one in corpus.sources:
        lengths = (one.tokens.mean, one.tokens.p50, one.tokens.p90, one.tokens.p99)
        cells = (f"{one.records:,}", f"{one.unscorable:,}", *(f"{length:,.0f}" for length in lengths))
        table.add_row(Text(one.source), *cells)
    return table


def _swings_table(swings: Sequence[Swing]) -> Table:
    table = _table("layout", "assumption", "from", "to", "GPU-hours from", "to", left=2)
    for one in swings:
        hours = (f"{one.gpu_hours_low:,.4g}", f"{one.gpu_hours_high:,.4g}")
        table.add_row(one.layout, one.assumption, f"{one.low:,.5g}", f"{one.high:,.5g}", *hours)
    return table


def _assumptions_table(assumptions: Sequence[Assumption]) -> Table:
    table = _table("name", "value", "unit", "origin", "", left=0)
    for column in (0, 2, 3, 4):
        table.columns[column].justify = "left"
    for one in assumptions:
        value = f"{one.value:,.0f}" if one.value >= 100 else f"{one.value:g}"
        table.add_row(one.name, value, one.unit, one.origin, Text(one.why))
    return table
