"""`python -m tests.chaos --seed 1 --kills 100 --store local`: kill the daemon again and again, and count its records."""

import argparse
import sys
from pathlib import Path

from tests.chaos.crash import Tally
from tests.chaos.processes import Stopwatch
from tests.chaos.report import figures, write
from tests.chaos.rivals import RivalTally
from tests.chaos.rounds import Broken, Run, play
from tests.chaos.scene import world


def main() -> None:
    """Exit code 1 if a promise was broken."""
    asked = _arguments()
    run = Run(asked.seed, asked.kills, asked.store)
    tally, rivals, clock = Tally(), RivalTally(), Stopwatch()
    with world(run.store) as shared:
        for one in run.rounds():
            if asked.round not in (None, one.number):
                continue
            try:
                play(run, shared, one, tally=tally, rivals=rivals)
            except Broken as broken:
                sys.exit(f"BROKEN: {broken}")
            killed = tally.kills.total() + rivals.kills.total()
            print(f"round {one.number}: {killed} kills so far, {clock.seconds:.0f} s", flush=True)
    found = figures(tally, rivals, seconds=clock.seconds)
    for section, values in found.items():
        print(section)
        for name, value in values.items():
            print(f"  {name:<42} {value}")
    if asked.record is not None:
        print(
            write(
                asked.record,
                f"make chaos SEED={run.seed} KILLS={run.kills} STORE={run.store}",
                run.store,
                found,
            )
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--round", type=int, help="play this round alone")
    parser.add_argument("--record", type=Path, help="folder that gets the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
