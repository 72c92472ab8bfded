"""How measured figures are written down: what they are of, and a page that people can read."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def about_run(command: str) -> dict[str, str]:
    """What a run of `command` measures, when, and on what machine."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "mira_stream", "bench/macro", "anchors")
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU"
    )


def table(about: Mapping[str, str], results: Mapping[str, Mapping[str, object]]) -> str:
    """All of it as a page of Markdown."""
    lines = [
        f"# {about['date']}, commit {about['commit']}",
        "",
        f"`{about['command']}` on {about['machine']}",
        "",
    ]
    for name, figures in results.items():
        lines += [f"## {name}", "", "| figure | value |", "|---|---|"]
        for figure, value in figures.items():
            shown = "; ".join(map(str, value)) if isinstance(value, list) else value
            if isinstance(value, dict) and "median" in value:
                shown = f"{value['median']} [{value['min']}..{value['max']}]"
            elif isinstance(value, dict):
                shown = "; ".join(f"{name} {one}" for name, one in value.items())
            lines.append(f"| {figure} | {shown} |")
        lines.append("")
    return "\n".join(lines).rstrip()
