"""What a run of the bench found, as one value for scripts and as tables and charts for people."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mira_stream.audit.bench.advice import Effort, Setting, Target, Verdict
from mira_stream.audit.bench.measure import OWN, Measured
from mira_stream.audit.bench.values import Point, Sampled
from mira_stream.audit.plots import Chart, Series, write_charts
from mira_stream.audit.text_plots import text_chart
from mira_stream.core.errors import Refusal

REPORT_FILE, PLOT_FILE = "report.json", "plot.svg"
_WIDTH = 108
_TABLE_WIDTH = 104
_SPARED = ("prompt\ntokens/s", "output\ntokens/s", "p95 s", "preempted\nper 100")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `time_scale` is wall seconds per second of the figures: 1 but for compressed simulated replicas."""

    version: str
    ended: str
    group: str
    model: str
    replicas: Sequence[str]
    simulated: bool
    gpus_per_replica: int
    seconds_per_point: float
    time_scale: float
    wall_seconds: float
    corpus: Sampled
    measured: Measured
    verdict: Verdict
    effort: Effort | None
    target: Target | None

    @property
    def found_a_problem(self) -> bool:
        """Whether it is not all that was asked for: requests failed, or it ended early."""
        measured = self.measured
        return bool(measured.failures or measured.interrupted or measured.broken or measured.own is None)


def tell_corpus(console: Console, corpus: Sampled) -> None:
    """What will be sent."""
    tokens = corpus.prompt_tokens
    part = "all of it" if corpus.whole else f"a part of it: it has {corpus.listed} objects"
    _say(
        console,
        f"corpus    {corpus.origin}: {corpus.records} records, from {corpus.lines} lines of {corpus.objects} objects "
        f"({part})",
    )
    _say(
        console,
        f"prompts   about {tokens.mean:,.0f} tokens on average; p10 {tokens.p10:,.0f}, p50 {tokens.p50:,.0f}, "
        f"p90 {tokens.p90:,.0f}, p99 {tokens.p99:,.0f}; {corpus.truncated} cut to fit",
    )
    if corpus.left_out:
        told = ", ".join(f"{count} {reason}" for reason, count in corpus.left_out.items())
        _say(console, f"left out  {told}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def tell(console: Console, report: Report) -> None:
    """The whole report, for people."""
    console.print()
    console.print(_points_table(report, narrow=console.width < _TABLE_WIDTH))
    for chart in charts(report)[:1]:
        console.print()
        _say(console, text_chart(chart, width=min(_WIDTH, console.width)))
    console.print()
    for line in _findings(report):
        _say(console, line)
    if report.verdict.settings:
        _say(console, "\nsettings: [admission] of the configuration")
        for setting in report.verdict.settings:
            _say(console, f"  {_setting(setting)}")
    _tell_failures(console, report)
    for note in report.verdict.notes:
        _say(console, f"note: {note}")


def charts(report: Report) -> list[Chart]:
    """Goodput and latency against concurrency, our own point among them; empty without points."""
    sweep, own, knee = report.measured.sweep, report.measured.own, report.verdict.knee
    if not sweep:
        return []
    x = [point.concurrency for point in sweep]
    upright = [(knee.concurrency, f"knee {knee.concurrency:g}")] if knee else []

    def chart(title: str, unit: str, names: Sequence[tuple[str, Sequence[float], float]]) -> Chart:
        series = [Series(name=name, x=x, y=y) for name, y, _ in names]
        if own and own.concurrency > 0:  # replicas that answer at once are never seen with anything in flight
            mine = [at for _, _, at in names]
            name = f"{OWN}, p50 and p99" if len(mine) > 1 else OWN
            series.append(Series(name=name, x=[own.concurrency] * len(mine), y=mine, style="marks"))
        return Chart(
            title=title,
            x_label="requests in flight per replica",
            y_label=unit,
            series=series,
            doubling=True,
            upright=upright,
        )

    many = len(report.replicas)
    goodput_title = f"Goodput of {many} replica{'s' if many > 1 else ''}"
    goodput = [point.records_per_second for point in sweep]
    latency50, latency99 = [point.latency.p50 for point in sweep], [point.latency.p99 for point in sweep]
    mine50, mine99 = (own.latency.p50, own.latency.p99) if own else (0.0, 0.0)
    return [
        chart(
            goodput_title,
            "records/s",
            [("fixed concurrency", goodput, own.records_per_second if own else 0.0)],
        ),
        chart(
            "Latency",
            "seconds",
            [("fixed concurrency, p50", latency50, mine50), ("fixed concurrency, p99", latency99, mine99)],
        ),
    ]


def write(report: Report, folder: Path) -> list[str]:
    """Write the report and its plot into `folder`; what was written, or why not, a line each. Raises Refusal."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    except OSError as error:
        raise Refusal(f"cannot write to {folder}: {error.strerror or error}", "give another --out") from error
    said = [f"{folder / REPORT_FILE}"]
    drawn = charts(report)
    if drawn:
        try:
            write_charts(folder / PLOT_FILE, drawn)
            said.append(f"{folder / PLOT_FILE}")
        except Refusal as error:
            said.append(f"no plot: {error}; {error.hint}")
    return said


def _points_table(report: Report, *, narrow: bool) -> Table:
    """All points; a narrow one leaves out what can be spared."""
    measured, knee = report.measured, report.verdict.knee
    points = [*measured.sweep, *([measured.own] if measured.own else [])]
    columns: list[tuple[str, Callable[[Point], str]]] = [
        ("", lambda point: "knee ▸" if point == knee else f"{OWN} ▸" if point is measured.own else ""),
        ("in flight\nper replica", lambda point: f"{point.concurrency:.3g}"),
        ("records/s", lambda point: f"{point.records_per_second:.3g} ±{100 * point.noise:2.0f} %"),
        ("prompt\ntokens/s", lambda point: f"{point.prompt_tokens_per_second:,.0f}"),
        ("output\ntokens/s", lambda point: f"{point.generation_tokens_per_second:,.0f}"),
        ("p50 s", lambda point: _seconds(point, point.latency.p50)),
        ("p95 s", lambda point: _seconds(point, point.latency.p95)),
        ("p99 s", lambda point: _seconds(point, point.latency.p99)),
        ("run-\nning", lambda point: _known(point.running, "{:.1f}")),
        ("wait-\ning", lambda point: _known(point.waiting, "{:.1f}")),
        ("KV\nuse", lambda point: _known(point.kv_usage, "{:.2f}")),
        ("preempted\nper 100", lambda point: _known(point.preemptions_per_100, "{:.1f}")),
        ("failed", lambda point: f"{sum(point.failures.values())}"),
    ]
    if narrow:
        columns = [(title, cell) for title, cell in columns if title not in _SPARED]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for point in points:
        style = "bold" if point == knee else None
        table.add_row(*(Text(cell(point)) for _, cell in columns), style=style)
    return table


def _seconds(point: Point, seconds: float) -> str:
    return f"{seconds:.1f}" if point.answered else "–"


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _findings(report: Report) -> list[str]:
    verdict, measured = report.verdict, report.measured
    lines = []
    if verdict.knee:
        lines.append(
            f"knee      {verdict.knee.concurrency:g} in flight per replica: the least with the best goodput, as near as it can be told"
        )
    if verdict.limited_by:
        lines.append(f"limit     {verdict.limited_by}")
    lines.append(f"KV cache  {_capacity(verdict)}")
    prefill = measured.mix.prefill_tokens_per_second
    alone = [one.decode_tokens_per_second for one in measured.alone if one.decode_tokens_per_second]
    lines.append(
        f"rates     prefill {_known(prefill, '{:,.0f}')} tokens/s alone; a reply {_known(alone[0] if alone else None, '{:.1f}')} "
        f"tokens/s alone, {_known(verdict.decode_tokens_per_second, '{:.1f}')} at the knee; "
        f"{measured.mix.output_tokens:,.0f} tokens on average"
    )
    if verdict.own_share is not None and measured.own:
        lines.append(
            f"own       {OWN} with nothing configured reaches {100 * verdict.own_share:.1f} % of the best fixed "
            f"concurrency (± {100 * verdict.own_share_noise:.1f}), with {_known(measured.own.waiting, '{:.2f}')} requests waiting per replica"
        )
    return lines + _reach(report)


def _capacity(verdict: Verdict) -> str:
    if verdict.capacity_tokens is None:
        engine = f"; the engine says {verdict.engine_tokens:,}" if verdict.engine_tokens else ""
        return f"not found: the replicas show no usage, or too little of it{engine}"
    engine = f" ({verdict.engine_tokens:,} by the engine's own word)" if verdict.engine_tokens else ""
    return f"{verdict.capacity_tokens:,} tokens of ours fill one replica{engine}"


def _reach(report: Report) -> list[str]:
    reach = report.verdict.reach
    if reach is None:
        return []
    per_hour = 3600 * reach.records_per_second_per_gpu
    prompt, output = reach.prompt_tokens_per_second_per_gpu, reach.generation_tokens_per_second_per_gpu
    each = f"{reach.records_per_second_per_gpu:.3g} records/s, {per_hour:,.0f} an hour"
    lines = [
        f"reach     {reach.records_per_second:.3g} records/s; {reach.records_per_second_per_replica:.3g} a replica",
        f"          a GPU {each}, with {prompt:,.0f} prompt and {output:,.0f} output tokens/s",
    ]
    if report.effort:
        lines.append(
            f"effort    {report.effort.records:,} records take {report.effort.gpu_hours:,.1f} GPU-hours, "
            f"{report.effort.hours:,.1f} hours on these replicas"
        )
    if report.target:
        lines.append(
            f"target    {report.target.records_per_second:g} records/s take {report.target.replicas} replicas, "
            f"{report.target.gpus} GPUs"
        )
    return lines


def _setting(setting: Setting) -> str:
    if setting.value is None:
        return f"{setting.key}: leave it out; {setting.why}"
    return f"{setting.key} = {setting.value}   # {setting.why}"


def _tell_failures(console: Console, report: Report) -> None:
    for kind in report.measured.failures:
        console.print(
            f"failed: {kind.requests} × {kind.reason}: {kind.example}", markup=False, soft_wrap=True
        )
