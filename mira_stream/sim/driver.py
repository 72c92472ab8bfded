"""Plays the engine against the wall clock: modelled seconds times `time_scale` are wall seconds.

It lives in timer callbacks of the event loop, so it has no task of its own. A burst of steps that are due is computed
in one callback of bounded length; results are late by up to a millisecond of wall time and never early.
"""

import asyncio

from mira_stream.sim.engine import Engine, Step
from mira_stream.sim.engine_metrics import EngineMetrics
from mira_stream.sim.sequence import Phase, Sequence

_WAKE_SECONDS = 0.001  # timers finer than this cost more than they tell
_BURST_SECONDS = 0.002


class EngineDead(Exception):
    """The engine died, or was stopped, with this request in flight."""


class Ticket:
    """The sequences of one request. `done` ends with the last of them, or with EngineDead.

    `progress` is set whenever one of them has new tokens; None if nobody follows them.
    """

    __slots__ = ("done", "finish_reasons", "left", "progress", "sequences")

    def __init__(self, sequences: list[Sequence], finish_reasons: list[str], *, follow: bool) -> None:
        assert sequences
        self.sequences = sequences
        self.finish_reasons = dict(zip(sequences, finish_reasons, strict=True))
        self.left = len(sequences)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.progress = asyncio.Event() if follow else None


class Driver:
    """Runs one engine of a server. Synchronous: call it on the event loop's thread."""

    def __init__(self, engine: Engine, metrics: EngineMetrics, *, time_scale: float) -> None:
        assert time_scale > 0
        self._engine = engine
        self._metrics = metrics
        self._scale = time_scale
        self._loop = asyncio.get_running_loop()
        self._epoch = self._loop.time()
        self._tickets: dict[Sequence, Ticket] = {}
        self._followed: dict[Sequence, asyncio.Event] = {}
        self._timer: asyncio.Handle | None = None
        self._step: Step | None = None  # the step in progress
        self._clock = 0.0  # modelled time up to which steps were played
        self._dead = False

    @property
    def engine(self) -> Engine:
        """The engine that is played."""
        return self._engine

    def now(self) -> float:
        """Modelled seconds since the start."""
        return (self._loop.time() - self._epoch) / self._scale

    def submit(self, sequence: Sequence, ticket: Ticket) -> None:
        """Queue one sequence of a request. Raises EngineDead."""
        if self._dead:
            raise EngineDead
        self._tickets[sequence] = ticket
        if ticket.progress is not None:
            self._followed[sequence] = ticket.progress
        self._engine.submit(sequence)
        if self._timer is None:
            # Not at once: what arrives in the same turn of the loop shares the first step.
            self._timer = self._loop.call_soon(self._play)

    def withdraw(self, ticket: Ticket) -> None:
        """The client has left: drop what is here of its request and not finished."""
        for sequence in ticket.sequences:
            if self._tickets.pop(sequence, None) is not None:
                self._followed.pop(sequence, None)
                self._engine.abort(sequence)
        self._metrics.look(self._engine)

    def die(self) -> None:
        """Stop for good; everything in flight ends with EngineDead. Idempotent."""
        self._dead = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ticket in set(self._tickets.values()):
            if not ticket.done.done():
                ticket.done.set_exception(EngineDead())
                ticket.done.exception()  # whoever waits gets it too; nobody may be waiting
            if ticket.progress is not None:
                ticket.progress.set()
        self._tickets.clear()
        self._followed.clear()

    def _play(self) -> None:
        """End and begin steps until the next one ends in the future, then set the timer for it."""
        self._timer = None
        alive = False
        try:
            due = self._play_due()
            if due is not None:
                self._timer = self._loop.call_at(due, self._play)
            alive = True
        finally:
            if not alive:  # a bug in the engine must not leave requests hanging
                self.die()

    def _play_due(self) -> float | None:
        """Play what is due. Returns the wall time to go on at; None if there is nothing to do."""
        began = self._loop.time()
        while True:
            if self._step is not None:
                due = self._epoch + self._step.ended * self._scale
                wall = self._loop.time()
                if due > wall:
                    return max(due, wall + _WAKE_SECONDS)
                if wall - began > _BURST_SECONDS:
                    return wall
                self._end_step()
            start = self._engine.next_start(self._clock)
            if start is None:
                return None
            self._step = self._engine.begin_step(start)

    def _end_step(self) -> None:
        end = self._engine.end_step()
        self._step = None
        self._clock = end.step.ended
        self._metrics.look(self._engine)
        self._metrics.count_step(end)
        for sequence, progress in self._followed.items():
            if sequence.decoding or sequence.phase is Phase.FINISHED:
                progress.set()
        for sequence in end.finished:
            self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        ticket = self._tickets.pop(sequence)
        self._followed.pop(sequence, None)
        self._metrics.count_finished(sequence, ticket.finish_reasons[sequence])
        ticket.left -= 1
        if not ticket.left and not ticket.done.done():
            ticket.done.set_result(None)
