"""One pool: sends what admission admits, follows up what comes back, and says what limits it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count

import structlog

from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted
from mira_stream.control.permits import Permit
from mira_stream.control.retry import GiveUp, Resend, StopPool, next_step
from mira_stream.control.snapshot import ReplicaSnapshot
from mira_stream.control.window import Candidate
from mira_stream.core.errors import Permanent, Saturated, Transient
from mira_stream.core.outcome import LimitingFactor, Reason
from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.usage import Reply, believable, with_expected
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.draft import Prepared
from mira_stream.pipeline.faults import Faults
from mira_stream.pipeline.pool_meters import PoolMeters
from mira_stream.pipeline.request import PoolIdentity, PoolRequest, Workplace
from mira_stream.pipeline.rows import Answer
from mira_stream.pipeline.wanted_looks import WantedLooks, set_within
from mira_stream.ports import Replica

_log = structlog.get_logger(__name__)


def _nothing() -> None:
    """Nobody waits for it."""


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
        self.faults = Faults(pool, control, self.replicas, workplace.clock)
        self._meters = PoolMeters(pool, control, workplace)
        self._shop = workplace
        self._learn = learn
        self._on_stopped = on_stopped
        self.wanted_looks = WantedLooks(control, replicas)
        self._places = asyncio.Semaphore(control.window.places)
        self._wake = asyncio.Event()
        self._tickets = count()
        self._requests: dict[int, PoolRequest] = {}
        self._sending: Counter[str] = Counter()
        self.on_request_ended: Callable[[], None] = _nothing
        self._closed = False
        self._draining = False
        self._cancelled = False
        workplace.committer.on_unblocked(self._wake.set)

    @property
    def factor(self) -> LimitingFactor | None:
        """What keeps the pool from dispatching; None while it sends."""
        return self._meters.factor

    # What the other stages call.

    async def offer(self, prepared: Prepared) -> None:
        """Take in a prepared record; waits for a free place in the window. Raises Closed while draining."""
        await self._places.acquire()
        if self._draining:
            self._places.release()
            raise Closed
        ticket = next(self._tickets)
        self._requests[ticket] = PoolRequest(prepared)
        self._shop.account.move(Stage.PREPARING, Stage.WINDOW)
        self.control.offer(Candidate(ticket=ticket, prompt_tokens=prepared.prompt_tokens))
        self._wake.set()

    def close(self) -> None:
        """No more records will be offered: `run` ends when all have ended."""
        self._closed = True
        self.control.no_more()
        self._wake.set()

    def drain(self) -> None:
        """Send nothing more: `run` ends when the requests in flight have ended."""
        self._draining = True
        self._places.release()
        self._wake.set()

    def cancel(self) -> None:
        """Give up the requests in flight, and those about to be sent; their records are read again at the next start."""
        self._cancelled = True
        for request in self._requests.values():
            request.give_up()

    def wake(self) -> None:
        """Something has changed that admission should know of."""
        self._wake.set()

    def add(self, name: str, replica: Replica) -> None:
        """Another replica, to be looked at before it is sent anything."""
        self.wanted_looks.add(name)
        self.replicas[name] = replica
        self.control.add(name)
        self._wake.set()

    def stay(self, name: str) -> None:
        """One that was to leave is wanted after all."""
        self.control.add(name)
        self._wake.set()

    def leave(self, name: str) -> None:
        """Send nothing more to a replica; what is in flight there ends first. See `left`."""
        self.control.leave(name)
        self._wake.set()

    def left(self, name: str) -> bool:
        """Whether one that was to leave has ended its last request, all that came of it too; it is forgotten then."""
        if self._sending[name] or not self.control.left(name):
            return False
        del self.replicas[name]
        self.wanted_looks.drop(name)
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
                    delay = None if wake_at is None else max(0.0, wake_at - self._shop.clock())
                    await set_within(self._wake, delay)

    def _is_over(self) -> bool:
        if self._draining:
            return self._sending.total() == 0
        return self._closed and not self._requests

    def _send_all(self, group: asyncio.TaskGroup) -> float | None:
        """Send everything that is admitted now; when to look again, if time alone can change anything."""
        while True:
            if self._draining:
                self._meters.factor = LimitingFactor.DRAINING
                return None
            if self._shop.committer.blocked:
                self._meters.factor = LimitingFactor.SINK_BLOCKED
                return None
            decision = self.control.decide(self._shop.clock())
            if not isinstance(decision, Admitted):
                self._meters.factor = decision.factor
                self.wanted_looks.update()
                return self._hedge(group, decision.wake_at)
            self._meters.factor = None
            self._send(group, decision)

    def _hedge(self, group: asyncio.TaskGroup, wake_at: float | None) -> float | None:
        """At the very end, when nothing is left to send, ask a second replica about what takes far too long; when to
        look again. Which attempt brings the outcome is decided when it is handed to the committer."""
        if not (self._closed and self._sending.total() and len(self.control.window) == 0):
            return wake_at
        now, after = self._shop.clock(), self.control.hedge_after_seconds
        if after is None:
            return wake_at
        times = [] if wake_at is None else [wake_at]
        for ticket, request in self._requests.items():
            if (flight := request.only_flight) is None:
                continue
            name, sent_at = flight
            if sent_at + after > now:
                times.append(sent_at + after)
            elif (admitted := self.control.hedge(request.candidate(ticket, avoid=name), now)) is not None:
                _log.info("record is asked about a second time", slow=name, other=admitted.permit.replica)
                self._shop.account.move(Stage.IN_FLIGHT, Stage.WINDOW)
                self._send(group, admitted)
        return min(times, default=None)

    def _send(self, group: asyncio.TaskGroup, admitted: Admitted) -> None:
        candidate, name = admitted.candidate, admitted.permit.replica
        request = self._requests[candidate.ticket]
        if not candidate.retry and request.attempts == 0:
            self._places.release()
        self._shop.account.move(Stage.WINDOW, Stage.IN_FLIGHT)
        self._sending[name] += 1
        request.flying[name] = admitted.permit.sent_at
        group.create_task(self._follow(request, admitted), name=f"ask {name}")

    async def _follow(self, request: PoolRequest, admitted: Admitted) -> None:
        """One request from sending to what comes of it."""
        try:
            key = request.prepared.subject.key
            if not request.ended and self._shop.committer.under_way.adopted(key):
                self.control.settle(admitted.permit, None, self._shop.clock())
                await self._finish(request, admitted, reason=None)
                return
            await self._ask(request, admitted)
        finally:
            request.flying.pop(admitted.permit.replica, None)
            self._sending[admitted.permit.replica] -= 1
            self._wake.set()
            self.on_request_ended()

    async def _ask(self, request: PoolRequest, admitted: Admitted) -> None:
        permit, replica = admitted.permit, self.replicas[admitted.permit.replica]
        request.attempts += 1
        usage, max_tokens = None, self.pool.prompting.max_tokens
        try:
            async with request.attempt(given_up=self._cancelled):
                try:
                    timeout = self.control.timeout_seconds(permit, max_tokens)
                    asked = replica.ask(
                        request.body, timeout_seconds=timeout, on_started=lambda: self._started(permit)
                    )
                    reply = with_expected(await asked, permit.prompt_tokens)
                    usage = believable(reply.usage, max_tokens)
                    if reply.load is not None:
                        self.control.reported(permit.replica, reply.load, self._shop.clock())
                finally:
                    self.control.settle(permit, usage, self._shop.clock())
                    self._wake.set()
        except TimeoutError:
            # Given up: at shutdown, so that the record is read again; or another attempt was quicker.
            self._meters.wasted("hedge" if request.ended else "shutdown", permit.prompt_tokens)
        except (Transient, Saturated, Permanent) as error:
            await self._failed(request, admitted, error)
        else:
            await self._answered(request, admitted, reply)

    def _started(self, permit: Permit) -> None:
        """The first token of a streamed reply: the prompt is prefilled, so that the next one may go."""
        self.control.started(permit)
        self._wake.set()

    # What comes of a request.

    async def _answered(self, request: PoolRequest, admitted: Admitted, reply: Reply) -> None:
        self._meters.answered(admitted.permit.replica, request.prepared, reply)
        self._learn(request.prepared, reply)
        parsed = parse(reply.text, reply.finish_reason, self.pool.prompting.slots)
        if parsed.complete and not request.ended:
            self._meters.scored(request.prepared.subject.source, parsed)
            await self._finish(request, admitted, reason=None, reply=reply, parsed=parsed)
        elif request.overtaken:
            self._meters.wasted("hedge", reply.usage.prompt_tokens + reply.usage.completion_tokens)
        elif request.reasks < self.pool.reasks_max:
            if request.reasks == 0:
                request.body = self.pool.prompting.encoder.encode_reask(request.body)
            request.reasks += 1
            self._meters.reasked(reply)
            self._return(admitted.candidate, request, not_before=0.0, alone=False, retry=False)
        else:
            await self._finish(request, admitted, reason=parsed.reason, reply=reply, parsed=parsed)

    async def _failed(
        self, request: PoolRequest, admitted: Admitted, error: Transient | Saturated | Permanent
    ) -> None:
        name, tokens = admitted.permit.replica, admitted.permit.prompt_tokens
        # Before anything is awaited: other requests may end there meanwhile.
        blamed = self.control.blames(admitted.permit)
        try:
            async with request.attempt(given_up=self._cancelled):
                fault, certain = await self.faults.judge(name, request, error)
        except TimeoutError:
            return
        now = self._shop.clock()
        self._meters.failed(name, fault.kind.value)
        self.control.failed(name, fault, now, self._shop.jitter())
        _log.warning("request failed", replica=name, fault=fault.kind, error=fault.message)
        if request.overtaken:
            self._meters.wasted("hedge", tokens)
            return
        alone, blamed = admitted.candidate.alone, blamed and certain
        step = next_step(request.history, fault, replica=name, was_alone=blamed, jitter=self._shop.jitter())
        match step:
            case GiveUp(reason):
                self._meters.wasted(fault.kind.value, tokens)
                await self._finish(request, admitted, reason=reason, refusal=fault.message)
            case StopPool(message):
                self._stop(message if name in message else f"{name}: {message}")
                self._return(admitted.candidate, request, not_before=0.0, alone=alone, retry=False)
            case Resend():
                request.history = step.history
                self._meters.retried(fault.kind.value, tokens)
                self._return(
                    admitted.candidate,
                    request,
                    not_before=now + step.after_seconds,
                    alone=step.alone,
                    retry=step.spends_budget,
                )

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
        self, candidate: Candidate, request: PoolRequest, *, not_before: float, alone: bool, retry: bool
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
        request: PoolRequest,
        admitted: Admitted,
        *,
        reason: Reason | None,
        reply: Reply | None = None,
        parsed: ParsedReply | None = None,
        refusal: str | None = None,
    ) -> None:
        request.end()
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
