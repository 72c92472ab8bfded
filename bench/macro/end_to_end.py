"""Client CPU per record, exact counts: beside the frozen reference loop, the floor of its own stages, and 512 in flight."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.corpus import records, write_lake
from bench.macro.client import run_client, write_config
from bench.macro.instant_replica import MODEL, instant_replica, most_held
from bench.micro.floor import stages_us
from tests.fakes.qwen import write_qwen

_CONTEXT_TOKENS = (
    1 << 20
)  # so that no record is cut: the reference sends them whole, and no stage of the floor cuts
_COUNTING = ("count",)
_RENDERING = ("decode", "render")
_SECONDS_AT_64 = 0.5


def measure(*, runs: int = 5, copies: int = 3) -> dict[str, object]:
    """Runs in turn; CPU is user + system of the client and of the process that counts for it, the cost of starting and
    ending (an empty lake) taken off."""
    lines = records()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokenizer = write_qwen(root / "tokenizer")
        count = write_lake(root / "lake", lines, copies=copies, objects=8)
        (root / "empty" / "lake").mkdir(parents=True)
        with instant_replica(tokenizer=tokenizer, context_tokens=_CONTEXT_TOKENS) as url:
            bench = _Bench(root, url, tokenizer, count)
            bench.product()  # the replica counts what it has not seen
            figures = [bench.once() for _ in range(runs)]
    return {"records": count, "mean_record_bytes": sum(map(len, lines)) * copies // count} | _summary(figures)


class _Bench:
    """One lake, one replica, one tokenizer. Costs are µs per record."""

    def __init__(self, root: Path, url: str, tokenizer: Path, count: int) -> None:
        self._root = root
        self._url = url
        self._tokenizer = tokenizer
        self._count = count

    def once(self) -> dict[str, float]:
        """Every figure once, in turn."""
        floor = stages_us(self._config(self._root, self._url), self._root / "lake", self._root)
        start_own, start_helpers = self._spent(self._root / "empty", self._url)
        own, helpers = self.product()
        at_64 = self._held(64)
        at_512 = self._held(512)
        figures = {f"floor.{name}": value for name, value in floor.items()}
        figures |= {
            "product": (own + helpers - start_own - start_helpers),
            "product_without_counting": own - start_own,
            "reference": self._reference(),
            "floor": sum(floor.values()),
            "at_64": at_64 - start_own - start_helpers,
            "at_512": at_512 - start_own - start_helpers,
            "start": (start_own + start_helpers),
        }
        rendering = sum(floor[name] for name in _RENDERING)
        figures["of_floor"] = figures["floor"] / figures["product"]
        figures["to_reference"] = (figures["product_without_counting"] - rendering) / figures["reference"]
        figures["to_reference_all_in"] = figures["product"] / figures["reference"]
        figures["at_512_to_64"] = figures["at_512"] / figures["at_64"]
        return figures

    def product(self) -> tuple[float, float]:
        """The client's own cost and that of its helpers, of scoring all there is."""
        return self._spent(self._root, self._url)

    def _held(self, in_flight: int) -> float:
        """The same with so many in flight: each answer is held back long enough for that."""
        seconds = _SECONDS_AT_64 * in_flight / 64
        most_held(self._url)
        cost = sum(self._spent(self._root, f"{self._url}/held/{seconds}", in_flight=in_flight))
        most = most_held(self._url)
        assert most == in_flight, f"{most} were in flight, not {in_flight}"
        return cost

    def _spent(self, root: Path, url: str, *, in_flight: int = 64) -> tuple[float, float]:
        cost = run_client(self._config(root, url, in_flight=in_flight))
        return cost.own / self._count * 1e6, cost.helpers / self._count * 1e6

    def _config(self, root: Path, url: str, *, in_flight: int = 64) -> Path:
        return write_config(
            root, url, in_flight=in_flight, tokenizer=self._tokenizer, context_tokens=_CONTEXT_TOKENS
        )

    def _reference(self) -> float:
        files = sorted((self._root / "lake").rglob("*.zst"))
        seconds, told = _reference(files, self._root, self._url)
        assert told == self._count, f"the reference read {told} of {self._count} records"
        return (seconds - _reference([], self._root, self._url)[0]) / self._count * 1e6


def _reference(files: list[Path], root: Path, url: str) -> tuple[float, int]:
    out = root / "reference.zst"
    command = [sys.executable, "-m", "bench.macro.reference_loop", url, MODEL, str(out), *map(str, files)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    told = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"the reference ended with {child.returncode}"
    return usage.ru_utime + usage.ru_stime, int(json.loads(told)["records"])


def _summary(figures: list[dict[str, float]]) -> dict[str, object]:
    """Median and range of each figure; ratios are taken within each run."""
    return {name: _spread([one[name] for one in figures]) for name in figures[0]}


def _spread(values: list[float]) -> dict[str, float]:
    digits = 2 if max(values) < 20 else 0
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }
