"""A record on its way through a pool, what the pool is, and what all pools share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from mira_stream.control.retry import History
from mira_stream.control.score_counts import ScoreCounts
from mira_stream.control.window import Candidate
from mira_stream.pipeline.account import Account
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.draft import Prepared, Prompting
from mira_stream.pipeline.rows import Fingerprints, RowMaker
from mira_stream.ports import Clock
from mira_stream.telemetry.meters import Meters

CANNED_RECORD = (
    "=== user ===\nPrint the second line of notes.txt.\n\n=== assistant ===\n[tool call #1 shell]\n"
    "command: sed -n 2p notes.txt\n\n=== tool result #1 shell ===\nbuy milk\n\n=== assistant ===\n"
    "The second line is: buy milk"
)
"""A harmless record, written for this project."""


class PoolIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool is: its group, the model its replicas serve, how it asks, how often it asks again.

    `canned` is the body of a harmless record: who answers it works, and accepts our settings. `warm_up` is the body of
    what all its prompts begin with, and as little more as can be.
    """

    group: str
    model: str
    prompting: Prompting
    fingerprints: Fingerprints
    canned: bytes
    warm_up: bytes
    reasks_max: int


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What all pools share."""

    committer: Committer
    rows: RowMaker
    account: Account
    meters: Meters
    clock: Clock
    jitter: Callable[[], float]
    scores: ScoreCounts = msgspec.field(default_factory=ScoreCounts)


class PoolRequest:
    """A record in a pool, and what has happened to it so far.

    Most of the time it is in flight once. Hedged, it is in flight twice, and whichever attempt brings an outcome
    first has `ended` it: the other one is given up.
    """

    __slots__ = ("_scopes", "attempts", "body", "ended", "flying", "history", "prepared", "reasks")

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.body = prepared.body
        self.history = History()
        self.reasks = 0
        self.attempts = 0
        self.ended = False
        self.flying: dict[str, float] = {}
        """When each attempt in flight was sent, by replica."""
        self._scopes: set[asyncio.Timeout] = set()

    @property
    def overtaken(self) -> bool:
        """Whether the outcome of one attempt is no longer asked for: another has ended it, or may still."""
        return self.ended or len(self.flying) > 1

    @property
    def only_flight(self) -> tuple[str, float] | None:
        """Replica and time of the only attempt in flight; None if there is none, or two, or an outcome.

        None too for a suspect: what a replica may have crashed over is not taken to a second one meanwhile.
        """
        if self.ended or self.history.is_suspect or len(self.flying) != 1:
            return None
        return next(iter(self.flying.items()))

    def candidate(self, ticket: int, *, avoid: str) -> Candidate:
        """The record as one that is sent again while it is in flight at `avoid`."""
        return Candidate(
            ticket=ticket, prompt_tokens=self.prepared.prompt_tokens, retry=True, avoid=frozenset({avoid})
        )

    def end(self) -> None:
        """An attempt has brought the outcome: give the others up."""
        self.ended = True
        self.give_up()

    def give_up(self) -> None:
        """Leave all attempts in flight."""
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)

    @asynccontextmanager
    async def attempt(self, *, given_up: bool) -> AsyncIterator[None]:
        """Raises TimeoutError out of the block when it is given up or has been, or another attempt has ended it."""
        async with asyncio.timeout(0 if given_up or self.ended else None) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
