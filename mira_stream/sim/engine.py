"""A model of vLLM's continuous-batching scheduler: who runs in each step, what the step costs, what KV it holds.

No clock and no loop: time is modelled seconds, passed in and handed out as values. One step computes at most
`batched_tokens_max` tokens: first every running request in order of admission (the rest of its prompt, or one token),
then waiting ones, first come first served, the last prompt cut to what is left of the budget.

KV never runs out under way: a request is admitted only when its prompt and its whole output budget fit what nobody has
reserved, and the first one that does not fit blocks those behind it. What is *held* (and shown as usage) is what vLLM
holds: the blocks of the full prompt from admission on, and of the output as it grows.
"""

from collections import deque

import msgspec

from mira_stream.sim.kv import KvBlocks
from mira_stream.sim.sequence import Phase, Sequence


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes, in modelled seconds: a fixed part, and a part per token of each kind."""

    fixed_seconds: float
    prefill_token_seconds: float
    decode_token_seconds: float
    resident_token_seconds: float

    def seconds(self, *, prefill: int, decode: int, resident: int) -> float:
        """Duration of a step that computes `prefill` and `decode` tokens over `resident` tokens already in KV."""
        return (
            self.fixed_seconds
            + self.prefill_token_seconds * prefill
            + self.decode_token_seconds * decode
            + self.resident_token_seconds * resident
        )


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The size of an engine; KV is counted in blocks of `block_tokens`."""

    batched_tokens_max: int
    running_max: int
    kv_blocks: int
    block_tokens: int = 16


class Step(msgspec.Struct, frozen=True):
    """One step that has begun: what it computes, by sequence, and when it ends."""

    started: float
    ended: float
    work: list[tuple[Sequence, int]]
    prefill_tokens: int
    decode_tokens: int
    resident_tokens: int


class StepEnd(msgspec.Struct, frozen=True):
    """What `step` brought: sequences that got tokens, those among them that got their first, and those now done."""

    step: Step
    advanced: list[Sequence]
    started: list[Sequence]
    finished: list[Sequence]


class EngineStats(msgspec.Struct, frozen=True):
    """The state at the end of the last step, as vLLM exports it."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0


class Engine:
    """The scheduler. Drive it with `submit`, `abort`, and `begin_step`/`end_step` in turn."""

    def __init__(self, limits: EngineLimits, cost: StepCost) -> None:
        assert limits.batched_tokens_max >= 1
        assert limits.running_max >= 1
        self._limits = limits
        self._cost = cost
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._resident = 0  # tokens of running sequences that are computed and in KV
        self._step: Step | None = None
        self.kv = KvBlocks(limits.kv_blocks, limits.block_tokens)
        self.stats = EngineStats()
        self.peak_kv_blocks = 0
        self.peak_unprefilled_tokens = 0
        self._unprefilled = 0

    @property
    def unprefilled_tokens(self) -> int:
        """Prompt tokens that are here, waiting or running, and not yet computed."""
        return self._unprefilled

    @property
    def resident_tokens(self) -> int:
        """Tokens computed and in KV, of all running sequences."""
        return self._resident

    @property
    def queued(self) -> int:
        """Sequences waiting or running now (not as of the last step)."""
        return len(self._waiting) + len(self._running)

    def submit(self, sequence: Sequence) -> None:
        """Queue a new sequence; sequences come in order of `arrived`. It must fit an empty engine."""
        assert self.kv.needed(sequence) <= self._limits.kv_blocks, "larger than the whole KV cache"
        assert not self._waiting or self._waiting[-1].arrived <= sequence.arrived
        self._waiting.append(sequence)
        self._unprefilled += sequence.prompt_tokens
        self.peak_unprefilled_tokens = max(self.peak_unprefilled_tokens, self._unprefilled)

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence and free what it holds, in a step or between steps; one that has ended stays as it is."""
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        elif sequence.phase is Phase.RUNNING:
            self._leave(sequence)
        else:
            return
        self._unprefilled -= sequence.prompt_tokens - sequence.computed
        sequence.phase = Phase.ABORTED
        self._show()

    def next_start(self, now: float) -> float | None:
        """When the next step can begin, at or after `now`; None if there is nothing to do."""
        assert self._step is None
        if self._running:
            return now
        return max(now, self._waiting[0].arrived) if self._waiting else None

    def begin_step(self, now: float) -> Step:
        """Schedule one step at `now`, a time that `next_start` gave."""
        assert self._step is None
        budget = self._limits.batched_tokens_max
        work: list[tuple[Sequence, int]] = []
        prefill = self._schedule_running(work, budget)
        resident = self._resident
        budget -= sum(tokens for _, tokens in work)
        prefill += self._admit(work, budget, now)
        assert work, "a step without work"
        decode = sum(tokens for _, tokens in work) - prefill
        seconds = self._cost.seconds(prefill=prefill, decode=decode, resident=resident)
        self._step = Step(now, now + seconds, work, prefill, decode, resident)
        return self._step

    def end_step(self) -> StepEnd:
        """Book what the step computed. A prompt whose last part was computed has its first token, as in vLLM."""
        step = self._step
        assert step is not None, "no step has begun"
        self._step = None
        end = StepEnd(step, [], [], [])
        for sequence, tokens in step.work:
            if sequence.phase is Phase.RUNNING:
                self._advance(sequence, tokens, step.ended, end)
        self._show()
        return end

    def _schedule_running(self, work: list[tuple[Sequence, int]], budget: int) -> int:
        """Give each running sequence what is left of its prompt, or one token; returns the prefill tokens."""
        prefill = 0
        for sequence in self._running:
            if not budget:
                break
            left = sequence.prompt_tokens - sequence.computed
            tokens = min(left, budget) if left else 1
            prefill += tokens if left else 0
            budget -= tokens
            work.append((sequence, tokens))
        return prefill

    def _admit(self, work: list[tuple[Sequence, int]], budget: int, now: float) -> int:
        """Let waiting sequences in while budget, seats and KV last; returns the prefill tokens."""
        prefill = 0
        while budget and self._waiting and len(self._running) < self._limits.running_max:
            head = self._waiting[0]
            if head.arrived > now or not self.kv.fits(head):
                break
            self._waiting.popleft()
            self.kv.admit(head)
            self.peak_kv_blocks = max(self.peak_kv_blocks, self.kv.held)
            head.phase = Phase.RUNNING
            head.scheduled = now
            self._running.append(head)
            tokens = min(head.prompt_tokens, budget)
            prefill += tokens
            budget -= tokens
            work.append((head, tokens))
        return prefill

    def _advance(self, sequence: Sequence, tokens: int, now: float, end: StepEnd) -> None:
        self._resident += tokens
        if sequence.computed < sequence.prompt_tokens:
            sequence.computed += tokens
            self._unprefilled -= tokens
            if sequence.computed < sequence.prompt_tokens:
                return
            sequence.first_token = now
            end.started.append(sequence)
        end.advanced.append(sequence)
        sequence.generated += 1
        self.kv.grow(sequence)
        self.peak_kv_blocks = max(self.peak_kv_blocks, self.kv.held)
        if sequence.generated == sequence.output_tokens:
            self._leave(sequence)
            sequence.phase = Phase.FINISHED
            sequence.finished = now
            end.finished.append(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Take a running sequence out; a token is in KV once the step after it has computed it."""
        self._running.remove(sequence)
        self.kv.release(sequence)
        self._resident -= sequence.computed + max(0, sequence.generated - 1)

    def _show(self) -> None:
        self.stats = EngineStats(len(self._running), len(self._waiting), self.kv.usage)
