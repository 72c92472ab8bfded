"""The load report that vLLM puts on an answer whose request asks for it (ORCA)."""

import json
from collections.abc import Mapping

WANTED = "endpoint-load-metrics-format"
"""The request header that asks for it."""
REPORT = "endpoint-load-metrics"
"""The header that has it."""


def load_headers(wanted: str | None, report: Mapping[str, float]) -> dict[str, str]:
    """The header in the wanted format, `JSON` or `TEXT`; none for any other."""
    form = (wanted or "").lower()
    if form == "json":
        return {REPORT: f"JSON {json.dumps({'named_metrics': report})}"}
    if form == "text":
        return {
            REPORT: "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in report.items())
        }
    return {}
