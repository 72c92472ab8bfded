"""Words where the reasons are: docstrings that say what a thing promises, tests that say what they prove."""

import ast
import re

import pytest

from tests.tidy.tree import Function, classes, functions, modules, modules_of_tests

LEFTOVERS = r"\b(?:TODO|FIXME|XXX|HACK)\b"


def _is_property(function: Function) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "property" for one in function.decorator_list)


def test_every_module_says_what_it_is() -> None:
    """One sentence at the top, in the package and in the tests."""
    silent = [one.name for one in (*modules(), *modules_of_tests()) if not ast.get_docstring(one.tree)]
    assert not silent


def test_everything_public_says_what_it_promises() -> None:
    """Public classes, functions and methods have a docstring; properties and enums may speak by their names."""
    silent = []
    for module in modules():
        for owner in (module.tree, *classes(module.tree)):
            if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
                continue
            for one in owner.body:
                if not isinstance(one, Function | ast.ClassDef) or one.name.startswith("_"):
                    continue
                speaks = _is_property(one) if isinstance(one, Function) else _is_enum(one)
                if not speaks and not ast.get_docstring(one):
                    silent.append(f"{module.name}: {one.name}")
    assert not silent


def _is_enum(one: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id.endswith("Enum") for base in one.bases)


def test_every_method_of_a_port_states_its_guarantee() -> None:
    """A seam without words is a guess on both sides."""
    (ports,) = [module for module in modules() if module.name == "ports.py"]
    silent = [
        f"{port.name}.{one.name}"
        for port in classes(ports.tree)
        for one in functions(port)
        if not ast.get_docstring(one)
    ]
    assert not silent


def test_every_test_states_its_promise() -> None:
    """The docstring of a test is the promise that it keeps."""
    silent = [
        f"{module.name}: {one.name}"
        for module in modules_of_tests()
        for one in functions(module.tree)
        if one.name.startswith("test_") and not ast.get_docstring(one)
    ]
    assert not silent


@pytest.mark.parametrize("kind", ["modules", "tests"])
def test_nothing_is_left_for_later(kind: str) -> None:
    """What is not built is not promised in a comment."""
    found = [
        f"{module.name}:{number}"
        for module in (modules() if kind == "modules" else modules_of_tests())
        if module.name != "tidy/test_words.py"
        for number, line in enumerate(module.text.splitlines(), 1)
        if re.search(LEFTOVERS, line)
    ]
    assert not found


def test_lint_exceptions_name_their_rule() -> None:
    """A blanket `noqa` or `type: ignore` hides more than was meant."""
    blanket = re.compile(r"#\s*(?:noqa(?!:)|type:\s*ignore(?!\[))")
    found = [module.name for module in (*modules(), *modules_of_tests()) if blanket.search(module.text)]
    assert not found
