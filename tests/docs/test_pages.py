"""Every command of every page is run as it stands there, or says what it would need."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from mira_stream.cli import app
from tests.docs.blocks import NEEDS, Step, read_page
from tests.docs.session import SETUPS, free_ports, type_in
from tests.tidy.tree import ROOT, page_name, pages

LANGUAGES = {
    "console",
    "dockerfile",
    "ini",
    "json",
    "mermaid",
    "promql",
    "python",
    "sh",
    "sql",
    "text",
    "toml",
    "yaml",
}
TYPED = re.compile(
    r"^\s*(?:\$ |(?:sudo|make|pip|pipx|curl|kubectl|docker|systemctl|journalctl|git|(?:\S*/)?mira-stream) +[-a-z/])",
    re.MULTILINE,
)
PAGES = pages()


def _runnable(page: Path) -> list[Step]:
    return [
        step for block in read_page(page.read_text("utf-8")).blocks if not block.needs for step in block.steps
    ]


def _kept(page: Path) -> list[Step]:
    return [
        step for block in read_page(page.read_text("utf-8")).blocks if block.needs for step in block.steps
    ]


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("page", [page for page in PAGES if _runnable(page)], ids=page_name)
def test_commands_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """Typed one after the other in an empty folder they end as they should and print what is shown."""
    told = read_page(page.read_text("utf-8"))
    setup = [] if told.setup is None else [Step(0, f'. "$SETUPS/{told.setup}.sh"', None, 0)]
    problem = type_in([*setup, *_runnable(page)], folder=tmp_path, ports=free_ports(told.ports))
    assert problem is None, f"{page_name(page)}, {problem}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block without a language, or commands in one that is never run, would escape the test above."""
    for block in read_page(page.read_text("utf-8")).blocks:
        where = f"{page_name(page)}, line {block.line}"
        assert block.language in LANGUAGES, f"{where}: {block.language!r} is no language of these pages"
        if block.language in ("text", "ini", "yaml", "toml"):
            assert not TYPED.search(block.text), f"{where}: what is typed belongs into a console or sh block"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_a_block_needs_is_on_the_list(page: Path) -> None:
    """A block is kept from being run for reasons that are known, and only a block with commands has any."""
    told = read_page(page.read_text("utf-8"))
    for block in told.blocks:
        assert set(block.needs) <= set(NEEDS), f"{page_name(page)}, line {block.line}"
        assert block.steps or not block.needs, f"{page_name(page)}, line {block.line}"
    assert told.setup is None or (SETUPS / f"{told.setup}.sh").exists()


@pytest.mark.parametrize("page", [page for page in PAGES if _kept(page)], ids=page_name)
def test_commands_that_are_not_run_are_right_in_form(page: Path) -> None:
    """The command line takes their options and arguments, and the Makefile has their targets."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for step in _kept(page):
        for words in _calls(step.command):
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= targets, f"line {step.line}"
            else:
                _parse(words[1:], f"{page_name(page)}, line {step.line}: {step.command}")


def _calls(command: str) -> Iterator[list[str]]:
    """The words of each call of ours, from the program's name to the end of the call."""
    lexer = shlex.shlex(command.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    before = ";"
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|<>()"):
            if words:
                yield words
            words = []
        elif (
            words
            or word.endswith("/bin/mira-stream")
            or (word in ("make", "mira-stream") and (before == "sudo" or set(before) <= set(";&|()")))
        ):
            words.append(word)
        before = word


def _parse(words: list[str], where: str) -> None:
    command, rest = typer.main.get_command(app), list(words)
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    try:
        with command.make_context("mira-stream", rest):
            pass
    except typer.Exit:
        pass
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{where}: {error}") from error
