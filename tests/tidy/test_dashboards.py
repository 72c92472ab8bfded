"""The dashboards are what their code makes, and show what the registry has."""

import json
import re
from typing import Any

import pytest

from grafana.__main__ import DASHBOARDS, FOLDER, rendered
from mira_stream.telemetry.registry import REGISTRY
from tests.tidy.tree import ROOT

NAME = re.compile(r"\bmira_stream_[a-z_]+\b")
UNUSED: dict[str, str] = {}
"""Metrics that no panel and no alert shows, and why."""


def _panels(name: str) -> list[dict[str, Any]]:
    board = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_json_is_what_the_code_makes(name: str) -> None:
    """`make dashboards` writes it."""
    assert (FOLDER / f"{name}.json").read_text("utf-8") == rendered(DASHBOARDS[name]())


def test_every_metric_is_shown_or_left_out_on_purpose() -> None:
    """What nobody looks at need not be counted."""
    files = [*FOLDER.glob("*.json"), *(ROOT / "ops" / "prometheus").glob("*.rules.yml")]
    named = {found for file in files for found in NAME.findall(file.read_text("utf-8"))}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) if name not in REGISTRY else name for name in named}
    assert set(REGISTRY) - shown == set(UNUSED)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_each_panel_says_what_it_shows(name: str) -> None:
    """A title, a sentence, a unit, a place of its own."""
    places = set()
    for panel in _panels(name):
        assert panel["title"], panel
        assert re.fullmatch(r"[A-Z0-9`].*\.", panel["description"]), panel["title"]
        without_unit = panel["type"] in ("state-timeline", "heatmap")
        assert without_unit or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, f"{panel['title']} lies over another"
        places |= cells


@pytest.mark.parametrize("name", DASHBOARDS)
def test_each_section_of_the_runbook_that_a_panel_names_exists(name: str) -> None:
    """The way from a red panel to what to do."""
    titles = set(
        re.findall(r"^### (.+)$", (ROOT / "ops" / "runbook.md").read_text("utf-8"), flags=re.MULTILINE)
    )
    named = [
        found for panel in _panels(name) for found in re.findall(r"Runbook: (.+?)\.", panel["description"])
    ]
    assert set(named) <= titles
