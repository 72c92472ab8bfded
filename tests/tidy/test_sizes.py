"""Sizes: what a reviewer would otherwise have to count. An exemption is one line with a reason."""

from statistics import median, quantiles

from tests.tidy.tree import PACKAGE, Function, classes, functions, lines, modules

MODULE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70
CLASS_LINES_MAX = 300
PARAMETERS_MAX = 6

MANY_PARAMETERS = {
    "cli.py:bench": "typer declares options as parameters",
    "cli.py:plan": "typer declares options as parameters",
    "cli.py:sim": "typer declares options as parameters",
    "cli_dead_letters.py:list_letters": "typer declares options as parameters",
    "cli_dead_letters.py:replay": "typer declares options as parameters",
    "ledger/sqlite.py:open": "called by the composition root alone, all by keyword",
}
LONG_CLASSES = {
    "pipeline/dispatch.py:Dispatcher": (320, "one record's way from permit to outcome; must not grow"),
}


def _parameters(function: Function) -> int:
    """How many a caller may give; `self` and `cls` are not given."""
    args = function.args
    named = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in named)


def test_modules_are_short() -> None:
    """A module has one reason to change: at most 450 lines, nine of ten at most 300."""
    sizes = {module.name: module.text.count("\n") for module in modules()}
    assert not {name: size for name, size in sizes.items() if size > MODULE_LINES_MAX}
    assert quantiles(sizes.values(), n=10)[-1] <= 300


def test_functions_are_short() -> None:
    """Half of the functions fit a glance, nine of ten a paragraph, and none is longer than a page."""
    sizes = {
        f"{module.name}:{one.name}:{one.lineno}": lines(one)
        for module in modules()
        for one in functions(module.tree)
    }
    assert not {name: size for name, size in sizes.items() if size > FUNCTION_LINES_MAX}
    assert median(sizes.values()) <= 8
    assert quantiles(sizes.values(), n=10)[-1] <= 25
    assert sum(size <= 40 for size in sizes.values()) >= 0.95 * len(sizes)


def test_functions_take_few_parameters() -> None:
    """At most six, `self` aside; more is a value that wants a name."""
    found = {
        f"{module.name}:{one.name}"
        for module in modules()
        for one in functions(module.tree)
        if _parameters(one) > PARAMETERS_MAX
    }
    assert found == set(MANY_PARAMETERS), "an exemption is missing, or one is no longer needed"


def test_classes_are_short() -> None:
    """At most 300 lines, docstrings aside; the exempt ones do not grow."""
    for module in modules():
        for one in classes(module.tree):
            size_max, _ = LONG_CLASSES.get(f"{module.name}:{one.name}", (CLASS_LINES_MAX, ""))
            assert lines(one) <= size_max, f"{module.name}: {one.name} has {lines(one)} lines"


def test_the_page_of_ports_is_a_page() -> None:
    """All seams fit one page that can be read at once."""
    assert (PACKAGE / "ports.py").read_text("utf-8").count("\n") <= 250
