"""The replicas under test, asked and looked at; everything that happens is noted, and nothing is retried."""

import asyncio
from collections.abc import Mapping
from itertools import count

import msgspec

from mira_stream.audit.bench.bodies import Bodies, Body
from mira_stream.audit.bench.values import Answer, Failure, Look, Window
from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient
from mira_stream.core.reply import parse
from mira_stream.core.usage import Load, Reply
from mira_stream.ports import Clock, Replica

_TIMEOUT_SECONDS = 1800.0
_REST_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_LOOK_WALL_SECONDS_MIN = 0.05


class Pace:
    """The replica's seconds: those of the clock, or with `scale` wall seconds each, where a simulator is quicker."""

    def __init__(self, scale: float, clock: Clock) -> None:
        assert scale > 0
        self.scale = scale
        self._clock = clock

    def now(self) -> float:
        """Seconds since some moment."""
        return self._clock() / self.scale

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""
        await asyncio.sleep(seconds * self.scale)

    async def within(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for `event`, so long at most; whether it came."""
        try:
            async with asyncio.timeout(None if seconds is None else max(0.0, seconds) * self.scale):
                await event.wait()
        except TimeoutError:
            return False
        return True


class Fleet:
    """Some replicas and the bodies to send them.

    Args:
        replicas: by name.
        bodies: what is sent.
        slots: of the rubric, to tell whether a reply is complete.
        pace: the replicas' seconds.
        output_tokens: what a reply is taken to have before there was one.
    """

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        bodies: Bodies,
        *,
        slots: tuple[str, ...],
        pace: Pace,
        output_tokens: float = 700.0,
    ) -> None:
        self.replicas = replicas
        self.bodies = bodies
        self.pace = pace
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self.looks: dict[str, list[Look]] = {name: [] for name in replicas}
        self.ended_count = 0
        self._slots = slots
        self._prior_output_tokens = output_tokens
        self._numbers = count()
        self._flights: dict[str, dict[int, tuple[float, int]]] = {name: {} for name in replicas}

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return sum(map(len, self._flights.values()))

    @property
    def output_tokens(self) -> float:
        """Mean length of the replies."""
        if not self.answers:
            return self._prior_output_tokens
        return sum(one.completion_tokens for one in self.answers) / len(self.answers)

    async def ask(self, replica: str, body: Body) -> Reply | MiraStreamError:
        """Send one request and note what came of it."""
        number, started = next(self._numbers), self.pace.now()
        self._flights[replica][number] = (started, self.bodies.prompt_tokens(body))
        try:
            timeout = _TIMEOUT_SECONDS * max(self.pace.scale, 0.01)
            reply = await self.replicas[replica].ask(body.data, timeout_seconds=timeout)
        except MiraStreamError as error:
            self.failures.append(_failure(replica, error, self.pace.now()))
            return error
        else:
            self._answered(replica, body, reply, started)
            return reply
        finally:
            del self._flights[replica][number]
            self.ended_count += 1

    async def look(self, replica: str) -> Load | None:
        """Read its metrics and note them; None if it cannot be done, which is nobody's failure."""
        asked_at = self.pace.now()
        flights = tuple(self._flights[replica].values())
        try:
            load = await self.replicas[replica].load()
        except MiraStreamError:
            return None
        if load.prefill_seconds is not None:
            load = msgspec.structs.replace(load, prefill_seconds=load.prefill_seconds / self.pace.scale)
        at = (asked_at + self.pace.now()) / 2
        self.looks[replica].append(Look(replica=replica, at=at, load=load, flights=flights))
        return load

    async def watch(self) -> None:
        """Look at all replicas again and again, until cancelled."""
        pause = max(_LOOK_SECONDS, _LOOK_WALL_SECONDS_MIN / self.pace.scale)
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                group.create_task(self._watch(replica, pause))

    def window(self, name: str, concurrency: float, *, begin: float, settled: bool) -> Window:
        """What was seen from `begin` until now."""
        end = self.pace.now()
        return Window(
            name=name,
            concurrency=concurrency,
            begin=begin,
            end=end,
            settled=settled,
            answers=[one for one in self.answers if one.ended >= begin and one.started <= end],
            failures=[one for one in self.failures if begin <= one.at <= end],
            looks={
                replica: [look for look in looks if begin <= look.at <= end]
                for replica, looks in self.looks.items()
            },
            flights=[sent for flights in self._flights.values() for sent, _ in flights.values()],
        )

    async def _watch(self, replica: str, pause: float) -> None:
        while True:
            await self.look(replica)
            await self.pace.sleep(pause)

    def _answered(self, replica: str, body: Body, reply: Reply, started: float) -> None:
        self.bodies.learn(body.number, reply.usage.prompt_tokens)
        answer = Answer(
            replica=replica,
            started=started,
            ended=self.pace.now(),
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            complete=parse(reply.text, reply.finish_reason, self._slots).complete,
        )
        self.answers.append(answer)


class FixedLoad:
    """A number of requests in flight at every replica, each followed at once by the next: a closed loop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._concurrency = 0
        self._working = dict.fromkeys(fleet.replicas, 0)
        self._tasks: set[asyncio.Task[None]] = set()

    async def set(self, concurrency: int, group: asyncio.TaskGroup) -> None:
        """Keep so many in flight per replica from now on, in tasks of `group`; if that is fewer than before, it begins
        anew with none."""
        if concurrency < self._concurrency:
            await self.stop()
        self._concurrency = concurrency
        for replica, working in self._working.items():
            for _ in range(concurrency - working):
                self._working[replica] += 1
                task = group.create_task(self._work(replica))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up all requests in flight, and wait until they are gone."""
        self._concurrency = 0
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _work(self, replica: str) -> None:
        try:
            while True:
                ended = await self._fleet.ask(replica, self._fleet.bodies.next())
                if isinstance(ended, MiraStreamError):
                    await self._fleet.pace.sleep(_REST_SECONDS)
        finally:
            self._working[replica] -= 1


def _failure(replica: str, error: MiraStreamError, at: float) -> Failure:
    return Failure(replica=replica, at=at, reason=reason_of(error), message=str(error))


def reason_of(error: MiraStreamError) -> str:
    """The same few words for all failures of a kind."""
    match error:
        case Permanent():
            return f"refused ({error.status})"
        case Saturated():
            return f"full ({error.status})" if error.status else "full"
        case Transient():
            return f"{error.kind.value} ({error.status})" if error.status else error.kind.value
        case _:
            return type(error).__name__.lower()
