"""What a plan is made of and what it says, as values. Times are modelled seconds unless said otherwise."""

from collections.abc import Mapping, Sequence

import msgspec

from mira_stream.audit.bench.values import Spread


class Length(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled line: the estimated tokens of its whole prompt before any cut, or the `reason` why it has none.

    `part` is the number of its object among those that were read.
    """

    part: int
    source: str
    tokens: int = 0
    reason: str | None = None


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure, and where it lies in 95 of 100 samples like this one; all the same where nothing was left to chance."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Interval":
        """The same in another unit."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)


class OverContext(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the scorable records have prompts above the `prompt_tokens_max` of a context, and by how much.

    `share` of the records, `lost_share` of all tokens are beyond it. `sent_tokens`: all that would be asked about, cut
    or left out as configured.
    """

    context: int
    prompt_tokens_max: int
    share: Interval
    lost_share: float
    sent_tokens: Interval


class SourceLengths(msgspec.Struct, frozen=True, kw_only=True):
    """The sampled records of one source."""

    source: str
    records: int
    unscorable: int
    tokens: Spread


class CorpusFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the sample says of the corpus. `exact`: every line was looked at, so that nothing is a matter of chance.

    `records` are those that can be scored, of `lines` in all; `tokens` those of their uncut prompts. `unscorable` has
    the shares of all lines by reason.
    """

    origin: str
    objects: int
    listed: int
    listed_bytes: int
    lines_read: int
    sampled: int
    exact: bool
    lines: Interval
    records: Interval
    mean_tokens: Interval
    tokens: Interval
    lengths: Spread
    unscorable: Mapping[str, float]
    over: Sequence[OverContext]
    sources: Sequence[SourceLengths]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve: so many replicas of so many GPUs, a context and a batch limit."""

    layout: str
    context: int
    batched_tokens: int


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What the modelled replicas did in steady state, all of them together; running, waiting and KV per replica."""

    records_per_second: float
    prompt_tokens_per_second: float
    output_tokens_per_second: float
    kv_fill: float
    running: float
    waiting: float
    p50: float
    p95: float
    preemptions_per_100: float
    settled: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One setting and what the corpus takes with it. `kv_tokens` per replica; `scored_share`: the rest is over-length.

    The interval is that of the sample alone.
    """

    setting: Setting
    gpus: int
    kv_tokens: int
    played: Played
    scored_share: float
    gpu_hours: Interval

    @property
    def records_per_second_per_gpu(self) -> float:
        """What settings of different size are compared by."""
        return self.played.records_per_second / self.gpus


class Swing(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the GPU-hours of a layout's best setting if one assumption is `low` or `high` instead."""

    layout: str
    assumption: str
    low: float
    high: float
    gpu_hours_low: float
    gpu_hours_high: float
