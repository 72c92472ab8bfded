"""One prompt and its growing completion, as the engine sees it."""

from enum import Enum, auto


class Phase(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()
    ABORTED = auto()


class Sequence:
    """One prompt and the completion that grows from it. The engine owns its state; times are modelled seconds.

    `output_tokens` is how long the completion will be; `output_tokens_max` is what the request allows, which is all
    that a real engine knows, so that is what gets reserved.
    """

    __slots__ = (
        "arrived",
        "computed",
        "finished",
        "first_token",
        "generated",
        "output_tokens",
        "output_tokens_max",
        "phase",
        "prompt_tokens",
        "scheduled",
    )

    def __init__(
        self, prompt_tokens: int, *, output_tokens: int, output_tokens_max: int, arrived: float
    ) -> None:
        assert prompt_tokens >= 1
        assert 1 <= output_tokens <= output_tokens_max
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.output_tokens_max = output_tokens_max
        self.arrived = arrived
        self.phase = Phase.WAITING
        self.computed = 0  # prompt tokens prefilled so far
        self.generated = 0
        self.scheduled = 0.0
        self.first_token = 0.0
        self.finished = 0.0

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.phase.name.lower()} prompt {self.computed}/{self.prompt_tokens}"
            f" output {self.generated}/{self.output_tokens}>"
        )
