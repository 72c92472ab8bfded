"""The tables of the command line's reference, made from the commands themselves; `make docs` writes them.

The page is written by hand, but for what stands between two comments: `<!-- options of: NAME -->` and `<!-- end -->`.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from mira_stream.cli import app

_REGION = re.compile(r"(<!-- options of: ([a-z -]+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_EXPLAINED_ABOVE = {
    "The TOML configuration file.  [required]",
    "Print JSON for scripts instead of text for people.",
}
_NOTE = re.compile(r"  \[(.*)\]$")


def rendered(page: str) -> str:
    """The page with its tables made anew; each command must have one, and none may be left over."""
    commands = dict(_commands(typer.main.get_command(app), ()))
    told = {name for _, name, _ in _REGION.findall(page)}
    assert told == set(commands), f"only on the page or only in the program: {sorted(told ^ set(commands))}"
    return _REGION.sub(lambda found: found[1] + _table(found[2], commands[found[2]]) + found[3], page)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Groups and commands are click's, which typer carries inside itself: there is no public name for their type."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, one in command.commands.items():
        yield from _commands(one, (*path, name))


def _table(path: str, command: Any) -> str:
    context = typer.Context(command)
    records = [one.get_help_record(context) for one in command.params]
    needed = [_spelled(name) for name, help_ in records if "[required]" in help_]
    needed.sort(key=lambda spelled: spelled.startswith("-"))
    free = any("[required]" not in help_ for _, help_ in records)
    usage = " ".join(
        [
            "mira-stream",
            path,
            *(spelled.rpartition(", ")[2] for spelled in needed),
            *(["[options]"] if free else []),
        ]
    )
    rows = [
        f"| `{_spelled(name)}` | {_meaning(help_)} |"
        for name, help_ in records
        if help_ not in _EXPLAINED_ABOVE
    ]
    head = ["", "| | |", "|---|---|"] if rows else []
    return "\n".join([f"`{usage}`", *head, *rows, "", ""])


def _spelled(name: str) -> str:
    """`file <path>` as `<file>`, `--set <list[str]>` as `--set <str>…`, `--reason <list[a|b]>` as `--reason <reason>…`."""
    if not name.startswith("-"):
        word = name.split(maxsplit=1)[0]
        return f"<{word.removesuffix('...')}>" + ("…" if word.endswith("...") else "")
    name = re.sub(r"<list\[(.*)\]>", r"<\1>…", name)
    name = re.sub(r"--([a-z-]+) <[^>]*\|[^>]*>", r"--\1 <\1>", name)
    return re.sub(r"<(int|float) range>", r"<\1>", name)


def _meaning(help_: str) -> str:
    note = _NOTE.search(help_)
    text = help_ if note is None else f"{_NOTE.sub('', help_)} *{note[1]}*"
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (path,) = map(Path, sys.argv[1:])
    path.write_text(rendered(path.read_text("utf-8")), "utf-8")
