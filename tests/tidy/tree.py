"""The tree under test: its modules, parsed once, and the texts that people read."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mira_stream"
_MADE = {"__pycache__", "build", "demo-out", "dist"}  # made by tools, never part of the tree
_TEXTS = {".json", ".jsonl", ".md", ".py", ".service", ".sh", ".toml", ".txt", ".yaml", ".yml"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A module of the package. `name` is its path below `mira_stream/`, such as `sink/format.py`."""

    name: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder it lies in; of a module at the top its own name: `cli`, `ports`."""
        return self.name.partition("/")[0].removesuffix(".py")


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, sorted by name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        found.append(Module(path.relative_to(PACKAGE).as_posix(), text, ast.parse(text)))
    return tuple(found)


@cache
def modules_of_tests() -> tuple[Module, ...]:
    """Every module of the tests, by its path below `tests/`."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text("utf-8")
        found.append(Module(path.relative_to(ROOT / "tests").as_posix(), text, ast.parse(text)))
    return tuple(found)


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    """Every class."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def lines(node: Function | ast.ClassDef) -> int:
    """Lines of a function or class as written, from `def` to its end, without its docstring."""
    count = (node.end_lineno or 0) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is None:
        return count
    docstring = node.body[0]
    return count - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the repository, by its path; what tools make and hidden folders are left out."""
    for path in sorted(_files(ROOT)):
        if path.suffix in _TEXTS or path.parent.name == ".ci" or path.name == "Makefile":
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def pages() -> list[Path]:
    """Every page of prose that a reader is sent to."""
    top = [ROOT / "README.md", ROOT / "anchors" / "README.md"]
    return sorted([*top, *ROOT.glob("docs/**/*.md"), *ROOT.glob("ops/**/*.md")])


def page_name(path: Path) -> str:
    """Its path in the repository, for test ids."""
    return path.relative_to(ROOT).as_posix()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        hidden = path.name.startswith(".") and path.name not in (".ci", ".gitignore")
        if hidden or path.name in _MADE or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
