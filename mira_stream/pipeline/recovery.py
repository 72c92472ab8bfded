"""Bring ledger and sink to one view before anything is read: the sink is the truth, the ledger its cache."""

import structlog

from mira_stream.core.errors import Refusal
from mira_stream.pipeline.commit import Committer
from mira_stream.ports import Ledger, Sink

_log = structlog.get_logger(__name__)


async def recover(ledger: Ledger, sink: Sink, committer: Committer) -> None:
    """Redo sealed plans, then adopt every segment that the sink has and the ledger does not know.

    With an empty ledger this rebuilds all progress from the segments' trailers. Raises Refusal if the sink lost a
    segment that the ledger knows as published.
    """
    await committer.recover()
    chains = await ledger.chains()
    for partition in sorted({*chains, *await sink.partitions()}):
        next_seq = chains.get(partition, 0)
        if next_seq and await sink.trailer(partition, next_seq - 1) is None:
            raise Refusal(
                f"the sink has lost segment {next_seq - 1} of {partition}, which the ledger knows as published",
                "restore it, or move the ledger away to rebuild progress from what the sink has "
                "(records of the lost segment are then scored again)",
            )
        await _adopt_tail(partition, next_seq, sink, committer)


async def _adopt_tail(partition: str, next_seq: int, sink: Sink, committer: Committer) -> None:
    seq = next_seq
    while (trailer := await sink.trailer(partition, seq)) is not None:
        await committer.adopt(trailer)
        seq += 1
    if seq > next_seq:
        _log.info(
            "segments adopted from the sink", partition=partition, segments=seq - next_seq, next_seq=seq
        )
