"""How others decide how much to send, written for this bench, and an oracle that knows the capacity.

Each is a `Policy` of `mira_stream.sim.fleet`: first come, first served, bound to a replica as late as ours.
"""

from collections import deque

from mira_stream.control.decision import Admitted, Decision, Deferred
from mira_stream.control.permits import Permit
from mira_stream.control.routing import drain_seconds
from mira_stream.control.window import Candidate
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.usage import Load, Usage

_NOTHING = Deferred(LimitingFactor.SOURCE_STARVED)
_FULL = Deferred(LimitingFactor.REQUESTS)


class _Queue:
    """What all of them share: a queue, and counts per replica."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.requests = dict.fromkeys(names, 0)
        self._queue: deque[Candidate] = deque()
        self._permits = 0

    def offer(self, candidate: Candidate) -> None:
        self._queue.append(candidate)

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        self.requests[permit.replica] -= 1

    def observe(self, replica: str, load: Load, asked_at: float, now: float) -> None:
        """Most do not look."""

    def wants_look(self, replica: str) -> bool:
        return False

    def _admit(self, name: str, now: float, *, tokens: int = 0) -> Admitted:
        candidate = self._queue.popleft()
        self.requests[name] += 1
        self._permits += 1
        held = max(tokens, candidate.prompt_tokens)
        return Admitted(
            candidate, Permit(self._permits, candidate.ticket, name, candidate.prompt_tokens, held, now)
        )


class Fixed(_Queue):
    """So many requests per replica, to the one with the fewest."""

    def __init__(self, names: list[str], concurrency: int) -> None:
        super().__init__(names)
        self._concurrency = concurrency

    def decide(self, now: float) -> Decision:
        if not self._queue:
            return _NOTHING
        name = min(self.names, key=self.requests.__getitem__)
        return self._admit(name, now) if self.requests[name] < self._concurrency else _FULL


class RoundRobin(_Queue):
    """A semaphore over all replicas; requests go to them in turn."""

    def __init__(self, names: list[str], concurrency: int) -> None:
        super().__init__(names)
        self._places = concurrency * len(names)
        self._turn = 0

    def decide(self, now: float) -> Decision:
        if not self._queue:
            return _NOTHING
        if sum(self.requests.values()) >= self._places:
            return _FULL
        self._turn += 1
        return self._admit(self.names[self._turn % len(self.names)], now)


class AimdOnRejections(Fixed):
    """One more for each answer, three quarters after a 429, at most 500: a vLLM without a queue limit sends none."""

    def __init__(self, names: list[str], most: int = 500) -> None:
        super().__init__(names, 8)
        self._limit = 8.0
        self._most = most

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        super().settle(permit, usage, now)
        self._limit = min(self._most, self._limit + 1) if usage is not None else max(1.0, self._limit * 0.75)
        self._concurrency = int(self._limit)


class AimdOnWaiting(_Queue):
    """Per replica one more a look while at most two wait there, three quarters otherwise."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._limits = dict.fromkeys(names, 8.0)

    def decide(self, now: float) -> Decision:
        if not self._queue:
            return _NOTHING
        name = min(self.names, key=lambda one: self.requests[one] / self._limits[one])
        return self._admit(name, now) if self.requests[name] < int(self._limits[name]) else _FULL

    def observe(self, replica: str, load: Load, asked_at: float, now: float) -> None:
        limit = self._limits[replica]
        busy = self.requests[replica] >= int(limit)
        if load.waiting > 2:
            self._limits[replica] = max(1.0, limit * 0.75)
        elif busy:
            self._limits[replica] = limit + 1


class Oracle(_Queue):
    """Knows the capacity and the cost: prompt and mean output within it, first come, first served."""

    def __init__(self, names: list[str], kv_tokens: int, prefill_tokens_per_second: float) -> None:
        super().__init__(names)
        self._kv_tokens = kv_tokens
        self._rate = prefill_tokens_per_second
        self._held = dict.fromkeys(names, 0)
        self._ends = dict.fromkeys(names, 0.0)

    def decide(self, now: float) -> Decision:
        if not self._queue:
            return _NOTHING
        prompt = self._queue[0].prompt_tokens
        need = prompt + 700
        fitting = [name for name in self.names if self._held[name] + need <= self._kv_tokens]
        if not fitting:
            return _FULL
        name = min(fitting, key=lambda one: self._drain(one, prompt, now))
        self._held[name] += need
        self._ends[name] = max(now, self._ends[name]) + prompt / self._rate
        return self._admit(name, now, tokens=need)

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        super().settle(permit, usage, now)
        self._held[permit.replica] -= permit.tokens

    def _drain(self, name: str, prompt: int, now: float) -> float:
        left = max(0.0, self._ends[name] - now) * self._rate
        return drain_seconds(
            unprefilled_tokens=left,
            prompt_tokens=prompt,
            prefill_tokens_per_second=self._rate,
            filled_share=self._held[name] / self._kv_tokens,
        )
