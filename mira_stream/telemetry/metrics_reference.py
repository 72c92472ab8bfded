"""The reference of the metrics, made from the registry itself."""

from mira_stream.telemetry.registry import REGISTRY

_INTRODUCTION = """\
# Metrics

Served at `/metrics` in Prometheus' text format, all from one snapshot. Label values come from the code's enums or from
the configuration, so their number is bounded; a source that neither the configuration nor `groups.toml` names is
`other`. `mira_stream_records_read_total` equals `mira_stream_records_ended_total` plus
`mira_stream_records_in_pipeline`, summed over their labels, in every scrape.

This page is made by `make docs` from the code.

| name | kind | labels | meaning |
|---|---|---|---|
"""


def render_metrics() -> str:
    """Markdown: one row per declared metric."""
    rows = (
        f"| `{metric.name}` | {metric.kind.value} | {', '.join(metric.labels) or '—'} | {metric.help} |\n"
        for metric in REGISTRY.values()
    )
    return _INTRODUCTION + "".join(rows)
