"""What is written must be true: commands, links, reasons, metrics, configuration, examples."""

import re
from pathlib import Path

import pytest
import typer

from mira_stream.cli import app
from mira_stream.core.outcome import Reason
from mira_stream.daemon.config import load_config
from mira_stream.daemon.config_reference import render_reference
from mira_stream.telemetry.metrics_reference import render_metrics
from mira_stream.telemetry.registry import REGISTRY
from tests.tidy.cli_page import rendered

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "anchors" / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("ops/*.md")]
)
EXAMPLES = sorted(ROOT.glob("ops/examples/*.toml"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_is_short() -> None:
    """A reader sees what it is and how to start within 120 lines."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the tree."""
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_into_a_page_find_their_heading(page: Path) -> None:
    """What stands behind the # is a heading of that page, as it is spelled in addresses."""
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text("utf-8"))
    targets = [
        ((page.parent / link) if link else page, heading) for link, heading in links if "://" not in link
    ]
    assert not [f"{to.name}#{heading}" for to, heading in targets if heading not in _headings(to)]


def _headings(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist(page: Path) -> None:
    """Every `mira-stream …` and `make …` that a page tells to type is there."""
    text = page.read_text("utf-8")
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    told = set(re.findall(r"(?:^|`|bin/)mira-stream +([a-z][a-z-]+)", text, re.MULTILINE))
    assert told <= commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_metrics_exist(page: Path) -> None:
    """Every metric that a page names is in the registry."""
    told = set(re.findall(r"`(mira_stream_[a-z_]+)`", page.read_text("utf-8")))
    assert told <= set(REGISTRY)


def test_the_configuration_page_is_what_the_code_says() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs/reference/config.md").read_text("utf-8") == render_reference(), "run `make docs`"


def test_the_metrics_page_is_what_the_code_says() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs/reference/metrics.md").read_text("utf-8") == render_metrics(), "run `make docs`"


def test_the_command_line_page_is_what_the_code_says() -> None:
    """Every command has its place there, with every option; `make docs` writes the tables."""
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    assert rendered(page) == page, "run `make docs`"


def test_the_runbook_has_a_section_for_every_reason() -> None:
    """Whoever finds a reason in a row finds what to do about it, and no section is about a reason that is gone."""
    headings = re.findall(r"^### ([a-z0-9_]+)$", (ROOT / "ops/runbook.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(reason.value for reason in Reason)


@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_examples_load(example: Path) -> None:
    """An example that is copied works."""
    assert load_config(example).pool
