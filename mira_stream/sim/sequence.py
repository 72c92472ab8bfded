"""One prompt and its growing completion, as the engine sees it."""

from collections.abc import Hashable
from enum import Enum, auto


class Phase(Enum):
    """Where a sequence is in its life. One that is preempted waits again."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()
    ABORTED = auto()


class Pace:
    """Counts decode steps, begun and ended: sequences that decode share it, as each of them gains a token a step."""

    __slots__ = ("begun", "ended")

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0


class Sequence:
    """One prompt and the completion that grows from it. The engine owns its state; times are modelled seconds.

    `output_tokens` is how long the completion will be; `output_tokens_max` is what the request allows, which is all
    that a real engine knows. `keys` name the first full blocks of the prompt that others may share: block `i` of two
    sequences holds the same tokens, and the same before it, exactly if their `keys[i]` are equal.
    """

    __slots__ = (
        "_computed",
        "_generated",
        "_joined",
        "_pace",
        "arrived",
        "blocks",
        "cached_tokens",
        "finished",
        "first_token",
        "held_keys",
        "keys",
        "number",
        "output_tokens",
        "output_tokens_max",
        "phase",
        "preemptions",
        "prompt_tokens",
        "reached",
        "scheduled",
    )

    def __init__(
        self,
        prompt_tokens: int,
        *,
        output_tokens: int,
        output_tokens_max: int,
        arrived: float,
        keys: tuple[Hashable, ...] = (),
    ) -> None:
        assert prompt_tokens >= 1
        assert 1 <= output_tokens <= output_tokens_max
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.output_tokens_max = output_tokens_max
        self.arrived = arrived
        self.keys = keys
        self.phase = Phase.WAITING
        self.number = 0  # of its admission; the newest running sequence has the highest
        self.preemptions = 0
        self.cached_tokens = 0  # of its prompt, found in the prefix cache when it was first admitted
        self.scheduled = 0.0
        self.first_token = 0.0
        self.finished = 0.0
        self.blocks = 0  # KV blocks held, as of when it was prefilled last
        self.held_keys: list[Hashable] = []  # those of them that are in the prefix cache
        self.reached = 0  # most tokens it ever had in KV before it was preempted
        self._computed = 0
        self._generated = 0
        self._pace: Pace | None = None  # set while it decodes
        self._joined = 0

    @property
    def computed(self) -> int:
        """Tokens of prompt and completion that are in KV now."""
        return self._computed + (self._pace.ended - self._joined if self._pace else 0)

    @property
    def generated(self) -> int:
        """Tokens of the completion so far."""
        return self._generated + (self._pace.ended - self._joined if self._pace else 0)

    @property
    def decoding(self) -> bool:
        """Whether it gains one token a step."""
        return self._pace is not None

    @property
    def known_tokens(self) -> int:
        """Prompt and completion so far: what must be in KV before the next token can come."""
        return self.prompt_tokens + self.generated

    def restart(self, computed: int) -> None:
        """Begin to run with `computed` tokens in KV; 0 forgets what was there."""
        assert self._pace is None
        self.reached = max(self.reached, self._computed)
        self._computed = computed

    def prefill(self, tokens: int) -> int:
        """Book computed tokens; returns how many of them had been computed before, and were lost."""
        again = max(0, min(self._computed + tokens, self.reached) - self._computed)
        self._computed += tokens
        return again

    def gain(self) -> None:
        """Book the token that comes with the last part of a prefill."""
        self._generated += 1

    def join(self, pace: Pace) -> None:
        """Begin to decode at that pace."""
        self._pace = pace
        self._joined = pace.ended

    def leave(self) -> int:
        """End decoding; returns the tokens for which it has KV blocks, that of a step under way included."""
        assert self._pace is not None
        allotted = self._computed + self._pace.begun - self._joined
        self._computed, self._generated = self.computed, self.generated
        self._pace = None
        return allotted

    def finish_at_once(self) -> None:
        """Give it its whole completion without an engine."""
        self._generated = self.output_tokens
        self.phase = Phase.FINISHED

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.phase.name.lower()} computed {self.computed}, prompt {self.prompt_tokens},"
            f" output {self.generated}/{self.output_tokens}>"
        )
