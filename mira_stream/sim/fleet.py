"""Plays a client's admission against modelled replicas in virtual time: no loop, no HTTP, the same result every time.

What a plan or a bench asks, minutes of a fleet's life, is computed in seconds. Clients decide through the same
`PoolControl` as the daemon; engines are those of `mira-stream sim`. All times are modelled seconds.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

import msgspec

from mira_stream.control.decision import Admitted, Decision
from mira_stream.control.permits import Permit
from mira_stream.control.window import Candidate
from mira_stream.core.usage import Load, Usage
from mira_stream.sim.engine import Engine, Step, StepEnd
from mira_stream.sim.sequence import Sequence

_NEVER = float("inf")


class Policy(Protocol):
    """What decides: `PoolControl`, or something that a bench holds it against."""

    def offer(self, candidate: Candidate) -> None:
        """A record waits to be sent."""

    def decide(self, now: float) -> Decision:
        """Send one, or say why none."""

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """A request has ended."""

    def observe(self, replica: str, load: Load, asked_at: float, now: float) -> None:
        """A look at a replica has come."""

    def wants_look(self, replica: str) -> bool:
        """Whether a look sooner than usual would help."""


class Work(msgspec.Struct, frozen=True):
    """One record: its true prompt tokens, what the client counts, and the output it will get.

    `keys` name the full blocks of its prompt for the prefix cache, as `Sequence` has them.
    """

    prompt_tokens: int
    counted_tokens: int
    output_tokens: int
    keys: tuple[Hashable, ...] = ()


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Delays between client and replicas. `network_seconds` is one way."""

    network_seconds: float = 0.025
    scrape_seconds: float = 1.0
    scrape_seconds_min: float = 0.2
    output_tokens_max: int = 2048
    window_records: int = 16


class Answered(msgspec.Struct, frozen=True):
    """A record that was answered: to whom, where, when it was sent and answered."""

    client: Policy
    work: Work
    replica: str
    sent_at: float
    answered_at: float


class ModelReplica:
    """An engine with the counters that vLLM exports as of its last finished step."""

    def __init__(self, name: str, engine: Engine, *, kv_tokens: int | None = None) -> None:
        self.name = name
        self.engine = engine
        self.frozen = False
        self.step: Step | None = None
        self._kv_tokens = kv_tokens
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._prefilled_tokens = 0
        self._prefill_seconds = 0.0
        self._started_at = 1.0
        self._load = self._look()
        self.waiting_seconds = 0.0

    def restart(self, engine: Engine, now: float) -> None:
        """Another process stands there, with nothing in it."""
        self.engine, self.step = engine, None
        self._prompt_tokens = self._generation_tokens = self._prefilled_tokens = 0
        self._prefill_seconds, self._started_at = 0.0, now
        self._load = self._look()

    def load(self) -> Load:
        """What a look shows now."""
        if not self.frozen:
            self._load = self._look()
        return self._load

    def count(self, end: StepEnd) -> None:
        """A step has ended."""
        self.waiting_seconds += self.engine.stats.waiting * (end.step.ended - end.step.started)
        self._generation_tokens += end.advanced
        self._prompt_tokens += sum(one.prompt_tokens for one in end.started)
        for sequence in end.finished:
            self._prefilled_tokens += sequence.prompt_tokens
            self._prefill_seconds += sequence.first_token - sequence.scheduled

    def _look(self) -> Load:
        stats = self.engine.stats
        return Load(
            running=stats.running,
            waiting=stats.waiting,
            kv_usage=stats.kv_usage,
            kv_usage_max=stats.kv_usage,
            prompt_tokens=float(self._prompt_tokens),
            generation_tokens=float(self._generation_tokens),
            prefill_seconds=self._prefill_seconds,
            prefilled_tokens=float(self._prefilled_tokens),
            process_start_seconds=self._started_at,
            kv_tokens=self._kv_tokens,
        )


class _Client:
    """One daemon: its policy, its records, what it has in flight."""

    def __init__(self, policy: Policy, works: Iterator[Work]) -> None:
        self.policy = policy
        self.works = works
        self.offered: dict[int, Work] = {}
        self.tickets = count()
        self.waking_at = _NEVER
        self.looking: set[str] = set()
        self.looked_at: dict[str, float] = {}


class _Sent(msgspec.Struct, frozen=True):
    client: _Client
    work: Work
    permit: Permit


class Fleet:
    """Replicas and the clients that share them. `run` goes on where the last one ended."""

    def __init__(self, replicas: list[ModelReplica], timing: Timing) -> None:
        assert replicas
        self.replicas = {replica.name: replica for replica in replicas}
        self.timing = timing
        self.now = 0.0
        self.answered: list[Answered] = []
        self.on_sent: Callable[[ModelReplica], None] | None = None
        self._clients: list[_Client] = []
        self._sent: dict[Sequence, _Sent] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def join(self, policy: Policy, works: Iterator[Work]) -> None:
        """A client begins to work now."""
        client = _Client(policy, works)
        self._clients.append(client)
        self.at(self.now, lambda: self._decide(client))
        for name in self.replicas:
            self._scrape(client, name, periodic=True)

    def at(self, moment: float, event: Callable[[], None]) -> None:
        """Let something happen at that moment."""
        assert moment >= self.now
        heappush(self._events, (moment, next(self._order), event))

    def run(self, until: float) -> None:
        """Play everything that happens before that moment."""
        while self._events and self._events[0][0] < until:
            self.now, _, event = heappop(self._events)
            event()
        self.now = until

    def fail(self, name: str) -> list[tuple[Policy, Candidate, Permit]]:
        """The replica loses all that it holds. What to settle and to offer again, and to whom, is for the caller."""
        lost = []
        for sequence, sent in list(self._sent.items()):
            if sent.permit.replica == name:
                del self._sent[sequence]
                ticket = sent.permit.ticket
                sent.client.offered[ticket] = sent.work
                candidate = Candidate(ticket=ticket, prompt_tokens=sent.work.counted_tokens)
                lost.append((sent.client.policy, candidate, sent.permit))
        return lost

    def in_flight(self) -> Iterable[Sequence]:
        """The sequences that are in some engine now."""
        return self._sent.keys()

    def decide_all(self) -> None:
        """Something outside has changed that clients should decide anew about."""
        for client in self._clients:
            self._decide(client)

    # The client's side.

    def _decide(self, client: _Client) -> None:
        while True:
            self._fill(client)
            decision = client.policy.decide(self.now)
            if not isinstance(decision, Admitted):
                break
            self._send(client, decision)
        if decision.wake_at is not None and (
            decision.wake_at < client.waking_at or client.waking_at <= self.now
        ):
            client.waking_at = decision.wake_at
            self.at(decision.wake_at, lambda: self._decide(client))
        for name in self.replicas:
            if client.policy.wants_look(name):
                self._scrape(client, name, periodic=False)

    def _fill(self, client: _Client) -> None:
        while len(client.offered) < self.timing.window_records:
            work = next(client.works, None)
            if work is None:
                return
            ticket = next(client.tickets)
            client.offered[ticket] = work
            client.policy.offer(Candidate(ticket=ticket, prompt_tokens=work.counted_tokens))

    def _send(self, client: _Client, admitted: Admitted) -> None:
        permit = admitted.permit
        sent = _Sent(client, client.offered.pop(permit.ticket), permit)
        self.at(self.now + self.timing.network_seconds, lambda: self._arrive(sent))
        if self.on_sent is not None:
            self.on_sent(self.replicas[permit.replica])

    def _scrape(self, client: _Client, name: str, *, periodic: bool) -> None:
        """Ask now, or as soon as a look may be repeated; one look at a time."""
        if periodic:
            self.at(self.now + self.timing.scrape_seconds, lambda: self._scrape(client, name, periodic=True))
        if name in client.looking:
            return
        client.looking.add(name)
        last = client.looked_at.get(name, -_NEVER)
        self.at(max(self.now, last + self.timing.scrape_seconds_min), lambda: self._ask(client, name))

    def _ask(self, client: _Client, name: str) -> None:
        asked_at = client.looked_at[name] = self.now
        net = self.timing.network_seconds

        def look() -> None:
            load = self.replicas[name].load()
            self.at(self.now + net, lambda: told(load))

        def told(load: Load) -> None:
            client.looking.discard(name)
            client.policy.observe(name, load, asked_at, self.now)
            self._decide(client)

        self.at(self.now + net, look)

    # The replicas' side.

    def _arrive(self, sent: _Sent) -> None:
        replica, work = self.replicas[sent.permit.replica], sent.work
        sequence = Sequence(
            work.prompt_tokens,
            output_tokens=work.output_tokens,
            output_tokens_max=max(work.output_tokens, self.timing.output_tokens_max),
            arrived=self.now,
            keys=work.keys,
        )
        self._sent[sequence] = sent
        replica.engine.submit(sequence)
        if replica.step is None:
            self._step(replica)

    def _step(self, replica: ModelReplica) -> None:
        engine = replica.engine
        start = engine.next_start(self.now)
        if start is None:
            return
        step = replica.step = engine.begin_step(start)
        self.at(step.ended, lambda: self._end_step(replica, engine))

    def _end_step(self, replica: ModelReplica, engine: Engine) -> None:
        if replica.engine is not engine:
            return  # that engine is gone
        end = engine.end_step()
        replica.step = None
        replica.count(end)
        for sequence in end.finished:
            sent = self._sent.pop(sequence)
            self.at(self.now + self.timing.network_seconds, lambda sent=sent: self._answer(sent))  # type: ignore[misc]
        self._step(replica)

    def _answer(self, sent: _Sent) -> None:
        work, permit = sent.work, sent.permit
        # Its keys are as long as its prompt, and nobody asks for them again.
        work = Work(work.prompt_tokens, work.counted_tokens, work.output_tokens)
        self.answered.append(Answered(sent.client.policy, work, permit.replica, permit.sent_at, self.now))
        sent.client.policy.settle(permit, Usage(work.prompt_tokens, work.output_tokens), self.now)
        self._decide(sent.client)
