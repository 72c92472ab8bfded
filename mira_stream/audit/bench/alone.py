"""A replica asked one thing at a time: how fast it prefills, and how fast a single reply grows."""

import asyncio
from collections.abc import Callable, Sequence
from statistics import StatisticsError, linear_regression, mean, median

from mira_stream.audit.bench.bodies import Body, of_one_token
from mira_stream.audit.bench.fleet import Fleet
from mira_stream.audit.bench.values import Alone
from mira_stream.core.errors import MiraStreamError
from mira_stream.core.usage import Reply

PREFILLS = 8
REPLIES = 3
_SPAN_MIN = 1.2


async def ask_alone(fleet: Fleet, on_step: Callable[[], None]) -> list[Alone]:
    """Probe every replica, all at the same time, each one request after the other."""
    found: list[Alone] = []
    async with asyncio.TaskGroup() as group:
        for replica in fleet.replicas:
            group.create_task(_probe(fleet, replica, found, on_step))
    return sorted(found, key=lambda one: list(fleet.replicas).index(one.replica))


async def _probe(fleet: Fleet, replica: str, found: list[Alone], on_step: Callable[[], None]) -> None:
    bodies = fleet.bodies.by_length()
    prefills = []
    # The first request may warm something up: it is sent, and not looked at.
    for body in [bodies[len(bodies) // 2], *spread_out(bodies, PREFILLS)]:
        prefills.append(await _timed(fleet, replica, of_one_token(fleet.bodies.renewed(body))))
        on_step()
    replies = []
    for body in _around_the_middle(bodies):
        replies.append(await _timed(fleet, replica, fleet.bodies.renewed(body)))
        on_step()
    found.append(rates(replica, prefills[1:], [reply for reply in replies if reply is not None]))


async def _timed(fleet: Fleet, replica: str, body: Body) -> tuple[int, int, float] | None:
    """Prompt and completion tokens and seconds of one request; None if it failed, which the fleet has noted."""
    began = fleet.pace.now()
    ended: Reply | MiraStreamError = await fleet.ask(replica, body)
    if isinstance(ended, MiraStreamError):
        return None
    return ended.usage.prompt_tokens, ended.usage.completion_tokens, fleet.pace.now() - began


def rates(
    replica: str, prefills: Sequence[tuple[int, int, float] | None], replies: Sequence[tuple[int, int, float]]
) -> Alone:
    """The rates that (prompt tokens, completion tokens, seconds) of lone requests show: `prefills` ended with their
    first token; None stands for one that failed."""
    line = _line(
        [(float(prompt), seconds) for one in prefills if one is not None for prompt, _, seconds in [one]]
    )
    overhead, per_token = line if line is not None else (0.0, 0.0)
    speeds = [
        (completion - 1) / rest
        for prompt, completion, seconds in replies
        if completion > 1 and (rest := seconds - overhead - prompt * per_token) > 0
    ]
    return Alone(
        replica=replica,
        prefill_tokens_per_second=1 / per_token if per_token > 0 else None,
        decode_tokens_per_second=median(speeds) if speeds else None,
        overhead_seconds=overhead,
        output_tokens=mean([completion for _, completion, _ in replies]) if replies else 0.0,
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Intercept and slope of a rising line; None where the prompts are too much alike to tell, or it does not rise."""
    sizes = [size for size, _ in points]
    if len(points) < 3 or max(sizes) < _SPAN_MIN * min(sizes):
        return None
    try:
        found = linear_regression(sizes, [seconds for _, seconds in points])
    except StatisticsError:
        return None
    return (max(0.0, found.intercept), found.slope) if found.slope > 0 else None


def spread_out(bodies: Sequence[Body], wanted: int) -> list[Body]:
    """So many of `bodies`, evenly from the first to the last; they repeat where there are fewer."""
    last = len(bodies) - 1
    return [bodies[round(last * step / (wanted - 1))] for step in range(wanted)]


def _around_the_middle(bodies: Sequence[Body]) -> list[Body]:
    middle = len(bodies) // 2
    return [bodies[(middle + step) % len(bodies)] for step in range(REPLIES)]
