"""What a pool tells the metrics: its answers and scores, what was wasted and why, and what limits it."""

from mira_stream.control.admission import PoolControl
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.reply import ParsedReply
from mira_stream.core.usage import Reply
from mira_stream.pipeline.draft import Prepared
from mira_stream.pipeline.request import PoolIdentity, Workplace
from mira_stream.telemetry import registry as metrics


class PoolMeters:
    """The counters of one pool. `factor` is what keeps it from dispatching now; None while it sends."""

    def __init__(self, pool: PoolIdentity, control: PoolControl, workplace: Workplace) -> None:
        self.factor: LimitingFactor | None = LimitingFactor.SOURCE_STARVED
        self._pool = pool
        self._control = control
        self._meters = meters = workplace.meters
        self._clock = workplace.clock
        self._scores = workplace.scores
        meters.refresh_with(self._refresh)

    def answered(self, replica: str, prepared: Prepared, reply: Reply) -> None:
        """A request got a 200."""
        meters, labels, usage = self._meters, (replica,), reply.usage
        meters.add(metrics.REPLICA_ANSWERS, 1, labels)
        meters.add(metrics.REPLICA_PROMPT_TOKENS, usage.prompt_tokens, labels)
        meters.add(metrics.REPLICA_COMPLETION_TOKENS, usage.completion_tokens, labels)
        meters.add(metrics.REPLICA_CACHED_TOKENS, usage.cached_tokens or 0, labels)
        meters.observe(metrics.REPLICA_LATENCY_SECONDS, reply.latency_seconds, labels)
        if prepared.prompt_tokens:
            error = abs(usage.prompt_tokens / prepared.prompt_tokens - 1.0)
            meters.observe(metrics.POOL_COUNT_ERROR_RATIO, error, (self._pool.group,))

    def scored(self, source: str, parsed: ParsedReply) -> None:
        """A reply to a record of `source` was complete."""
        assert parsed.overall is not None, "a complete reply has an overall score"
        assert parsed.training_recommendation is not None, "and a recommendation"
        meters, slots = self._meters, self._pool.prompting.slots
        labels = (self._pool.group, meters.source(source))
        self._scores.of(*labels, slots).add(parsed)
        for slot in slots:
            meters.observe(metrics.REPLY_SCORE_POINTS, getattr(parsed.scores, slot), (*labels, slot))
        meters.observe(metrics.REPLY_OVERALL_POINTS, parsed.overall, labels)
        meters.add(metrics.REPLY_RECOMMENDATIONS, 1, (*labels, parsed.training_recommendation))

    def reasked(self, reply: Reply) -> None:
        """A reply lacked something: all that it cost is wasted."""
        self._meters.add(metrics.POOL_REASKS, 1, (self._pool.group,))
        self.wasted("malformed_reply", reply.usage.prompt_tokens + reply.usage.completion_tokens)

    def retried(self, kind: str, tokens: int) -> None:
        """A request failed and is sent again; `tokens` are those of its prompt."""
        self._meters.add(metrics.POOL_RETRIES, 1, (self._pool.group, kind))
        self.wasted(kind, tokens)

    def wasted(self, cause: str, tokens: int) -> None:
        """Tokens were sent for which there will be nothing to show."""
        self._meters.add(metrics.POOL_WASTED_TOKENS, tokens, (self._pool.group, cause))

    def failed(self, replica: str, kind: str) -> None:
        """A request failed."""
        self._meters.add(metrics.REPLICA_FAULTS, 1, (replica, kind))

    def _refresh(self) -> None:
        meters, control, group = self._meters, self._control, self._pool.group
        meters.set(metrics.POOL_WINDOW_RECORDS, len(control.window), (group,))
        meters.set(metrics.POOL_WINDOW_RECORDS_LIMIT, control.window.places, (group,))
        meters.set(metrics.POOL_STOPPED, control.stopped is not None, (group,))
        budget = control.retry_budget_tokens(self._clock())
        meters.set(metrics.POOL_RETRY_BUDGET_TOKENS, budget, (group,))
        meters.set(metrics.POOL_PREFIX_POSSIBLE_RATIO, control.prefix_possible_ratio, (group,))
        for factor in LimitingFactor:
            meters.set(metrics.POOL_LIMITING_FACTOR, factor is self.factor, (group, factor.value))
