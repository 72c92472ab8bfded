"""Bring ledger and sink to one view before anything is read: the sink is the truth, the ledger its cache."""

import structlog

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.errors import Refusal
from mira_stream.pipeline.commit import Committer
from mira_stream.ports import Chain, Ledger, Sink

_log = structlog.get_logger(__name__)
_NOTHING = Chain(IntervalSet())
_TRAILERS_HELD_MAX = 64


async def recover(ledger: Ledger, sink: Sink, committer: Committer) -> None:
    """Redo sealed plans, then adopt every segment that the sink has and the ledger does not know.

    With an empty ledger this rebuilds all progress: from the newest checkpoint of each chain and the trailers of the
    segments above it. Raises Refusal if the sink lost a segment above its checkpoint; nothing is published then.
    """
    found = await sink.survey()
    for partition, next_seq in sorted((await ledger.chains()).items()):
        _refuse_lost(partition, next_seq, found.get(partition, _NOTHING))
    for partition, chain in sorted(found.items()):
        _refuse_gaps(partition, chain)
    await committer.recover()
    known = await ledger.chains()
    for partition, chain in sorted(found.items()):
        next_seq = known.get(partition, 0)
        if next_seq <= chain.checkpoint:
            next_seq = await _adopt_checkpoint(partition, sink=sink, committer=committer)
        if next_seq < chain.end:
            await _adopt_tail(partition, next_seq, chain.end, sink=sink, committer=committer)


def _refuse_lost(partition: str, next_seq: int, chain: Chain) -> None:
    """Raise Refusal if the last segment that the ledger knows is gone, and no checkpoint says that it may be."""
    last = next_seq - 1
    if last > chain.checkpoint and last not in chain.held:
        raise Refusal(
            f"the sink has lost segment {last} of {partition}, which the ledger knows as published",
            "restore it, or move the ledger away to rebuild progress from what the sink has "
            "(records of the lost segment are then scored again)",
        )


def _refuse_gaps(partition: str, chain: Chain) -> None:
    """Raise Refusal if a segment is missing: going on would score the records of the later ones again, and publish
    them twice."""
    if chain.missing:
        raise Refusal(
            f"segment {chain.missing.spans[0][0]} of {partition} is missing in the sink, which has later ones up to "
            f"{chain.end - 1}, and no checkpoint covers it",
            "restore it from a backup; without one, move the later segments out of the sink: their records are "
            "scored again",
        )


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
