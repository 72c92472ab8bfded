"""Is it healthy, what limits it, what is to be done: said in words, from a status alone."""

from collections.abc import Iterator

from mira_stream.core.outcome import LimitingFactor, Outcome
from mira_stream.daemon.status import Advice, Diagnosis, Health, PoolStatus, Status

WORDS: dict[str, str] = {
    LimitingFactor.KV: "KV is full",
    LimitingFactor.PREFILL: "prefill budget",
    LimitingFactor.REQUESTS: "request limit",
    LimitingFactor.SOURCE_STARVED: "nothing to send",
    LimitingFactor.SINK_BLOCKED: "sink is behind",
    LimitingFactor.BREAKER: "breaker open",
    LimitingFactor.RETRY_BUDGET: "retry budget",
    LimitingFactor.DRAINING: "draining",
}
"""What keeps a pool or a replica from another record, in two or three words."""

_LIMITS: dict[str, tuple[str | None, str]] = {
    LimitingFactor.KV: (
        "in_flight",
        "Limited by the replicas: their KV caches are as full as they should be.",
    ),
    LimitingFactor.PREFILL: (
        "in_flight",
        "Limited by the replicas: they compute prompts as fast as they can.",
    ),
    LimitingFactor.REQUESTS: (
        "in_flight",
        "Limited by [admission] requests_max: every replica has as many requests as it allows.",
    ),
    LimitingFactor.SINK_BLOCKED: (
        "received",
        "Limited by the sink: it takes rows more slowly than they come.",
    ),
    LimitingFactor.BREAKER: ("in_flight", "Nothing can be sent: no replica is able to take a record."),
    LimitingFactor.RETRY_BUDGET: (
        "window",
        "Limited by the retry budget: what failed waits until it is covered.",
    ),
    LimitingFactor.DRAINING: (
        None,
        "It is shutting down: nothing new is sent, what is in flight may end, all that is received is published.",
    ),
}
_WORST_FIRST = (
    LimitingFactor.DRAINING,
    LimitingFactor.SINK_BLOCKED,
    LimitingFactor.BREAKER,
    LimitingFactor.RETRY_BUDGET,
    LimitingFactor.REQUESTS,
    LimitingFactor.KV,
    LimitingFactor.PREFILL,
    LimitingFactor.SOURCE_STARVED,
)
_DEAD_SHARE = 0.05
_DEAD_PER_SECOND_MIN = 0.05
_SLOW_LISTING_SECONDS = 900.0
_LATE_SECONDS = 1.0
_NAMES = 3


def diagnose(status: Status) -> Diagnosis:
    """What a person wants to know first."""
    order = (Health.WRONG, Health.LOOK, Health.WELL)
    advice = sorted(_advice(status), key=lambda one: order.index(one.health))
    health = advice[0].health if advice else Health.WELL
    stage, limit = _limit(status)
    return Diagnosis(
        health=health, says=_verdict(status, health, len(advice)), limit=limit, stage=stage, advice=advice
    )


def _verdict(status: Status, health: Health, findings: int) -> str:
    if health is Health.WRONG:
        return "Something is wrong."
    if health is Health.LOOK:
        return "One thing to look at." if findings == 1 else f"{findings} things to look at."
    return {"starting": "Starting.", "draining": "Shutting down."}.get(status.state, "All is well.")


def _limit(status: Status) -> tuple[str | None, str]:
    """The stage that limits the whole, and a sentence about it."""
    if status.state == "starting":
        return "read", "Waiting for the first listing of the source."
    working = [pool for pool in status.pools if not pool.stopped]
    if not working:
        return "in_flight", "Nothing is sent: every pool is stopped."
    factors = {pool.limiting_factor for pool in working}
    worst = next((one for one in _WORST_FIRST if one in factors), None)
    if worst is None:
        return None, "Nothing limits it at the moment: records are being sent."
    if worst is LimitingFactor.SOURCE_STARVED:
        return _starved(status, sending=None in factors)
    stage, says = _LIMITS[worst]
    groups = [pool.group for pool in working if pool.limiting_factor == worst]
    return stage, says if len(groups) == len(status.pools) else f"{', '.join(groups)}: {says}"


def _starved(status: Status, *, sending: bool) -> tuple[str | None, str]:
    if sending:
        return None, "Nothing limits it at the moment: records are being sent."
    if status.objects_open or status.in_pipeline.get("preparing"):
        return "read", "Limited by reading: the replicas take records faster than they are read."
    if sum(status.in_pipeline.values()):
        return "read", "All that was listed is read: what is under way is the last of it."
    return None, "Caught up: all that was listed is read, scored and published."


def _advice(status: Status) -> Iterator[Advice]:
    if status.read != sum(status.outcomes.values()) + sum(status.in_pipeline.values()):
        yield Advice(
            health=Health.WRONG,
            says="Records that were read are not accounted for.",
            do="Keep the log and the ledger, run `mira-stream verify --config …`, and report it: this is a bug.",
            runbook="The identity is broken",
        )
    for pool in status.pools:
        yield from _of_pool(pool, draining=status.state == "draining")
    yield from _of_sink(status)
    yield from _of_source(status)
    yield from _of_letters(status)
    yield from _of_process(status)


def _of_pool(pool: PoolStatus, *, draining: bool) -> Iterator[Advice]:
    if pool.stopped:
        yield Advice(
            health=Health.WRONG,
            says=f"{pool.group} is stopped: {pool.stopped}",
            do="Correct the configuration, try it with `mira-stream check --config …`, then restart.",
            runbook="A pool is stopped",
        )
        return
    # One that is half open has answered a look: it only waits for a record.
    down = [one.name for one in pool.replicas if one.breaker == "open" and not one.leaving]
    if down and not draining:
        every = len(down) == len(pool.replicas)
        which = "No replica" if every else f"{len(down)} of {len(pool.replicas)} replicas"
        verb = "answers" if every else "does not answer" if len(down) == 1 else "do not answer"
        yield Advice(
            health=Health.WRONG if every else Health.LOOK,
            says=f"{which} of {pool.group} {verb}: {_named(down)}",
            do="Look at its server and its log. It is used again by itself once it answers.",
            runbook="Nothing is being sent",
        )
    blind = [one.name for one in pool.replicas if one.stale and one.breaker == "closed" and one.requests]
    if blind:
        yield Advice(
            health=Health.LOOK,
            says=f"The metrics of {_named(blind)} are old: it is filled with care only.",
            do="See whether its /metrics can be read from here.",
        )
    if pool.limiting_factor == LimitingFactor.RETRY_BUDGET:
        yield Advice(
            health=Health.LOOK,
            says=f"So many requests of {pool.group} fail that retries wait.",
            do="Look at the faults of its replicas, and at their logs.",
            runbook="Nothing is being sent",
        )


def _named(names: list[str]) -> str:
    shown = ", ".join(name.removeprefix("http://") for name in names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown


def _of_sink(status: Status) -> Iterator[Advice]:
    if status.stopped_partitions:
        name, problem = next(iter(status.stopped_partitions.items()))
        yield Advice(
            health=Health.WRONG,
            says=f"{len(status.stopped_partitions)} partitions are stopped, such as {name}: {problem}",
            do="`mira-stream verify --config …` says what else is wrong; restore the chain, then restart.",
            runbook="A partition is stopped",
        )
    if any(pool.limiting_factor == LimitingFactor.SINK_BLOCKED for pool in status.pools):
        yield Advice(
            health=Health.WRONG,
            says=f"{status.backlog_rows:,} rows wait to be published: nothing more is sent meanwhile.",
            do="See whether the sink's store takes writes, and what the log says of it.",
            runbook="Nothing is being sent",
        )


def _of_source(status: Status) -> Iterator[Advice]:
    ago = status.listed_seconds_ago
    if ago is not None and ago > _SLOW_LISTING_SECONDS and not status.config.once:
        yield Advice(
            health=Health.LOOK,
            says=f"The source was last listed {ago / 60:.0f} minutes ago: what is new is not seen.",
            do="See whether its store answers, and what the log says of it.",
        )


def _of_letters(status: Status) -> Iterator[Advice]:
    rates = status.rates
    dead, ended = rates.dead_lettered, rates.published
    if dead > _DEAD_PER_SECOND_MIN and dead > _DEAD_SHARE * ended:
        most = max(
            (one for one in status.reasons if one.outcome is Outcome.DEAD_LETTERED),
            key=lambda one: one.records,
            default=None,
        )
        why = f", most for {most.reason.value}: {most.meaning}" if most else ""
        yield Advice(
            health=Health.LOOK,
            says=f"{dead / ended:.0%} of the records of the last minute are dead letters{why}.",
            do=f"{_sentence(most.advice)} if it is one cause for all." if most else "Look at them below.",
            runbook=most.reason.value if most else None,
        )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_process(status: Status) -> Iterator[Advice]:
    if status.reload_refused:
        yield Advice(
            health=Health.LOOK,
            says=f"The last reload was refused: {status.reload_refused}",
            do="Correct the file and reload again, or restart; it runs on as before until then.",
        )
    if status.loop_lag_seconds > _LATE_SECONDS:
        yield Advice(
            health=Health.LOOK,
            says=f"The daemon is {status.loop_lag_seconds:.1f} s late: it lacks CPU.",
            do="See what else runs on this machine.",
        )
