"""What others read of ours, read by their own programs: segments by zstdcat, metrics by promtool, units by systemd."""

import json
import subprocess
from pathlib import Path

from tests.e2e.daemon import running
from tests.e2e.harness import Lab, conversation, replicas
from tests.system.machine import program

UNITS = Path(__file__).parents[2] / "ops" / "systemd"


def test_zstdcat_reads_a_segment(tmp_path: Path) -> None:
    """All rows, whole lines, and no complaint about the trailer behind them."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", b"".join(conversation(f"Task {number}.") for number in range(20)))
    with replicas(count=1) as urls:
        lab.configure(urls)
        rows = lab.scored()
    files = [str(lab.scores / name) for name, _ in lab.segments()]
    shown = subprocess.run([program("zstdcat"), *files], capture_output=True, check=True)
    assert shown.stderr == b""
    assert [json.loads(line) for line in shown.stdout.splitlines()] == rows


def test_promtool_accepts_the_metrics(tmp_path: Path) -> None:
    """`promtool check metrics` finds nothing to say about the page of a running daemon."""
    lab = Lab(tmp_path)
    lab.land("claude_cli/a.jsonl", conversation("A task."))
    with replicas(count=1) as urls:
        lab.configure(urls, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until_scored(1)
            page = daemon.get("/metrics")[1]
    check = subprocess.run(
        [program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` knows every setting in them."""
    for unit in UNITS.glob("*.service"):
        text = unit.read_text("utf-8")
        # The programs and users of a real installation are not here.
        kept = [line for line in text.splitlines() if not line.startswith(("User=", "Group="))]
        copy = tmp_path / unit.name
        copy.write_text("\n".join(_with_programs_here(kept)) + "\n", "utf-8")
        done = subprocess.run(
            [program("systemd-analyze"), "verify", "--man=no", str(copy)],
            capture_output=True,
            text=True,
            check=False,
        )
        complaints = [line for line in done.stderr.splitlines() if str(copy) in line or unit.name in line]
        assert complaints == []


def _with_programs_here(lines: list[str]) -> list[str]:
    return [f"{line.split('=')[0]}=/bin/true" if line.startswith("Exec") else line for line in lines]
