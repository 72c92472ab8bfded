"""A chaos run is rounds of a hundred kills, each on a lake of its own, so that one round can be repeated alone."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.chaos.crash import CrashRound, Tally
from tests.chaos.rivals import RivalRound, RivalTally
from tests.chaos.scene import StoreKind, World, scene

KILLS_PER_ROUND = 100
_RIVAL_SHARE = 5


class Round(NamedTuple):
    """So many kills of a lone daemon, and so many among rivals."""

    number: int
    alone: int
    among_rivals: int


class Run(NamedTuple):
    """What is asked for."""

    seed: int
    kills: int
    store: StoreKind

    def rounds(self) -> Iterator[Round]:
        """All rounds, in order."""
        for number, first in enumerate(range(0, self.kills, KILLS_PER_ROUND)):
            kills = min(KILLS_PER_ROUND, self.kills - first)
            yield Round(number, kills - kills // _RIVAL_SHARE, kills // _RIVAL_SHARE)

    def repeat(self, number: int) -> str:
        """The command that plays one round again."""
        return f"make chaos SEED={self.seed} KILLS={self.kills} STORE={self.store} ROUND={number}"


class Broken(AssertionError):
    """A round failed: what went wrong, where its files are, and how to play it again."""

    def __init__(self, run: Run, number: int, folder: Path, problem: AssertionError) -> None:
        super().__init__(
            f"{problem}\n\nseed {run.seed}, round {number}; its files are in {folder}\n"
            f"repeat it with: {run.repeat(number)}"
        )


def play(run: Run, world: World, one: Round, *, tally: Tally, rivals: RivalTally) -> None:
    """One round. Raises Broken."""
    folder = Path(tempfile.mkdtemp(prefix=f"mira-chaos-{run.seed}-{one.number}-"))
    try:
        with scene(world, f"{run.seed}/{one.number}/alone", folder / "alone") as alone:
            CrashRound(alone, tally).run(one.alone)
        with scene(world, f"{run.seed}/{one.number}/rivals", folder / "rivals") as many:
            RivalRound(many, rivals).run(one.among_rivals)
    except AssertionError as problem:
        raise Broken(run, one.number, folder, problem) from problem
    folder.rmdir()
