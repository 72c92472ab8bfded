"""Write the dashboards as JSON."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.lake import lake
from grafana.replicas import replicas
from grafana.scores import scores
from grafana.service import service

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = {"service": service, "replicas": replicas, "scores": scores, "lake": lake}


def rendered(dashboard: Dashboard) -> str:
    """As it is committed: keys sorted, so that a change is a small difference."""
    text = JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False).encode(dashboard)
    assert json.loads(text)["title"]
    return text + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(rendered(make()), "utf-8")
