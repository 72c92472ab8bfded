"""One pool: sends what admission admits, follows up what comes back, and says what limits it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count

import msgspec
import structlog

from mira_stream.control.admission import Admitted, PoolControl, ReplicaSnapshot
from mira_stream.control.permits import Permit
from mira_stream.control.retry import GiveUp, History, Resend, StopPool, classify, next_step
from mira_stream.control.window import Candidate
from mira_stream.core.errors import Permanent, Saturated, Transient
from mira_stream.core.outcome import LimitingFactor, Reason
from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.usage import Reply
from mira_stream.pipeline.account import Account, Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.draft import Prepared, Prompting
from mira_stream.pipeline.rows import Answer, Fingerprints, RowMaker
from mira_stream.ports import Clock, Replica
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_AMBIGUOUS = (400, 413, 422)
"""What a server says both to a bad record and to bad settings."""
_TOO_LONG = "input_tokens"
"""The `param` of a refusal that means the record for certain."""
_PROOF_SECONDS = 300.0
CANNED_RECORD = (
    "=== user ===\nPrint the second line of notes.txt.\n\n=== assistant ===\n[tool call #1 shell]\n"
    "command: sed -n 2p notes.txt\n\n=== tool result #1 shell ===\nbuy milk\n\n=== assistant ===\n"
    "The second line is: buy milk"
)
"""A harmless record, written for this project."""


class _Request:
    """A record on its way through the pool, and what has happened to it so far."""

    __slots__ = ("attempts", "body", "history", "prepared", "reasks")

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.body = prepared.body
        self.history = History()
        self.reasks = 0
        self.attempts = 0


class PoolIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool is: its group, the model its replicas serve, how it asks, how often it asks again.

    `canned` is the body of a harmless record: who answers it works, and accepts our settings.
    """

    group: str
    model: str
    prompting: Prompting
    fingerprints: Fingerprints
    canned: bytes
    reasks_max: int


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What all pools share."""

    committer: Committer
    rows: RowMaker
    account: Account
    meters: Meters
    clock: Clock
    jitter: Callable[[], float]


class Dispatcher:
    """The dispatch stage of one pool.

    A record is sent as late as possible: it stays in the window until a replica has a place for it. What fails comes
    back into the window; what is answered is parsed and handed to the committer.
    """

    def __init__(
        self,
        pool: PoolIdentity,
        control: PoolControl,
        replicas: Mapping[str, Replica],
        *,
        workplace: Workplace,
        learn: Callable[[Prepared, Reply], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self.pool = pool
        self.control = control
        self.replicas = dict(replicas)
        self.factor: LimitingFactor | None = LimitingFactor.SOURCE_STARVED
        self._shop = workplace
        self._learn = learn
        self._on_stopped = on_stopped
        self._proofs = {name: asyncio.Lock() for name in replicas}
        self._looks = {name: asyncio.Event() for name in replicas}
        self._places = asyncio.Semaphore(control.window.places)
        self._wake = asyncio.Event()
        self._tickets = count()
        self._requests: dict[int, _Request] = {}
        self._scopes: set[asyncio.Timeout] = set()
        self._sending = 0
        self._closed = False
        self._draining = False
        self._cancelled = False
        workplace.committer.on_unblocked(self._wake.set)
        workplace.meters.refresh_with(self._refresh)

    # What the other stages call.

    async def offer(self, prepared: Prepared) -> None:
        """Take in a prepared record; waits for a free place in the window. Raises Closed while draining."""
        await self._places.acquire()
        if self._draining:
            self._places.release()
            raise Closed
        ticket = next(self._tickets)
        self._requests[ticket] = _Request(prepared)
        self._shop.account.move(Stage.PREPARING, Stage.WINDOW)
        self.control.offer(Candidate(ticket=ticket, prompt_tokens=prepared.prompt_tokens))
        self._wake.set()

    def close(self) -> None:
        """No more records will be offered: `run` ends when all have ended."""
        self._closed = True
        self._wake.set()

    def drain(self) -> None:
        """Send nothing more: `run` ends when the requests in flight have ended."""
        self._draining = True
        self._places.release()
        self._wake.set()

    def cancel(self) -> None:
        """Give up the requests in flight, and those about to be sent; their records are read again at the next start."""
        self._cancelled = True
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())

    def wake(self) -> None:
        """Something has changed that admission should know of."""
        self._wake.set()

    async def prove(self, name: str) -> bool:
        """Ask a replica about the canned record: whether it works and accepts our settings. Small, and rare enough
        to go beside the permits: before a replica is trusted again, or before a refusal stops the pool.

        Raises Transient or Saturated if it cannot say now.
        """
        try:
            await self.replicas[name].ask(self.pool.canned, timeout_seconds=_PROOF_SECONDS)
        except Permanent:
            return False
        self.control.proved(name, self._shop.clock())
        return True

    async def look_wanted(self, name: str, seconds: float) -> None:
        """Wait until a fresh look at the replica might let a record go, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                if (wanted := self._looks.get(name)) is not None:
                    await wanted.wait()
        except TimeoutError:
            return

    def add(self, name: str, replica: Replica) -> None:
        """Another replica, to be looked at before it is sent anything; or one that was leaving and stays."""
        self._proofs.setdefault(name, asyncio.Lock())
        self._looks.setdefault(name, asyncio.Event())
        self.replicas.setdefault(name, replica)
        self.control.add(name)
        self._wake.set()

    def leave(self, name: str) -> None:
        """Send nothing more to a replica; what is in flight there ends first. See `left`."""
        self.control.leave(name)
        self._wake.set()

    def left(self, name: str) -> bool:
        """Whether a replica that was to leave has ended its last request; it is forgotten then."""
        if not self.control.left(name):
            return False
        del self.replicas[name], self._proofs[name]
        self._looks.pop(name).set()
        return True

    def snapshot(self) -> list[ReplicaSnapshot]:
        """All replicas, as admission sees them now."""
        return self.control.snapshot(self._shop.clock())

    # Life.

    async def run(self) -> None:
        """Send until closed and empty, or drained."""
        async with asyncio.TaskGroup() as group:
            while not self._is_over():
                self._wake.clear()
                wake_at = self._send_all(group)
                if not self._is_over():
                    await self._sleep_until(wake_at)

    def _is_over(self) -> bool:
        if self._draining:
            return self._sending == 0
        return self._closed and not self._requests

    async def _sleep_until(self, wake_at: float | None) -> None:
        delay = None if wake_at is None else max(0.0, wake_at - self._shop.clock())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    def _send_all(self, group: asyncio.TaskGroup) -> float | None:
        """Send everything that is admitted now; when to look again, if time alone can change anything."""
        while True:
            if self._draining:
                self.factor = LimitingFactor.DRAINING
                return None
            if self._shop.committer.blocked:
                self.factor = LimitingFactor.SINK_BLOCKED
                return None
            decision = self.control.decide(self._shop.clock())
            if not isinstance(decision, Admitted):
                self.factor = decision.factor
                self._ask_for_looks()
                return decision.wake_at
            self.factor = None
            self._send(group, decision)

    def _ask_for_looks(self) -> None:
        for name, wanted in self._looks.items():
            if self.control.wants_look(name):
                wanted.set()
            else:
                wanted.clear()

    def _send(self, group: asyncio.TaskGroup, admitted: Admitted) -> None:
        candidate = admitted.candidate
        request = self._requests[candidate.ticket]
        if not candidate.retry and request.attempts == 0:
            self._places.release()
        self._shop.account.move(Stage.WINDOW, Stage.IN_FLIGHT)
        self._sending += 1
        group.create_task(self._follow(request, admitted), name=f"ask {admitted.permit.replica}")

    async def _follow(self, request: _Request, admitted: Admitted) -> None:
        """One request from sending to what comes of it."""
        try:
            key = request.prepared.subject.key
            if self._shop.committer.under_way.adopted(key):
                self.control.settle(admitted.permit, None, self._shop.clock())
                await self._finish(request, admitted, reason=None)
                return
            await self._ask(request, admitted)
        finally:
            self._sending -= 1
            self._wake.set()

    async def _ask(self, request: _Request, admitted: Admitted) -> None:
        permit, replica = admitted.permit, self.replicas[admitted.permit.replica]
        request.attempts += 1
        usage = None
        try:
            async with self._until_cancelled():
                try:
                    reply = await replica.ask(request.body, timeout_seconds=self._timeout_seconds(permit))
                    usage = reply.usage
                finally:
                    self.control.settle(permit, usage, self._shop.clock())
                    self._wake.set()
        except TimeoutError:
            return  # given up at shutdown: the record was not received, so it is read again
        except (Transient, Saturated, Permanent) as error:
            await self._failed(request, admitted, error)
        else:
            await self._answered(request, admitted, reply)

    @asynccontextmanager
    async def _until_cancelled(self) -> AsyncIterator[None]:
        """Raises TimeoutError out of the block when `cancel` is called, or was called before."""
        async with asyncio.timeout(0 if self._cancelled else None) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def _timeout_seconds(self, permit: Permit) -> float:
        return self.control.timeout_seconds(permit, self.pool.prompting.max_tokens)

    # What comes of a request.

    async def _answered(self, request: _Request, admitted: Admitted, reply: Reply) -> None:
        self._count_answer(permit_replica=admitted.permit.replica, reply=reply)
        self._learn(request.prepared, reply)
        parsed = parse(reply.text, reply.finish_reason, self.pool.prompting.slots)
        if parsed.complete:
            self._count_scores(parsed)
            await self._finish(request, admitted, reason=None, reply=reply, parsed=parsed)
        elif request.reasks < self.pool.reasks_max:
            if request.reasks == 0:
                request.body = self.pool.prompting.encoder.encode_reask(request.body)
            request.reasks += 1
            self._shop.meters.add(metrics.POOL_REASKS, 1, (self.pool.group,))
            self._return(admitted.candidate, request, not_before=0.0, alone=False, retry=False)
        else:
            await self._finish(request, admitted, reason=parsed.reason, reply=reply, parsed=parsed)

    async def _failed(
        self, request: _Request, admitted: Admitted, error: Transient | Saturated | Permanent
    ) -> None:
        name = admitted.permit.replica
        # Before anything is awaited: other requests may end there meanwhile.
        blamed = self.control.blames(admitted.permit)
        try:
            async with self._until_cancelled():
                answered = await self._accepts_others(name, error)
        except TimeoutError:
            return
        except (Transient, Saturated) as trouble:
            # What the refusal meant cannot be found out now. The replica's own trouble decides: try again later.
            error, answered, blamed = trouble, False, False
        now = self._shop.clock()
        over = request.prepared.prompt_tokens > self.pool.prompting.prompt_tokens_max
        fault = classify(error, others_answered=answered, over_length=over)
        self._shop.meters.add(metrics.REPLICA_FAULTS, 1, (name, fault.kind.value))
        self.control.failed(name, fault, now, self._shop.jitter())
        _log.warning("request failed", replica=name, fault=fault.kind, error=fault.message)
        alone = admitted.candidate.alone
        step = next_step(request.history, fault, replica=name, was_alone=blamed, jitter=self._shop.jitter())
        match step:
            case GiveUp(reason):
                await self._finish(request, admitted, reason=reason, refusal=fault.message)
            case StopPool(message):
                self._stop(f"{name}: {message}")
                self._return(admitted.candidate, request, not_before=0.0, alone=alone, retry=False)
            case Resend():
                request.history = step.history
                self._shop.meters.add(metrics.POOL_RETRIES, 1, (self.pool.group, fault.kind.value))
                self._return(
                    admitted.candidate,
                    request,
                    not_before=now + step.after_seconds,
                    alone=step.alone,
                    retry=step.spends_budget,
                )

    async def _accepts_others(self, name: str, error: Transient | Saturated | Permanent) -> bool:
        """Whether the replica is known to accept our settings; where that decides what `error` means, it is asked."""
        if not isinstance(error, Permanent) or error.status not in _AMBIGUOUS or error.param == _TOO_LONG:
            return self.control.others_answered(name, self._shop.clock())
        # One at a time: wrong settings fail everything that is in flight at once, and the first finding is for all.
        async with self._proofs[name]:
            if self.control.others_answered(name, self._shop.clock()):
                return True
            return self.control.stopped is None and await self.prove(name)

    def _stop(self, message: str) -> None:
        if self.control.stopped is None:
            _log.error(
                "pool stopped: the replicas refuse our requests; no record is blamed",
                group=self.pool.group,
                error=message,
                hint="correct the configuration, try it with `mira-stream check`, restart",
            )
        self.control.stop(message)
        self._on_stopped()

    def _return(
        self, candidate: Candidate, request: _Request, *, not_before: float, alone: bool, retry: bool
    ) -> None:
        """Back into the window, beside the places for new records."""
        self._shop.account.move(Stage.IN_FLIGHT, Stage.WINDOW)
        again = Candidate(
            ticket=candidate.ticket,
            prompt_tokens=candidate.prompt_tokens,
            retry=retry,
            avoid=request.history.avoid,
            alone=alone,
            not_before=not_before,
        )
        self.control.offer(again)

    async def _finish(
        self,
        request: _Request,
        admitted: Admitted,
        *,
        reason: Reason | None,
        reply: Reply | None = None,
        parsed: ParsedReply | None = None,
        refusal: str | None = None,
    ) -> None:
        answer = Answer(
            fingerprints=self.pool.fingerprints,
            attempts=request.attempts,
            replica=admitted.permit.replica,
            reply=reply,
            parsed=parsed,
            refusal=refusal,
        )
        subject = request.prepared.subject
        received = self._shop.rows.answered(subject, answer, reason)
        await self._shop.committer.finish(received, source=subject.source, stage=Stage.IN_FLIGHT)
        del self._requests[admitted.candidate.ticket]

    # Telemetry.

    def _count_answer(self, *, permit_replica: str, reply: Reply) -> None:
        meters, labels = self._shop.meters, (permit_replica,)
        meters.add(metrics.REPLICA_ANSWERS, 1, labels)
        meters.add(metrics.REPLICA_PROMPT_TOKENS, reply.usage.prompt_tokens, labels)
        meters.add(metrics.REPLICA_COMPLETION_TOKENS, reply.usage.completion_tokens, labels)
        meters.add(metrics.REPLICA_CACHED_TOKENS, reply.usage.cached_tokens or 0, labels)
        meters.observe(metrics.REPLICA_LATENCY_SECONDS, reply.latency_seconds, labels)

    def _count_scores(self, parsed: ParsedReply) -> None:
        for slot in self.pool.prompting.slots:
            self._shop.meters.observe(
                metrics.REPLY_SCORE_POINTS, getattr(parsed.scores, slot), (self.pool.group, slot)
            )

    def _refresh(self) -> None:
        meters, group = self._shop.meters, self.pool.group
        meters.set(metrics.POOL_WINDOW_RECORDS, len(self.control.window), (group,))
        meters.set(metrics.POOL_WINDOW_RECORDS_LIMIT, self.control.window.places, (group,))
        meters.set(metrics.POOL_STOPPED, self.control.stopped is not None, (group,))
        budget = self.control.retry_budget_tokens(self._shop.clock())
        meters.set(metrics.POOL_RETRY_BUDGET_TOKENS, budget, (group,))
        for factor in LimitingFactor:
            meters.set(metrics.POOL_LIMITING_FACTOR, factor is self.factor, (group, factor.value))
