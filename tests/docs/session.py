"""A page's commands, typed by a stranger: one shell, an empty folder, no other variables than a login has."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.docs.blocks import Step, as_pattern

SETUPS = Path(__file__).parent / "setups"
_SECONDS_MAX = 120.0


def free_ports(wanted: Sequence[str]) -> dict[str, str]:
    """Another port for each, that nobody listens on; all are held until the last is found, so they differ."""
    with ExitStack() as held:
        found = {}
        for port in wanted:
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found[port] = str(listener.getsockname()[1])
        return found


def type_in(steps: Sequence[Step], *, folder: Path, ports: Mapping[str, str]) -> str | None:
    """Run the steps in `folder / "page"`: what first went otherwise than the page says, None if all is well.

    `ports` are exchanged in what is typed and shown; scripts find them as `PORT_<as written>`.
    """
    page, notes = folder / "page", folder / "typed"
    page.mkdir()
    notes.mkdir()
    typed = [step._replace(command=_with(step.command, ports)) for step in steps]
    for number, step in enumerate(typed):
        (notes / f"{number}.sh").write_text(step.command + "\n")
    script = "".join(
        f'. "{notes}/{number}.sh" > "{notes}/{number}.out" 2>&1; echo $? > "{notes}/{number}.rc"\n'
        f'[ "$(cat "{notes}/{number}.rc")" = {step.exits} ] || exit 1\n'
        for number, step in enumerate(typed)
    )
    _run(script, page, _environment(page) | {f"PORT_{port}": other for port, other in ports.items()})
    problems = (_problem(step, notes / str(number), ports) for number, step in enumerate(typed))
    return next((problem for problem in problems if problem is not None), None)


def _run(script: str, folder: Path, environment: Mapping[str, str]) -> None:
    """To its end, or until its time is up. Whatever it left running ends with it."""
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with suppress(subprocess.TimeoutExpired):
            shell.wait(_SECONDS_MAX)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def _environment(folder: Path) -> dict[str, str]:
    programs = Path(sys.executable).parent
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder.parent),
        "LANG": "C.UTF-8",
        "COLUMNS": "100",
        "TERM": "dumb",
        "SETUPS": str(SETUPS),
    }


def _problem(step: Step, notes: Path, ports: Mapping[str, str]) -> str | None:
    where = f"line {step.line}: {step.command}"
    code, out = notes.with_suffix(".rc"), notes.with_suffix(".out")
    printed = _plain(out.read_text("utf-8", "replace")) if out.exists() else ""
    if not code.exists():
        return f"{where}\nit did not end within {_SECONDS_MAX:.0f} seconds of the page's start; until then it had printed\n{printed}"
    if int(code.read_text()) != step.exits:
        return f"{where}\nended with {code.read_text().strip()}, not {step.exits}, and printed\n{printed}"
    if step.output is None or as_pattern(_with(step.output, ports)).fullmatch(printed):
        return None
    return f"{where}\nthe page shows\n{step.output}\nit printed\n{printed}"


def _plain(printed: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())


def _with(text: str, ports: Mapping[str, str]) -> str:
    for port, other in ports.items():
        text = re.sub(rf"\b{port}\b", other, text)
    return text
