"""The arithmetic of the bench, without a loop or a clock: spreads, steady rates, capacity, the knee, what to try next."""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import linear_regression, mean, median, stdev

from mira_stream.audit.bench.values import Answer, Look, Point, Spread

_NEAR, _NEAR_AT_MOST = 0.01, 0.03
_RISE = 1.02
_FLAT_POINTS = 2
_BLOCKS = 4
_CROWDED = 1.0
_CONCURRENCY_MAX = 1024
_SAMPLES_MIN = 8


def spread(values: Sequence[float]) -> Spread:
    """Percentiles by nearest rank."""
    if not values:
        return Spread()
    ordered = sorted(values)

    def at(share: float) -> float:
        return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])

    return Spread(
        mean=mean(ordered),
        p10=at(0.1),
        p50=at(0.5),
        p90=at(0.9),
        p95=at(0.95),
        p99=at(0.99),
        max=float(ordered[-1]),
    )


# Rates.


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Units per second of a counter seen at moments, by least squares: a step that ends at the edge of the window
    moves it less than it moves the difference of two looks. None with fewer than three looks."""
    times = [at for at, _ in points]
    if len(points) < 3 or times[0] == times[-1]:
        return None
    return linear_regression(times, [value for _, value in points]).slope


def noise(points: Sequence[tuple[float, float]]) -> float:
    """Standard error of `slope`, relative, from how its blocks differ; 0 if there are too few looks to tell.

    The edges of blocks err more than those of the whole: it is rather too large than too small.
    """
    size = (len(points) - 1) // _BLOCKS
    blocks = [slope(points[size * block : size * (block + 1) + 1]) for block in range(_BLOCKS)]
    rates = [rate for rate in blocks if rate is not None]
    if len(rates) < _BLOCKS or mean(rates) <= 0:
        return 0.0
    return stdev(rates) / sqrt(_BLOCKS) / mean(rates)


def answered_in(answers: Sequence[Answer], flights: Sequence[float], begin: float, end: float) -> float:
    """Records answered in a window, work in progress counted: each by the share of its life inside.

    `flights` are when those that are in flight at `end` were sent; how long they will take is not known yet, so they
    count as if they took the mean latency, or a little longer than they have.
    """
    lives = [(max(begin, one.started), min(end, one.ended), one.latency) for one in answers]
    done = sum((until - since) / life for since, until, life in lives if until > since and life > 0)
    ended = [life for since, until, life in lives if until > since]
    if not ended:
        return done
    typical = mean(ended)
    for sent in flights:
        done += max(0.0, end - max(begin, sent)) / max(typical, 1.1 * (end - sent))
    return done


def work_share(
    prompt_tokens: float, prefill_tokens_per_second: float | None, records_per_second: float
) -> float:
    """Which share of a busy replica's time goes into prompts: 0…1; one half if it is not known."""
    if not prefill_tokens_per_second or records_per_second <= 0:
        return 0.5
    return min(1.0, max(0.0, prompt_tokens / prefill_tokens_per_second * records_per_second))


# Capacity.


def resident_tokens(look: Look, *, delay: float, decode_rate: float, output_tokens: float) -> float:
    """Our tokens in the KV cache at a look: the oldest that run, each with its prompt and what it has said so far.

    A reply begins `delay` seconds after its request was sent and grows by `decode_rate` tokens a second, to
    `output_tokens` at most: means over the window, since no token is seen before a reply is whole.
    """
    running = look.flights[: look.load.running]
    said = (min(output_tokens, max(0.0, (look.at - sent - delay) * decode_rate)) for sent, _ in running)
    return sum(prompt for _, prompt in running) + sum(said)


def capacity_tokens(samples: Sequence[tuple[float, float]]) -> float | None:
    """Tokens that a full KV cache holds, from (tokens resident, share in use) pairs: the median of their ratio over the
    looks at which at least half of the greatest share seen was in use. None without such looks."""
    used = [(tokens, usage) for tokens, usage in samples if usage > 0.005 and tokens > 0]
    if len(used) < _SAMPLES_MIN:
        return None
    fullest = max(usage for _, usage in used)
    return median(tokens / usage for tokens, usage in used if usage >= fullest / 2)


# The knee.


def knee(points: Sequence[Point]) -> Point | None:
    """The least concurrency whose goodput is within 1 % of the best; within up to 3 % where measuring errs as much
    (two standard errors of both)."""
    best = max(points, key=lambda point: point.records_per_second, default=None)
    if best is None or best.records_per_second <= 0:
        return None
    rate = best.records_per_second

    def is_good(point: Point) -> bool:
        error = 2 * sqrt((best.noise * rate) ** 2 + (point.noise * point.records_per_second) ** 2)
        return point.records_per_second >= rate - min(max(error, _NEAR * rate), _NEAR_AT_MOST * rate)

    return min(filter(is_good, points), key=lambda point: point.concurrency)


def next_doubling(points: Sequence[Point]) -> int | None:
    """The next concurrency of a sweep that doubles from 1; None once two points in a row brought less than 2 % over
    the best before them, or most requests only wait."""
    if not points:
        return 1
    best, flat = 0.0, 0
    for point in points:
        flat = 0 if point.records_per_second > _RISE * best else flat + 1
        best = max(best, point.records_per_second)
    last = points[-1]
    crowded = flat > 0 and (last.waiting or 0.0) > _CROWDED * max(1.0, last.running or inf)
    following = round(2 * last.concurrency)
    return None if flat >= _FLAT_POINTS or crowded or following > _CONCURRENCY_MAX else following


def refinement(points: Sequence[Point]) -> int | None:
    """A concurrency worth measuring between the knee and the point below it; None if they are close together."""
    found = knee(points)
    if found is None:
        return None
    below = max((point.concurrency for point in points if point.concurrency < found.concurrency), default=0.0)
    middle = round((below + found.concurrency) / 2)
    close = found.concurrency <= 2 or found.concurrency / max(below, 1.0) < 1.4
    return None if close or middle in {round(point.concurrency) for point in points} else middle
