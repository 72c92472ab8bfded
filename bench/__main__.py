"""`python -m bench [name …]`: run the benchmarks, print a table, write bench/results/."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.macro import end_to_end, loop_stall, memory

BENCHMARKS = {"end_to_end": end_to_end.measure, "loop_stall": loop_stall.measure, "memory": memory.measure}
RESULTS = Path(__file__).parent / "results"


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    chosen = names or list(BENCHMARKS)
    about = {
        "command": " ".join(["python -m bench", *names]),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
    }
    results = {name: BENCHMARKS[name]() for name in chosen}
    text = _table(about, results)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{about['date']}-{about['commit']}"
    stem.with_suffix(".json").write_text(json.dumps({"about": about, **results}, indent=2) + "\n", "utf-8")
    stem.with_suffix(".md").write_text(text + "\n", "utf-8")


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "mira_stream", "bench/macro", "anchors")
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU"
    )


def _table(about: dict[str, str], results: dict[str, dict[str, object]]) -> str:
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
            if isinstance(value, dict):
                shown = f"{value['median']} [{value['min']}..{value['max']}]"
            lines.append(f"| {figure} | {shown} |")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    main(sys.argv[1:])
