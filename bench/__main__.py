"""`python -m bench [name …]`: run the benchmarks, print a table, write bench/results/."""

import json
import sys
from pathlib import Path

from bench.macro import end_to_end, loop_stall, memory, million_objects, old_ledger, sick_fleet, soak
from bench.macro.admission import goodput, learning
from bench.micro import counting, floor, streaming
from bench.peers import compare
from bench.report import about_run, table

RESULTS = Path(__file__).parent / "results"
PLOTS = RESULTS / "plots"
BENCHMARKS = {
    "end_to_end": end_to_end.measure,
    "loop_stall": loop_stall.measure,
    "memory": memory.measure,
    "floor": floor.measure,
    "peers": compare.measure,
    "counting": counting.measure,
    "streaming": streaming.measure,
    "admission_goodput": lambda: goodput.measure(PLOTS),
    "admission_learning": learning.learning,
    "admission_budget": learning.budget,
    "admission_disturbed": learning.disturbed,
    "sick_fleet": sick_fleet.measure,
    "million_objects": million_objects.measure,
    "old_ledger": old_ledger.measure,
    "soak": soak.measure,
}
LONG = {"soak"}
"""Run only where they are named."""


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    chosen = names or [name for name in BENCHMARKS if name not in LONG]
    about = about_run(" ".join(["python -m bench", *names]))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{about['date']}-{about['commit']}.json"
    for name in chosen:
        # Each is written when it is there: a run of many minutes that is cut off keeps what it has.
        result = {name: BENCHMARKS[name]()}
        before = json.loads(path.read_text("utf-8")) if path.exists() else {}
        before.pop("about", None)
        every = before | result
        path.write_text(json.dumps({"about": about, **every}, indent=2) + "\n", "utf-8")
        path.with_suffix(".md").write_text(table(about, every) + "\n", "utf-8")
        print(table(about, result))


if __name__ == "__main__":
    main(sys.argv[1:])
