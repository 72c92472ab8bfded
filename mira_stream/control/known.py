"""What is known of an object before it is read, and of a chain before it is gone on with."""

import msgspec

from mira_stream.control.intervals import IntervalSet
from mira_stream.core.sight import Prefix, SeenObject


class PendingObject(msgspec.Struct, frozen=True):
    """An object that is discovered and not ended. `done` holds the generation-0 ordinals that need no reading.

    Args:
        superseded: this version arrived while another one of the same uri is kept (`on_overwrite = "first"`).
        lines: rows in all as of an earlier end, this process's or a published one.
        prefix: how the file began when it was read, if it is a local one.
        closed: it has its closing row already.
    """

    seen: SeenObject
    done: IntervalSet
    superseded: bool = False
    lines: int | None = None
    prefix: Prefix | None = None
    closed: bool = False


class Holding(msgspec.Struct, frozen=True):
    """What ledger and sink have of an object version in one generation; `prefix` as in `PendingObject`."""

    published: IntervalSet = IntervalSet()
    received: IntervalSet = IntervalSet()
    prefix: Prefix | None = None


class Chain(msgspec.Struct, frozen=True):
    """A chain as one listing of the sink shows it.

    Args:
        held: the seqs that have a segment.
        checkpoint: the seq of the newest checkpoint, -1 without one; what it covers may have been removed.
        since: when the oldest segment above that checkpoint was written, or earlier; seconds since the epoch.
    """

    held: IntervalSet
    checkpoint: int = -1
    since: float = 0.0

    @property
    def end(self) -> int:
        """The seq behind all that was published."""
        return max(self.held.end, self.checkpoint + 1)

    @property
    def missing(self) -> IntervalSet:
        """The seqs above the checkpoint that should have a segment and have none."""
        return IntervalSet.from_spans([(self.checkpoint + 1, self.end)]).minus(self.held)


class Backlog(msgspec.Struct, frozen=True):
    """What one partition holds that is durable and not yet published. `oldest` is ledger time (monotonic seconds)."""

    partition: str
    rows: int
    bytes: int
    oldest: float
    sealed: bool
