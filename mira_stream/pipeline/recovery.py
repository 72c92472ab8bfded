"""Bring ledger and sink to one view before anything is read: the sink is the truth, the ledger its cache."""

import structlog

from mira_stream.core.errors import Refusal
from mira_stream.pipeline.commit import Committer
from mira_stream.ports import Ledger, Sink

_log = structlog.get_logger(__name__)


async def recover(ledger: Ledger, sink: Sink, committer: Committer) -> None:
    """Redo sealed plans, then adopt every segment that the sink has and the ledger does not know.

    With an empty ledger this rebuilds all progress from the segments' trailers. Raises Refusal if the sink lost a
    segment that the ledger knows as published, or has later ones behind one that is missing; nothing is published then.
    """
    found = await sink.chains()
    for partition, next_seq in sorted((await ledger.chains()).items()):
        await _refuse_lost(partition, next_seq, found.get(partition, 0), sink)
    await committer.recover()
    chains = await ledger.chains()
    for partition, end in sorted(found.items()):
        next_seq = chains.get(partition, 0)
        if next_seq < end:
            await _adopt_tail(partition, next_seq, end, sink=sink, committer=committer)


async def _refuse_lost(partition: str, next_seq: int, end: int, sink: Sink) -> None:
    """Raise Refusal if the last segment that the ledger knows is gone; `end` is where the sink's chain ends."""
    if next_seq in (0, end):
        return
    if next_seq > end or await sink.trailer(partition, next_seq - 1) is None:
        raise Refusal(
            f"the sink has lost segment {next_seq - 1} of {partition}, which the ledger knows as published",
            "restore it, or move the ledger away to rebuild progress from what the sink has "
            "(records of the lost segment are then scored again)",
        )


async def _adopt_tail(partition: str, next_seq: int, end: int, *, sink: Sink, committer: Committer) -> None:
    for seq in range(next_seq, end):
        trailer = await sink.trailer(partition, seq)
        if trailer is None:
            # Going on would score the records of the later segments again, and publish them twice.
            raise Refusal(
                f"segment {seq} of {partition} is missing in the sink, which has later ones up to {end - 1}",
                "restore it from a backup; without one, move the later segments out of the sink: their records are "
                "scored again",
            )
        await committer.adopt(trailer)
    _log.info("segments adopted from the sink", partition=partition, segments=end - next_seq, next_seq=end)
