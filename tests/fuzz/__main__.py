"""`make fuzz SECONDS=…`: every target in turn under atheris; what it finds is kept, and repeated by one command."""

import argparse
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

FOLDER = Path(__file__).parents[2] / "build" / "fuzz"
_INPUT_BYTES_MAX = 64 << 10
_MEMORY_MB = 2048
_ONE_INPUT_SECONDS = 10
_END_SECONDS = 120


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"default: all of {', '.join(TARGETS)}")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    found = [name for name in names if not fuzz(name, given.seconds)]
    print(
        f"{len(names)} targets, {given.seconds} s each: "
        + (f"found in {', '.join(found)}" if found else "nothing found")
    )
    return 1 if found else 0


def fuzz(name: str, seconds: int) -> bool:
    """Whether a target keeps its promise for so long; its corpus grows from run to run."""
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds(name):
        (corpus / sha256(data).hexdigest()[:40]).write_bytes(data)
    log = FOLDER / f"{name}.log"
    options = [
        f"-max_total_time={seconds}", f"-timeout={_ONE_INPUT_SECONDS}", f"-rss_limit_mb={_MEMORY_MB}",
        f"-max_len={_INPUT_BYTES_MAX}", f"-artifact_prefix={FOLDER}/{name}-",
    ]  # fmt: skip
    command = [sys.executable, "-m", "tests.fuzz.one", name, *options, str(corpus)]
    with log.open("wb") as stderr:
        done = subprocess.run(
            command, stdout=stderr, stderr=stderr, timeout=seconds + _END_SECONDS, check=False, env=os.environ
        )
    said = log.read_text("utf-8", "replace").splitlines()
    if done.returncode == 0:
        last = next((line for line in reversed(said) if line.startswith("Done ")), "")
        print(f"{name}: {last.lower() or 'done'}", flush=True)
        return True
    inputs = [line.rpartition(" ")[2] for line in said if "Test unit written to" in line]
    print("\n".join([f"{name}: found something", *said[-40:]]), flush=True)
    print(f"again: {sys.executable} -m tests.fuzz.one {name} {' '.join(inputs)}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
