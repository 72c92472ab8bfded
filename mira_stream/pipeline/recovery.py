"""Bring ledger and sink to one view before anything is read: the sink is the truth, the ledger its cache."""

import asyncio
from collections.abc import Mapping

import structlog

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Chain
from mira_stream.core.errors import Corrupt, Refusal
from mira_stream.pipeline.commit import Committer
from mira_stream.ports import Ledger, Sink

_log = structlog.get_logger(__name__)
_NOTHING = Chain(IntervalSet())
_TRAILERS_HELD_MAX = 64
_LOOKS_AT_ONCE = 16
_Troubles = Mapping[str, Refusal]
"""What is wrong with chains, by partition."""


async def recover(ledger: Ledger, sink: Sink, committer: Committer) -> None:
    """Redo sealed plans, then adopt every segment that the sink has and the ledger does not know.

    With an empty ledger this rebuilds all progress: from the newest checkpoint of each chain and the trailers of the
    segments above it. Raises Refusal if the sink lost a segment above its checkpoint, or if the two tell
    different histories; nothing is published then.
    """
    found = await sink.survey()
    known = await ledger.chains()
    chains = {one: found.get(one, _NOTHING) for one in {*found, *known}}
    troubles = _incomplete(chains, known)
    troubles |= await _forked(await ledger.last_plans(), sink, without=troubles)
    _stop_broken(troubles, committer, published=_published(chains, known))
    committer.checkpoints.begin({one: chain for one, chain in found.items() if one not in committer.stopped})
    await committer.recover()
    known = await ledger.chains()
    for partition, chain in sorted(found.items()):
        if partition not in committer.stopped:
            await _catch_up(partition, known.get(partition, 0), chain, sink=sink, committer=committer)


def _published(chains: Mapping[str, Chain], known: Mapping[str, int]) -> int:
    """How many chains have published anything."""
    return sum(1 for partition, chain in chains.items() if chain.end or known.get(partition, 0))


def _stop_broken(troubles: _Troubles, committer: Committer, *, published: int) -> None:
    """Stop each partition whose chain cannot be gone on with. Raises Refusal if that is all of them."""
    if troubles and len(troubles) == published:
        raise next(iter(troubles.values()))
    for partition, trouble in sorted(troubles.items()):
        committer.stop(partition, f"{trouble}: {trouble.hint}")


def _incomplete(chains: Mapping[str, Chain], known: Mapping[str, int]) -> dict[str, Refusal]:
    """The chains that lack a segment."""
    return {
        partition: trouble
        for partition, chain in sorted(chains.items())
        if (trouble := _lost(partition, known.get(partition, 0), chain) or _gap(partition, chain))
    }


async def _forked(
    last_plans: Mapping[str, tuple[int, str]], sink: Sink, *, without: _Troubles
) -> dict[str, Refusal]:
    """The chains that are not those which the ledger knows: one of the two was put back from a backup, and the other
    went on. One look for each chain: plans of later segments rest on those before."""
    places = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def look(partition: str, seq: int, plan_id: str) -> Refusal | None:
        async with places:
            try:
                standing = await sink.plan_id(partition, seq)
            except Corrupt as error:
                return Refusal(str(error), _FORKED_HINT)
        return None if standing in (plan_id, None) else _other_history(partition, seq, plan_id, standing)

    async with asyncio.TaskGroup() as group:
        looks = {
            partition: group.create_task(look(partition, *last), name=f"compare {partition}")
            for partition, last in last_plans.items()
            if partition not in without
        }
    return {partition: trouble for partition, task in looks.items() if (trouble := task.result())}


_FORKED_HINT = (
    "move the ledger away to rebuild progress from what the sink has (what only the ledger knows is scored again), "
    "or put back the sink that this ledger belongs to"
)


def _other_history(partition: str, seq: int, plan_id: str, standing: str | None) -> Refusal:
    return Refusal(
        f"segment {seq} of {partition} is another one (plan {standing}) than the ledger knows as published (plan "
        f"{plan_id}): ledger and sink were parted, as by one of them being put back from a backup",
        _FORKED_HINT,
    )


def _lost(partition: str, next_seq: int, chain: Chain) -> Refusal | None:
    """If the last segment that the ledger knows is gone, and no checkpoint says that it may be."""
    last = next_seq - 1
    if last <= chain.checkpoint or last in chain.held:
        return None
    return Refusal(
        f"the sink has lost segment {last} of {partition}, which the ledger knows as published",
        "restore it, or move the ledger away to rebuild progress from what the sink has "
        "(records of the lost segment are then scored again)",
    )


def _gap(partition: str, chain: Chain) -> Refusal | None:
    """If a segment is missing: going on would score the records of the later ones again, and publish them twice."""
    if not chain.missing:
        return None
    return Refusal(
        f"segment {chain.missing.spans[0][0]} of {partition} is missing in the sink, which has later ones up to "
        f"{chain.end - 1}, and no checkpoint covers it",
        "restore it from a backup; without one, move the later segments out of the sink: their records are "
        "scored again",
    )


async def _catch_up(partition: str, next_seq: int, chain: Chain, *, sink: Sink, committer: Committer) -> None:
    """Adopt what the ledger does not know of one chain; a damaged segment or checkpoint stops its partition."""
    try:
        if next_seq <= chain.checkpoint:
            next_seq = await _adopt_checkpoint(partition, sink=sink, committer=committer)
        if next_seq < chain.end:
            await _adopt_tail(partition, next_seq, chain.end, sink=sink, committer=committer)
    except Corrupt as error:
        committer.stop(partition, str(error))


async def _adopt_checkpoint(partition: str, *, sink: Sink, committer: Committer) -> int:
    """The seq behind the newest checkpoint of the chain, which is known from here on."""
    checkpoint = await sink.checkpoint(partition)
    assert checkpoint is not None, f"{partition}: its checkpoint was listed"
    await committer.adopt_checkpoint(checkpoint)
    _log.info("checkpoint adopted from the sink", partition=partition, seq=checkpoint.seq)
    return checkpoint.seq + 1


async def _adopt_tail(partition: str, next_seq: int, end: int, *, sink: Sink, committer: Committer) -> None:
    for start in range(next_seq, end, _TRAILERS_HELD_MAX):
        trailers = await sink.trailers(partition, start, min(start + _TRAILERS_HELD_MAX, end))
        for seq, trailer in enumerate(trailers, start):
            if trailer is None:
                raise Refusal(
                    f"segment {seq} of {partition} was listed and is gone", "see who removes segments"
                )
            await committer.adopt(trailer)
    _log.info("segments adopted from the sink", partition=partition, segments=end - next_seq, next_seq=end)
