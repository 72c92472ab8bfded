"""Sizes, bans and the registry: what a reviewer would otherwise have to count."""

import ast
import re
from pathlib import Path
from statistics import median

import pytest

from mira_stream.telemetry import registry
from mira_stream.telemetry.registry import LABELS, REGISTRY, Metric

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "mira_stream").rglob("*.py"))
MODULE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70


def _functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(node.name, _lines(node)) for node in ast.walk(tree) if isinstance(node, kinds)]


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_modules_are_short() -> None:
    """A module has one reason to change."""
    long = {
        str(path): n
        for path in MODULES
        if (n := len(path.read_text("utf-8").splitlines())) > MODULE_LINES_MAX
    }
    assert not long


def test_functions_are_short() -> None:
    """Most functions fit a glance, and none is longer than a page (the command line's are lists of options)."""
    sizes = [size for path in MODULES for _, size in _functions(path)]
    assert median(sizes) <= 8
    assert sorted(sizes)[int(len(sizes) * 0.9)] <= 25
    assert max(sizes) <= FUNCTION_LINES_MAX


def test_every_module_says_what_it_is() -> None:
    """One sentence at the top."""
    silent = [str(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent


@pytest.mark.parametrize(
    "banned",
    [
        r"except Exception\b",
        r"except:\s*$",
        r"unittest\.mock",
        r"(?<![\w.])/(?:work|root)/",
    ],
)
def test_what_must_not_stand_in_the_code(banned: str) -> None:
    """No leftovers, no swallowed bugs, no path of somebody's machine."""
    found = [str(path) for path in MODULES if re.search(banned, path.read_text("utf-8"), re.MULTILINE)]
    assert not found


def test_the_source_never_reads_zstd_in_a_way_that_loses_data() -> None:
    """`stream_reader` and one-shot `decompress` stop in silence after the first frame."""
    for path in (ROOT / "mira_stream" / "source").glob("*.py"):
        text = path.read_text("utf-8")
        assert "stream_reader" not in text, path
        assert not re.search(r"^\s*(?:import|from) zstandard", text, re.MULTILINE), path


def test_every_declared_metric_is_written_somewhere() -> None:
    """A metric that nothing sets would show nothing for ever."""
    code = "\n".join(path.read_text("utf-8") for path in MODULES if path.name != "registry.py")
    declared = [name for name, value in vars(registry).items() if isinstance(value, Metric)]
    assert len(declared) == len(REGISTRY)
    unused = [name for name in declared if not re.search(rf"\bmetrics\.{name}\b", code)]
    assert not unused


def test_metric_names_and_labels_follow_the_agreed_form() -> None:
    """`mira_stream_<part>_<noun>_<unit>[_total]`, labels from the agreed set."""
    for metric in REGISTRY.values():
        assert re.fullmatch(r"mira_stream_[a-z]+(?:_[a-z]+)+", metric.name), metric.name
        assert set(metric.labels) <= LABELS, metric.name
        assert metric.help.endswith("."), metric.name


def test_pins_carry_no_index_address() -> None:
    """A constraints file names versions, not places."""
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert "://" not in text
    assert "index" not in text
