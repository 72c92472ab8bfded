"""The kinds of panels that the dashboards are made of: one look, one way to say units, limits and links."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

GREEN, AMBER, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"
HEIGHT = 8
STAT_HEIGHT = 5
WIDTH = 24
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


class Query(NamedTuple):
    """An expression and the legend of its series; a `limit` is drawn as a dashed line."""

    expr: str
    legend: str = ""
    limit: bool = False


Panels = list[Builder[Any]]
Steps = Sequence[tuple[float | None, str]]
"""From which value on which colour holds, ascending; the first from None on."""


def _target(
    query: Query, number: int, *, instant: bool = False, form: str = "time_series"
) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + number)).datasource(SOURCE)
    target = target.format(prometheus_models.PromQueryFormat(form))
    if query.legend:
        target = target.legend_format(query.legend)
    return target.instant() if instant else target.range()


def colours(steps: Steps) -> dashboard.ThresholdsConfig:
    """Which colour holds from which value on."""
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _mapping(texts: dict[str, tuple[str, str]]) -> list[Any]:
    options = {
        value: models.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return [models.ValueMap(options=options)]


def figure(
    title: str, query: Query, what: str, *, unit: str = "short", steps: Steps = ((None, BLUE),)
) -> stat.Panel:
    """One number, large; its colour says whether it is well."""
    colour = (
        common_models.BigValueColorMode.BACKGROUND
        if len(steps) > 1
        else common_models.BigValueColorMode.VALUE
    )
    return (
        stat.Panel()
        .title(title)
        .description(what)
        .datasource(SOURCE)
        .unit(unit)
        .span(WIDTH // 6)
        .height(STAT_HEIGHT)
        .thresholds(colours(steps))
        .color_mode(colour)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query, 0, instant=True))
    )


def lines(
    title: str, queries: Sequence[Query], what: str, *, unit: str = "short", stacked: bool = False
) -> timeseries.Panel:
    """Series over time; stacked where their sum means something."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(what)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(WIDTH // 3)
        .height(HEIGHT)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(query, number))
        if query.limit:
            panel = panel.override_by_query(chr(ord("A") + number), _as_limit())
    return panel


def _as_limit() -> list[models.DynamicConfigValue]:
    return [
        models.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}),
        models.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
        models.DynamicConfigValue(id_val="custom.stacking", value={"mode": "none"}),
        models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": RED}),
    ]


def states(
    title: str, query: Query, what: str, texts: dict[str, tuple[str, str]], *, width: int = 12
) -> statetimeline.Panel:
    """Which of several states each series was in, over time."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(what)
        .datasource(SOURCE)
        .span(width)
        .height(HEIGHT)
        .merge_values(True)
        .show_value(common_models.VisibilityMode.NEVER)
        .row_height(0.8)
        .mappings(_mapping(texts))
        .thresholds(colours(((None, GREY),)))
        .with_target(_target(query, 0))
    )


def heat(title: str, query: Query, what: str, *, unit: str = "short") -> heatmap.Panel:
    """A histogram over time: the query gives rates by `le`."""
    return (
        heatmap.Panel()
        .title(title)
        .description(what)
        .datasource(SOURCE)
        .span(WIDTH // 3)
        .height(HEIGHT)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .steps(32)
        )
        .with_target(_target(query._replace(legend="{{le}}"), 0, form="heatmap"))
    )


def bars(title: str, query: Query, what: str) -> bargauge.Panel:
    """The value of each series now, as bars from 0."""
    return (
        bargauge.Panel()
        .title(title)
        .description(what)
        .datasource(SOURCE)
        .unit("short")
        .min(0)
        .span(WIDTH // 3)
        .height(HEIGHT)
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .thresholds(colours(((None, BLUE),)))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query, 0, instant=True))
    )


def alarm_at(panel: timeseries.Panel, value: float) -> timeseries.Panel:
    """That panel, with a dashed line where an alert fires."""
    style = common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
    return panel.thresholds(colours(((None, GREEN), (value, RED)))).thresholds_style(style)


def dashboard_of(
    uid: str,
    title: str,
    what: str,
    variables: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Builder[Any]]]],
) -> models.Dashboard:
    """A dashboard: the usual variables and links, and rows of panels."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(what)
        .tags(["mira-stream"])
        .refresh("15s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("mira-stream")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["mira-stream"])
            .keep_time(True)
            .include_vars(True)
        )
        .annotation(_alerts_firing())
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
    )
    for name in variables:
        board = board.with_variable(_variable(name))
    for heading, panels in rows:
        board = board.with_row(dashboard.Row(heading))
        for panel in panels:
            board = board.with_panel(panel)
    return board.build()


_VALUES_OF = {
    "instance": "label_values(mira_stream_records_read_total, instance)",
    "group": 'label_values(mira_stream_pool_window_records{instance=~"$instance"}, group)',
    "replica": 'label_values(mira_stream_replica_requests{instance=~"$instance"}, replica)',
    "source": 'label_values(mira_stream_reply_overall_points_count{instance=~"$instance"}, source)',
    "slot": 'label_values(mira_stream_reply_score_points_count{instance=~"$instance"}, slot)',
}


def _variable(name: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query({"query": _VALUES_OF[name], "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _alerts_firing() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(RED)
        .expr('ALERTS{alertname=~"MiraStream.*", alertstate="firing"}')
    )
