"""The reader of pages sees every command, and a page that is wrong fails."""

import pytest

from tests.docs.blocks import Step, as_pattern, read_page
from tests.docs.session import free_ports, type_in

PAGE = """\
# A page
<!-- ports: 8001 9464 -->

```console
$ echo one; echo two
one
…
$ cat <<'END'
> a
> END
a
```

<!-- needs: systemd, network -->
```sh
# first of all
sudo true
for n in 1 2; do
  echo $n
done
```

1. <!-- exits: 3 -->

   ```toml
   key = 1
   ```
"""


def test_commands_and_what_they_print_are_told_apart() -> None:
    """Prompts, continuations and here-documents are typed, the rest is what comes out."""
    console, shell, config = read_page(PAGE).blocks
    assert console.steps == [
        Step(5, "echo one; echo two", "one\n…", 0),
        Step(8, "cat <<'END'\na\nEND", "a", 0),
    ]
    assert [step.command for step in shell.steps] == ["sudo true", "for n in 1 2; do\n  echo $n\ndone"]
    assert (config.language, config.text, config.steps) == ("toml", "key = 1\n", [])


def test_what_a_block_needs_is_its_own() -> None:
    """A mark holds for the block right below it, and ports for the page."""
    page = read_page(PAGE)
    assert [block.needs for block in page.blocks] == [(), ("systemd", "network"), ()]
    assert page.ports == ("8001", "9464")


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        ("a … c", "a b c\n", True),
        ("a … c", "a\nc\n", False),
        ("a\n…\nc", "a\nc\n", True),
        ("a\n…\nc", "a\nb\nb\nc\n", True),
        ("a\n…\nc", "a\nb\n", False),
        ("a.c", "abc\n", False),
        ("", "", True),
        ("", "a\n", False),
    ],
    ids=[
        "within",
        "not across lines",
        "no line",
        "lines",
        "missing end",
        "no pattern",
        "silent",
        "not silent",
    ],
)
def test_what_is_shown_stands_for_what_is_printed(shown: str, printed: str, fits: bool) -> None:
    """`…` is anything on a line, or any lines; all else is meant as it stands."""
    assert bool(as_pattern(shown).fullmatch(printed)) is fits


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Step(7, "echo other", "one", 0), "line 7: echo other\nthe page shows\none\nit printed\nother"),
        (Step(7, "false", None, 0), "line 7: false\nended with 1, not 0"),
        (Step(7, "true", None, 1), "line 7: true\nended with 0, not 1"),
        (Step(7, "exit", None, 0), "line 7: exit\nit did not end"),
        (Step(7, "cat < nothing", "", 0), "No such file"),
    ],
    ids=["output", "failed", "not failed", "left", "stderr"],
)
def test_a_page_that_is_wrong_fails(tmp_path, step: Step, problem: str) -> None:
    """Other output, another exit code, or a shell that is gone: told with the page's line."""
    told = type_in([Step(1, "true", None, 0), step], folder=tmp_path, ports={})
    assert told is not None
    assert problem in told


def test_a_page_keeps_its_shell_and_gets_free_ports(tmp_path) -> None:
    """Variables, folders and jobs outlive a command, and no port of the page is used."""
    steps = [
        Step(1, "mkdir a; cd a; name=here", "", 0),
        Step(2, "sleep 60 &", None, 0),
        Step(3, 'echo "$name ${PWD##*/} 8001 $PORT_8001"', "here a 8001 8001", 0),
        Step(4, "kill %1; wait %1", None, 143),
    ]
    ports = free_ports(["8001"])
    assert ports["8001"] != "8001"
    assert type_in(steps, folder=tmp_path, ports=ports) is None
