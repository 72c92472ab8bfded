"""The unit's sandbox: whatever the daemon asks of the kernel is allowed, and little else."""

import os
import re
import subprocess
from pathlib import Path

from tests.e2e.harness import CLI, Lab, conversation, environment, replicas
from tests.system.machine import program

UNIT = Path(__file__).parents[2] / "ops" / "systemd" / "mira-stream.service"
_EXPOSURE_MAX = 2.0


def _settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)


def _calls(group: str) -> set[str]:
    """The system calls of a group of systemd's, those of the groups in it included."""
    done = subprocess.run(
        [program("systemd-analyze"), "syscall-filter", group], capture_output=True, text=True, check=True
    )
    found: set[str] = set()
    for line in done.stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= _calls(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def _allowed() -> set[str]:
    allowed: set[str] = set()
    for line in _settings("SystemCallFilter"):
        names = {
            call for name in line.lstrip("~").split() for call in (_calls(name) if name[0] == "@" else {name})
        }
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def test_every_system_call_of_a_run_is_allowed(tmp_path: Path) -> None:
    """From start to end, local stores, replicas and the HTTP endpoints."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", b"".join(conversation(f"Task {number}.") for number in range(20)))
    trace = tmp_path / "calls"
    with replicas(count=1) as urls:
        lab.configure(urls)
        command = [program("strace"), "-f", "-c", "-S", "name", "-o", str(trace)]
        command += [*CLI, "run", "--once", "--config", str(lab.config)]
        subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=55)
    assert len(lab.audited()) == 20
    asked = set(re.findall(r"^ *\d.* ([a-z_0-9]+)$", trace.read_text("utf-8"), re.MULTILINE)) - {"total"}
    assert "prlimit64" in asked
    if os.geteuid() == 0:
        asked.discard("fchown")  # SQLite gives its files away, where it is root
    assert sorted(asked - _allowed()) == []


def test_the_unit_exposes_little(tmp_path: Path) -> None:
    """As systemd itself judges it; no core files."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8"), "utf-8")
    judged = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", str(copy)],
        capture_output=True,
        text=True,
        check=True,
    )
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert float(level) <= _EXPOSURE_MAX
    assert _settings("LimitCORE") == ["0"]
