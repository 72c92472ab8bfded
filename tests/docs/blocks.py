"""The commands that a page tells to type, and what it says they print.

A fenced block is `console` (lines that begin with `$ ` are typed, the others are what comes out) or `sh` (everything is
typed, what comes out is not shown). In the output `…` stands for anything on its line, a line of only `…` for any lines.
An HTML comment on the line before a block says what is special about it, and readers of the page do not see it:

    <!-- needs: systemd -->         not run by `make test`: it wants what NEEDS says
    <!-- exits: 1 -->               its last command ends with that code

Comments anywhere in a page: `<!-- ports: 8001 9464 -->` are ports that the test exchanges for free ones,
`<!-- setup: running -->` is a script of `tests/docs/setups/` that brings about what the page takes for granted.
"""

import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

NEEDS = {
    "browser": "a browser in front of a person",
    "checkout": "a clone of the repository, where its targets install packages and run for minutes",
    "ctrl-c": "somebody who ends it",
    "gpu": "a machine with GPUs and a model",
    "grafana": "a Grafana server",
    "kubernetes": "a cluster",
    "lake": "the reader's own lake and configuration",
    "minutes": "more minutes than tests may take",
    "network": "a package index or another machine",
    "prometheus": "a Prometheus server",
    "replicas": "vLLM servers",
    "systemd": "systemd as the service manager, and root",
}
_BLOCK = re.compile(
    r"(?P<marks>(?:^[ ]*<!--[^\n]*-->\n)*)^(?P<indent>[ ]*)```(?P<language>[^\n`]*)\n(?P<body>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!--\s*(needs|exits|ports|setup):\s*(.*?)\s*-->")


class Step(NamedTuple):
    """One command, the line of the page it stands on, and what it prints: None where the page does not show it."""

    line: int
    command: str
    output: str | None
    exits: int


class Block(NamedTuple):
    """One fenced block. `line` is that of its first line of text, counted from 1."""

    line: int
    language: str
    text: str
    needs: tuple[str, ...]
    exits: int

    @property
    def steps(self) -> list[Step]:
        """Its commands, in order; none of a block in another language."""
        match self.language:
            case "sh":
                steps = [Step(line, command, None, 0) for line, command in _commands(self.text, self.line)]
            case "console":
                steps = list(_dialogue(self.text, self.line))
            case _:
                return []
        if steps:
            steps[-1] = steps[-1]._replace(exits=self.exits)
        return steps


class Page(NamedTuple):
    """What a page tells to type."""

    blocks: list[Block]
    ports: tuple[str, ...]
    setup: str | None


def read_page(text: str) -> Page:
    """The blocks of a page of Markdown, and what it says for the whole of itself."""
    told = {name: value for name, value in _MARK.findall(text) if name in ("ports", "setup")}
    return Page(list(_blocks(text)), tuple(told.get("ports", "").split()), told.get("setup"))


def _blocks(text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        marks = dict(_MARK.findall(found["marks"]))
        indent = len(found["indent"])
        yield Block(
            line=text.count("\n", 0, found.start("body")) + 1,
            language=found["language"].strip(),
            text="".join(line[indent:] for line in found["body"].splitlines(keepends=True)),
            needs=tuple(need.strip() for need in marks.get("needs", "").split(",") if need.strip()),
            exits=int(marks.get("exits", "0")),
        )


def _dialogue(text: str, first: int) -> Iterator[Step]:
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        assert lines[at].startswith("$ "), f"line {first + at} is output before any command: {lines[at]}"
        begun, typed = at, [lines[at][2:]]
        at += 1
        while not _is_whole("\n".join(typed)) and at < len(lines):
            typed.append(lines[at].removeprefix("> "))
            at += 1
        printed = []
        while at < len(lines) and not lines[at].startswith("$ "):
            printed.append(lines[at])
            at += 1
        yield Step(first + begun, "\n".join(typed), "\n".join(printed).strip("\n"), 0)


def _commands(text: str, first: int) -> Iterator[tuple[int, str]]:
    typed: list[str] = []
    for at, line in enumerate(text.splitlines()):
        if not typed and (not line.strip() or line.lstrip().startswith("#")):
            continue
        typed.append(line)
        if _is_whole("\n".join(typed)):
            yield first + at - len(typed) + 1, "\n".join(typed)
            typed = []
    assert not typed, f"line {first}: this is no whole command: {typed}"


def _is_whole(command: str) -> bool:
    """Whether bash would run it, and not ask for more of a loop, a quotation or a here-document."""
    if command.endswith("\\"):
        return False
    told = subprocess.run(["bash", "-n"], input=command + "\n", capture_output=True, text=True, check=False)
    return told.returncode == 0 and not told.stderr


def as_pattern(output: str) -> re.Pattern[str]:
    """What the page shows as a pattern for what is printed, without spaces at line ends."""
    parts = []
    for line in output.splitlines():
        if line.strip() == "…":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(re.escape(line.rstrip()).replace("…", r"[^\n]*") + r"\n")
    return re.compile("".join(parts))
