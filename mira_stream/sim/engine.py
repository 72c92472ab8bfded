"""A model of vLLM V1's continuous-batching scheduler: who runs in each step, what the step costs, what KV it holds.

No clock and no loop: time is modelled seconds, passed in and handed out as values. One step computes at most
`batched_tokens_max` tokens: first every running sequence (one token, or the rest of what must be prefilled), then
waiting ones, first come first served, the last prompt cut to what is left of the budget.

A sequence is admitted when its prompt fits the free KV; its output is not reserved. When decoding needs a block and
none is free, the newest running sequence is preempted: it loses all it has computed and waits at the head of the
queue. What is held (and shown as usage) are the blocks of tokens computed or being computed by running sequences.
"""

from collections import deque

import msgspec

from mira_stream.sim.decoders import Decoders
from mira_stream.sim.kv import KvBlocks
from mira_stream.sim.prefix_cache import PrefixCache
from mira_stream.sim.sequence import Phase, Sequence

Chunk = tuple[Sequence, int]


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
    """The size of an engine and its rules; KV is counted in blocks of `block_tokens`.

    No more than `batched_tokens_max` sequences run at once, whatever `running_max` says. `reserve_full_isl`: the whole
    prompt must fit at admission, not only its first chunk. `watermark` is the share of the blocks that admission
    leaves free, unless nothing runs. `aligned`: the prefix cache of hybrid models, whose prefills end at block
    boundaries and whose hits end where a prefill ended.
    """

    batched_tokens_max: int
    running_max: int
    kv_blocks: int
    block_tokens: int = 16
    reserve_full_isl: bool = True
    watermark: float = 0.0
    prefix_cache: bool = True
    aligned: bool = False
    state_blocks: int = 0


class Step(msgspec.Struct, frozen=True):
    """One step that has begun: what it computes, and when it ends.

    `prefills` has the sequences that are prefilled, with the tokens of this step; all others that run get one token.
    `resident_tokens` are those in KV when it begins, hits of the prefix cache included.
    """

    started: float
    ended: float
    prefills: list[Chunk]
    prefill_tokens: int
    decode_tokens: int
    resident_tokens: int
    preempted: int


class StepEnd(msgspec.Struct, frozen=True):
    """What `step` brought: how many sequences got a token, those that got their first, and those now done."""

    step: Step
    advanced: int
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
        assert limits.batched_tokens_max >= (limits.block_tokens if limits.aligned else 1)
        assert limits.running_max >= 1
        self._limits = limits
        self._cost = cost
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # by number of admission, the newest last
        self._prefilling: dict[int, Sequence] = {}  # those of them that are not prefilled yet
        self._decoders = Decoders(limits.block_tokens)
        self._resident = 0  # tokens of running sequences that are computed and in KV
        self._unprefilled = 0
        self._admissions = 0
        self._step: Step | None = None
        cache = PrefixCache(limits.kv_blocks, checkpoints=limits.aligned) if limits.prefix_cache else None
        self.kv = KvBlocks(
            limits.kv_blocks, limits.block_tokens, state_blocks=limits.state_blocks, prefix=cache
        )
        self._watermark = int(limits.watermark * limits.kv_blocks)
        self.stats = EngineStats()
        self.peak_kv_blocks = 0
        self.peak_unprefilled_tokens = 0
        self.preemptions = 0
        self.recomputed_tokens = 0  # computed again after a preemption
        self.prefix_queried_tokens = 0  # of sequences admitted for the first time
        self.prefix_hit_tokens = 0  # those of them that were in the prefix cache

    @property
    def unprefilled_tokens(self) -> int:
        """Tokens that are here, waiting or running, and must be computed before their sequences can go on.

        Those of a preempted sequence count again, its completion so far among them.
        """
        return self._unprefilled

    @property
    def resident_tokens(self) -> int:
        """Tokens computed and in KV, of all running sequences; shared ones count for each."""
        return self._resident

    @property
    def running(self) -> int:
        """Sequences running now (not as of the last step)."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences waiting now (not as of the last step)."""
        return len(self._waiting)

    @property
    def queued(self) -> int:
        """Sequences waiting or running now (not as of the last step)."""
        return len(self._waiting) + len(self._running)

    def submit(self, sequence: Sequence) -> None:
        """Queue a new sequence; sequences come in order of `arrived`. It must fit an empty engine."""
        assert self.kv.needed(sequence) <= self._limits.kv_blocks, "larger than the whole KV cache"
        assert not self._waiting or self._waiting[-1].arrived <= sequence.arrived
        self._waiting.append(sequence)
        self._expect(sequence.prompt_tokens)

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence and free what it holds, in a step or between steps; one that has ended stays as it is."""
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
            self._unprefilled -= sequence.known_tokens
        elif sequence.phase is Phase.RUNNING:
            self._leave(sequence)
        else:
            return
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
        chunks, preempted = self._schedule_running()
        decode = self._decoders.count
        prefill = sum(tokens for _, tokens in chunks)
        if self._waiting and not preempted:
            prefill += self._admit(chunks, self._limits.batched_tokens_max - decode - prefill, now)
        assert prefill or decode, "a step without work"
        self.peak_kv_blocks = max(self.peak_kv_blocks, self.kv.held)
        resident = self._resident
        seconds = self._cost.seconds(prefill=prefill, decode=decode, resident=resident)
        self._step = Step(now, now + seconds, chunks, prefill, decode, resident, preempted)
        return self._step

    def end_step(self) -> StepEnd:
        """Book what the step computed. A prompt whose last part was computed has its first token, as in vLLM."""
        step = self._step
        assert step is not None, "no step has begun"
        self._step = None
        advanced = self._decoders.count
        self._resident += advanced
        started: list[Sequence] = []
        finished = self._decoders.end()
        for sequence in finished:
            self._finish(sequence, step.ended)
        for sequence, tokens in step.prefills:
            if sequence.phase is Phase.RUNNING and self._prefilled(sequence, tokens):
                advanced += 1
                self._emit(sequence, step.ended, started, finished)
        self._show()
        return StepEnd(step, advanced, started, finished)

    def _schedule_running(self) -> tuple[list[Chunk], int]:
        """Give each running sequence its tokens and blocks, preempting the newest where blocks lack.

        Returns what is prefilled, and how many were preempted. Only the last sequence can be in the midst of its
        prefill (of hybrid models a few more), so decodes, which are accounted together, go first.
        """
        preempted = 0
        while True:
            chunks = self._next_chunks() if self._prefilling else []
            opening = self._decoders.opening
            missing = sum(self.kv.missing(one, one.computed + tokens) for one, tokens in chunks)
            if opening + missing <= self.kv.free:
                break
            self._preempt()
            preempted += 1
        self.kv.take(opening)
        self._decoders.begin()
        for sequence, tokens in chunks:
            self.kv.extend(sequence, sequence.computed + tokens)
        return chunks, preempted

    def _next_chunks(self) -> list[Chunk]:
        budget = self._limits.batched_tokens_max - self._decoders.count
        chunks: list[Chunk] = []
        for sequence in self._prefilling.values():
            tokens = self._chunk(sequence, sequence.computed, budget)
            if tokens:
                chunks.append((sequence, tokens))
                budget -= tokens
        return chunks

    def _chunk(self, sequence: Sequence, computed: int, budget: int) -> int:
        """Tokens to prefill beyond `computed` with that budget left; aligned chunks end with a block if they can."""
        end = sequence.known_tokens
        tokens = min(end - computed, budget)
        if not self._limits.aligned:
            return tokens
        block = self._limits.block_tokens
        last = end - end % block
        if computed + tokens < last:
            return tokens // block * block
        return last - computed if computed < last else tokens

    def _preempt(self) -> None:
        """The newest running sequence loses all it has computed, and waits at the head of the queue."""
        sequence = self._running[next(reversed(self._running))]
        self._leave(sequence)
        sequence.restart(0)
        sequence.phase = Phase.WAITING
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.appendleft(sequence)
        self._expect(sequence.known_tokens)

    def _admit(self, chunks: list[Chunk], budget: int, now: float) -> int:
        """Let waiting sequences in while budget, seats and KV last; returns the tokens they prefill."""
        seats = min(self._limits.running_max, self._limits.batched_tokens_max)
        prefill = 0
        while budget > prefill and self._waiting and len(self._running) < seats:
            head = self._waiting[0]
            if head.arrived > now:
                break
            hit = self.kv.hit(head)
            tokens = self._chunk(head, hit, budget - prefill)
            if not tokens or not self._fits(head, tokens, hit):
                break
            self._waiting.popleft()
            self._enter(head, hit, now)
            self.kv.extend(head, hit + tokens)
            chunks.append((head, tokens))
            prefill += tokens
        return prefill

    def _fits(self, sequence: Sequence, tokens: int, hit: int) -> bool:
        whole = sequence.known_tokens if self._limits.reserve_full_isl else hit + tokens
        kept = self._watermark if self._running else 0
        return self.kv.lacking(sequence, whole) + kept <= self.kv.free

    def _enter(self, sequence: Sequence, hit: int, now: float) -> None:
        """A waiting sequence runs, with `hit` tokens from the prefix cache."""
        if not sequence.preemptions:
            sequence.scheduled = now
            sequence.cached_tokens = hit
            self.prefix_queried_tokens += sequence.prompt_tokens
            self.prefix_hit_tokens += hit
        self._admissions += 1
        sequence.number = self._admissions
        sequence.phase = Phase.RUNNING
        self._running[sequence.number] = self._prefilling[sequence.number] = sequence
        self.kv.admit(sequence, hit)
        sequence.restart(hit)
        self._resident += hit
        self._unprefilled -= hit

    def _prefilled(self, sequence: Sequence, tokens: int) -> bool:
        """Book prefilled tokens; returns whether nothing is left to prefill."""
        self._resident += tokens
        self._unprefilled -= tokens
        self.recomputed_tokens += sequence.prefill(tokens)
        self.kv.checkpoint(sequence, sequence.computed)
        return sequence.computed == sequence.known_tokens

    def _emit(
        self, sequence: Sequence, now: float, started: list[Sequence], finished: list[Sequence]
    ) -> None:
        """A sequence that is prefilled gets a token: it decodes from now on, or is done."""
        del self._prefilling[sequence.number]
        sequence.gain()
        if sequence.generated == 1:
            sequence.first_token = now
            started.append(sequence)
        if sequence.generated == sequence.output_tokens:
            self._finish(sequence, now)
            finished.append(sequence)
        else:
            self._decoders.join(sequence)

    def _finish(self, sequence: Sequence, now: float) -> None:
        self._leave(sequence)
        sequence.phase = Phase.FINISHED
        sequence.finished = now

    def _leave(self, sequence: Sequence) -> None:
        """Take a running sequence out, and all it holds."""
        del self._running[sequence.number]
        if sequence.decoding:
            self.kv.settle(sequence, self._decoders.leave(sequence))
        elif self._prefilling.pop(sequence.number, None) is not None:
            self._unprefilled -= sequence.known_tokens - sequence.computed
        self._resident -= sequence.computed
        self.kv.release(sequence)

    def _expect(self, tokens: int) -> None:
        self._unprefilled += tokens
        self.peak_unprefilled_tokens = max(self.peak_unprefilled_tokens, self._unprefilled)

    def _show(self) -> None:
        self.stats = EngineStats(len(self._running), len(self._waiting), self.kv.usage)
