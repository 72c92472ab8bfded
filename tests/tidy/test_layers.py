"""What the linter of layers cannot see: rooms it was not told of, packages left out, foreign imports in the core."""

import ast
import sys
import tomllib
from collections.abc import Iterator

from tests.tidy.tree import PACKAGE, ROOT, Module, functions, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DATA_PACKAGES = {"mira_stream.anchor_data"}
IMPURE_BUILTINS = {"breakpoint", "input", "open", "print"}


def _imports(module: Module) -> Iterator[str]:
    """Dotted names of the modules that are imported."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_every_room_has_its_floor() -> None:
    """A room that no layer names could import anything."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    floors = {name.strip().removeprefix("mira_stream.") for layer in layers for name in layer.split("|")}
    assert {module.room for module in modules()} - {"__init__"} == floors


def test_every_package_is_in_the_wheel() -> None:
    """The build lists packages by name: none is forgotten."""
    built = set(PROJECT["tool"]["setuptools"]["packages"]) - DATA_PACKAGES
    here = {path.parent.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("__init__.py")}
    assert built == {name.replace("/", ".") for name in here}


def test_the_core_needs_nothing_but_msgspec() -> None:
    """Values and decisions run anywhere: the standard library, msgspec, and lower floors."""
    allowed = {*sys.stdlib_module_names, "msgspec", "mira_stream"}
    found = [
        f"{module.name}: {name}"
        for module in modules()
        if module.room in ("core", "control")
        for name in _imports(module)
        if name.partition(".")[0] not in allowed
    ]
    assert not found


def test_core_and_control_only_decide() -> None:
    """Nothing in them waits, reads a file or writes to anybody."""
    found = []
    for module in modules():
        if module.room not in ("core", "control"):
            continue
        found += [
            f"{module.name}: {one.name}"
            for one in functions(module.tree)
            if isinstance(one, ast.AsyncFunctionDef)
        ]
        found += [
            f"{module.name}: {node.func.id}()"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in IMPURE_BUILTINS
        ]
    assert not found


def test_there_is_one_composition_root() -> None:
    """The pipeline is put together in one place."""
    builders = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Pipeline", "Stages", "Dispatcher")
    }
    assert builders == {"daemon/build.py"}


def test_dependencies_are_declared_and_used() -> None:
    """What the package imports is in `dependencies` or in the extra that it is for, and nothing else is."""
    names = {"backports": "backports.zstd", "prometheus_client": "prometheus-client"}
    part_of_others = {"compression", "yarl"}  # Python 3.14's library; the URL type of aiohttp
    imported = {name.partition(".")[0] for module in modules() for name in _imports(module)}
    foreign = imported - set(sys.stdlib_module_names) - {"mira_stream"} - part_of_others
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["tokens"]]
    declared = {line.split(";")[0].split(">=")[0].strip() for line in lines}
    assert {names.get(name, name) for name in foreign} == declared
