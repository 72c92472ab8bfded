"""Wall clocks that jump under a running daemon, by libfaketime; the steady clock goes on, as it does in the kernel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import running
from tests.e2e.harness import Lab, conversation
from tests.e2e.simulators import Simulator
from tests.e2e.test_world import assert_calm
from tests.system.machine import library


class Clock:
    """The wall clock of the processes that are started with it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump("+0")

    def jump(self, away: str) -> None:
        """So far from the true time, as `+2d` or `-3h`, at once."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{away}\n", "ascii")
        part.rename(self._file)

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """Processes that are started inside have this clock."""
        own = {
            "LD_PRELOAD": str(library("libfaketimeMT.so.1")),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                del os.environ[name]


@pytest.mark.parametrize(("first", "second"), [("+2d", "-2d"), ("-3d", "+0"), ("+400d", "+0")])
def test_the_wall_clock_jumps_there_and_back(tmp_path: Path, first: str, second: str) -> None:
    """What lands before, between and after is found and scored, once, and the daemon stays calm."""
    lab, clock = Lab(tmp_path), Clock(tmp_path / "clock")
    with Simulator(tmp_path / "requests.log").start() as sim:
        lab.configure([sim.url], sink={"roll_seconds": 0.3}, log={"level": "info"})
        with clock.for_children(), running(lab) as daemon:
            for number, away in enumerate(("+0", first, second), 1):
                clock.jump(away)
                lab.land(f"claude_cli/{number}.jsonl", conversation(f"Number {number}."))
                daemon.until_scored(number)
                assert_calm(daemon, seconds=2, share=0.9)  # every look at this clock reads a file
            assert daemon.terminate() == 0
        assert len(lab.audited()) == len(sim.requests()) == 3
        years = {row["scored_at"][:10] for row in lab.rows()}
        assert len(years) > 1, "the clock did not jump"
