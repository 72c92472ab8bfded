"""What the bench measures, as values. Times are the replica's seconds: those of the wall, or of a simulated replica."""

from collections.abc import Mapping, Sequence

import msgspec

from mira_stream.core.usage import Load


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered. `complete`: all that the rubric asks for could be read from the reply."""

    replica: str
    started: float
    ended: float
    prompt_tokens: int
    completion_tokens: int
    complete: bool

    @property
    def latency(self) -> float:
        """Seconds from sending to the whole answer."""
        return self.ended - self.started


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was not answered; `reason` is short and the same for its like, `message` is the replica's."""

    replica: str
    at: float
    reason: str
    message: str


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a replica's metrics, and the requests of ours that were in flight there then: for each when it was
    sent and its prompt tokens, oldest first."""

    replica: str
    at: float
    load: Load
    flights: tuple[tuple[float, int], ...]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen while one load was kept steady, from `begin` to `end`: the answers that lived in it, failures,
    looks in order of time, and when the requests in flight at its end were sent. `concurrency` is per replica;
    `settled`: enough requests had ended before it."""

    name: str
    concurrency: float
    begin: float
    end: float
    settled: bool
    answers: Sequence[Answer]
    failures: Sequence[Failure]
    looks: Mapping[str, Sequence[Look]]
    flights: Sequence[float]

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.end - self.begin


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of a sample; 0 where it is empty."""

    mean: float = 0.0
    p10: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """What an average record takes: its tokens, and how fast a replica prefills alone, where that is known."""

    prompt_tokens: float
    output_tokens: float
    prefill_tokens_per_second: float | None


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """A replica asked one thing at a time. Rates are tokens per second, None where it did not show; `overhead_seconds`
    is what a request takes besides its prompt and its reply's tokens."""

    replica: str
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    overhead_seconds: float
    output_tokens: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load, measured in steady state; rates are of all replicas together, states are means per replica.

    `concurrency` is requests in flight per replica; `noise` is the standard error of `records_per_second`, relative.
    None where the replicas' metrics do not show it. `counted`: rates are from the engines' own counters, which include
    work in progress; else they are told from the answers.
    """

    name: str
    concurrency: float
    seconds: float
    answered: int
    incomplete: int
    records_per_second: float
    noise: float
    prompt_tokens_per_second: float
    generation_tokens_per_second: float
    latency: Spread
    running: float | None
    waiting: float | None
    kv_usage: float | None
    preemptions_per_100: float | None
    decode_tokens_per_second: float | None
    capacity_tokens: float | None
    failures: Mapping[str, int]
    counted: bool
    foreign: bool
    settled: bool


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """Where the records came from, how long their prompts are (tokens, estimated), and what could not be asked."""

    origin: str
    objects: int
    listed: int
    lines: int
    records: int
    prompt_tokens: Spread
    truncated: int
    left_out: Mapping[str, int]
    whole: bool
