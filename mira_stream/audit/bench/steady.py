"""From what was seen in a window to the figures of a point: rates of work with work in progress counted, and states."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from statistics import mean

from mira_stream.audit.bench.figures import (
    answered_in,
    capacity_tokens,
    noise,
    resident_tokens,
    slope,
    spread,
    work_share,
)
from mira_stream.audit.bench.values import Look, Mix, Point, Window
from mira_stream.core.usage import Load

_FOREIGN_REQUESTS = 2
_FOREIGN_SHARE = 0.5


def points_of(windows: Sequence[Window], mix: Mix) -> list[Point]:
    """The points of all windows; what they share, such as how a replica divides its time, is told from all of them."""
    replicas = max((len(window.looks) for window in windows), default=1) or 1
    # First with prompts and replies weighed alike, to learn how busy replicas divide their time between them.
    best = max((_rates(window, mix, 0.5)[0] for window in windows), default=0.0) / replicas
    share = work_share(mix.prompt_tokens, mix.prefill_tokens_per_second, best)
    return [_point(window, mix, share) for window in windows]


def _rates(window: Window, mix: Mix, share: float) -> tuple[float, float, bool]:
    """Records per second, their noise, and whether they come from the engines' counters."""

    def work(load: Load) -> float | None:
        if load.prompt_tokens is None or load.generation_tokens is None:
            return None
        return (
            share * load.prompt_tokens / max(1.0, mix.prompt_tokens)
            # There are servers that count no tokens of their replies.
            + (1 - share) * load.generation_tokens / max(1.0, mix.output_tokens)
        )

    if not is_foreign(window):
        counters = [_counter(looks, work) for looks in window.looks.values()]
        slopes = [slope(counter) for counter in counters]
        if slopes and None not in slopes:
            rates = [one for one in slopes if one is not None]
            errors = [noise(counter) * rate for counter, rate in zip(counters, rates, strict=True)]
            total = sum(rates)
            return total, sqrt(sum(error * error for error in errors)) / total if total else 0.0, True
    answered = answered_in(window.answers, window.flights, window.begin, window.end)
    return answered / window.seconds, 1 / sqrt(answered) if answered else 0.0, False


def _counter(looks: Sequence[Look], value: Callable[[Load], float | None]) -> list[tuple[float, float]]:
    """A counter over the window; empty if it is missing or went back, as it does when an engine is started again."""
    seen = [(look.at, found) for look in looks if (found := value(look.load)) is not None]
    restarted = any(after < before for (_, before), (_, after) in pairwise(seen))
    return [] if restarted or len(seen) < len(looks) else seen


def is_foreign(window: Window) -> bool:
    """Whether others use a replica, too: most looks show requests that are not ours."""
    for looks in window.looks.values():
        more = [
            look.load.running + look.load.waiting > len(look.flights) + _FOREIGN_REQUESTS for look in looks
        ]
        if looks and sum(more) > _FOREIGN_SHARE * len(looks):
            return True
    return False


def _point(window: Window, mix: Mix, share: float) -> Point:
    records, error, counted = _rates(window, mix, share)
    ended = [one for one in window.answers if window.begin <= one.ended <= window.end]
    looks = [look for one in window.looks.values() for look in one]
    prompt_rate = _total_rate(window, lambda load: load.prompt_tokens) if counted else None
    output_rate = _total_rate(window, lambda load: load.generation_tokens) if counted else None
    running = _mean([look.load.running for look in looks])
    if output_rate is None:
        output_rate = records * mix.output_tokens
    preempted = _total_rate(window, lambda load: load.preemptions)
    per_request = output_rate / (running * len(window.looks)) if running else None
    latency = spread([one.latency for one in ended])
    return Point(
        name=window.name,
        concurrency=window.concurrency,
        seconds=window.seconds,
        answered=len(ended),
        incomplete=sum(not one.complete for one in ended),
        records_per_second=records,
        noise=error,
        prompt_tokens_per_second=records * mix.prompt_tokens if prompt_rate is None else prompt_rate,
        generation_tokens_per_second=output_rate,
        latency=latency,
        running=running,
        waiting=_mean([look.load.waiting for look in looks]),
        kv_usage=_mean([look.load.kv_usage for look in looks if look.load.kv_usage is not None]),
        preemptions_per_100=100 * preempted / records if preempted is not None and records else None,
        decode_tokens_per_second=per_request,
        capacity_tokens=_capacity(looks, mix, per_request, latency.mean),
        failures=Counter(failure.reason for failure in window.failures),
        counted=counted,
        foreign=is_foreign(window),
        settled=window.settled,
    )


def _total_rate(window: Window, value: Callable[[Load], float | None]) -> float | None:
    slopes = [slope(_counter(looks, value)) for looks in window.looks.values()]
    return None if not slopes or None in slopes else sum(one for one in slopes if one is not None)


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _capacity(looks: Sequence[Look], mix: Mix, decode_rate: float | None, latency: float) -> float | None:
    """Of one replica: its tokens over its usage, where the engine shows as many requests as we have there."""
    if not decode_rate:
        return None
    delay = max(0.0, latency - mix.output_tokens / decode_rate)
    samples = []
    for look in looks:
        ours = look.load.running + look.load.waiting == len(look.flights)
        if ours and look.load.kv_usage is not None:
            tokens = resident_tokens(
                look, delay=delay, decode_rate=decode_rate, output_tokens=mix.output_tokens
            )
            samples.append((tokens, look.load.kv_usage))
    return capacity_tokens(samples)
