"""The seams: every Protocol that the pipeline and the adapters agree on, each method with its guarantee.

All methods are cancel points unless they are plain `def`. Errors are those of `core/errors.py`; nothing else leaks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from mira_stream.control.known import Backlog, Chain, Holding, PendingObject
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.replay import ReplayAnswer, ReplayRequest
from mira_stream.core.request import PromptIds
from mira_stream.core.segment import Cumulated, Plan, PublishedKey, Received, Trailer
from mira_stream.core.sight import FileSight, LineBatch, Prefix, SeenObject, StoredObject
from mira_stream.core.usage import Load, Reply, ServedModel

Clock = Callable[[], float]
"""Monotonic seconds."""
Known = Callable[[Sequence[str]], Mapping[str, str]]
"""The `change` marks of those uris that are known."""


class ObjectStore(Protocol):
    """A prefix of an object store, or a folder. Keys are relative to `uri`, with `/` between parts."""

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`, `file:///real/path`, …, without a trailing slash, query or credentials."""

    def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        """Pages of objects under `prefix`, keys `> after` only; bounded memory; order is not promised.

        `prefix` ends at a path boundary. Temporary and hidden names of our own are left out.
        """

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        """The bytes `[start, end)`; past the end is shorter, not an error.

        Raises Overwritten if `etag` is given and no longer current, Missing if the object is gone.
        """

    async def head(self, key: str) -> StoredObject | None:
        """The object's entry, or None if it is not there."""

    async def create(self, key: str, data: bytes) -> None:
        """Create-if-absent, atomic and durable on return: readers see all of it or nothing.

        Raises AlreadyExists (what is there is durable too), Transient (409, or it may have landed), or Saturated.
        """

    async def settle(self) -> None:
        """Make durable all that can be seen now; called before what others may have created is relied on."""

    async def delete(self, key: str) -> None:
        """Remove the object; gone already is no error. Used for the probe's own files only."""


class Source(Protocol):
    """A live prefix of objects."""

    def discover(
        self, *, known: Known, newest: Callable[[str], Sequence[str]] = lambda _: ()
    ) -> AsyncIterator[Sequence[SeenObject]]:
        """One full listing, page by page, in bounded memory; each object once.

        `known` tells of some uris under which `change` mark the caller has seen them; unchanged objects are left out;
        one with `UNSETTLED` behind its mark never is. `newest` tells the greatest known uris below one: what comes
        behind these may be shown before everything is. Names that are not objects are ignored and counted.
        """

    def read(
        self, version: ObjectVersion, *, once: bool, prefix: Prefix | None = None
    ) -> AsyncGenerator[LineBatch, None]:
        """All lines of that version, in order, from ordinal 0; the last batch carries the end.

        Never raises for what the bytes are: damage is an `end.reason`. Raises Transient for I/O trouble, Missing if
        the object is gone, Denied if we may not read it. `once` decides about unsettled tails as the design says. A
        local file that no longer begins with `prefix` is overwritten; one renamed in its folder is read there.
        """

    async def check(self) -> None:
        """Raises Transient, Saturated or Refusal if nothing at all can be had of the source now."""


class Checkpoint(Protocol):
    """All that the segments of a chain hold together, up to one of them; derived from the chain alone."""

    @property
    def partition(self) -> str:
        """Whose chain."""

    @property
    def seq(self) -> int:
        """The last segment that it covers; it covers all before too."""

    def plan_id(self, seq: int) -> str | None:
        """Of a segment that it was the first to cover; None for any other."""

    def entries(self) -> Iterator[Cumulated]:
        """One per object version and generation, ascending, in bounded memory; blocking. Raises Corrupt."""


class Ledger(Protocol):
    """The durable write-ahead cache of one daemon. Everything it returns from has been synced to disk."""

    def known(self, uris: Sequence[str]) -> Mapping[str, str]:
        """The `change` mark of each known uri, with `UNSETTLED` behind it if it is wanted even if unchanged. Quick."""

    def newest(self, below: str) -> Sequence[str]:
        """The greatest known uri of the folder `below`, and of some of the last folders in it. A quick read."""

    async def begin_listing(self) -> None:
        """A listing of everything begins: what may not have settled is waited for."""

    async def end_listing(self) -> None:
        """The listing came to its end: what it did not show is gone from its name, and pending once more."""

    async def discover(self, seen: Sequence[SeenObject]) -> int:
        """Remember objects; those already ended and unchanged are not pending again. Returns how many are new."""

    async def next_pending(
        self, limit: int, exclude: frozenset[str], *, wanted: Callable[[str], bool] = lambda _: True
    ) -> Sequence[PendingObject]:
        """Up to `limit` pending objects of `wanted` sources (asked in any thread) in order of discovery, whose uri is not
        in `exclude`; not those postponed."""

    async def postpone(self, version: ObjectVersion, sight: FileSight | None = None) -> None:
        """The object is not settled: pending again at the next discovery."""

    async def put_off(self, version: ObjectVersion) -> None:
        """The object cannot be read now: pending again at the next discovery."""

    async def end_object(self, version: ObjectVersion, lines: int, sight: FileSight | None = None) -> None:
        """The end of the object was read: `lines` rows in all. Called before its last row is received."""

    async def receive(self, received: Sequence[Received]) -> Sequence[bool]:
        """Make outcomes durable, in this order; for each: False if it is received or published already."""

    async def seal(self, partition: str) -> Plan | None:
        """Fix the next plan of the partition, durable; the unconfirmed one if there is one; None if nothing waits."""

    async def advance(self, plan: Plan) -> None:
        """The plan is published: mark its ranges, delete its rows, move on to seq + 1. Idempotent."""

    async def adopt(self, trailer: Trailer, rows: Sequence[PublishedKey]) -> Sequence[RecordKey]:
        """Somebody else published (partition, seq): take over its ranges and lines, also of unknown objects, drop our
        stored copies of its rows and the sealed plan of that seq. Returns the keys of the dropped rows."""

    async def adopt_checkpoint(self, checkpoint: Checkpoint) -> Sequence[Received]:
        """The chain is published up to that checkpoint: take over all of it at once, and go on behind it.
        Returns the stored outcomes of ours that are published there, now dropped. Idempotent."""

    async def holding(self, version: ObjectVersion, generation: int) -> Holding:
        """What is published, and received, of an object version in that generation; empty for an unknown one."""

    async def chains(self) -> dict[str, int]:
        """For each partition the next seq."""

    async def last_plans(self) -> Mapping[str, tuple[int, str]]:
        """For each partition the seq of its last segment and its plan id, if the ledger has seen it published."""

    async def backlogs(self) -> Sequence[Backlog]:
        """What waits, per partition."""

    async def unpublished(self) -> Sequence[RecordKey]:
        """The keys of all rows received and not published, in order of receipt; bounded by the backlog limit."""

    async def close(self) -> None:
        """Sync and release the lock; idempotent."""


class Sink(Protocol):
    """The published segments: the truth."""

    async def publish(self, plan: Plan) -> Trailer | None:
        """Steps 3 and 4: create the segment and confirm whose it is; retries until known.

        Returns the trailer that stands at (partition, seq): ours if its `plan_id` is the plan's. None: a checkpoint
        covers that place, and what stood there has been removed since; nothing was published.
        """

    async def trailers(self, partition: str, start: int, stop: int) -> Sequence[Trailer | None]:
        """Those of `[start, stop)`, by bounded range reads; None for a segment that is not there. Raises Corrupt."""

    async def rows(self, partition: str, seq: int) -> Sequence[PublishedKey]:
        """The keys and outcomes of a published segment's rows."""

    async def plan_id(self, partition: str, seq: int) -> str | None:
        """Of the segment that stands there, or did by a checkpoint's word; None if nothing tells. Raises Corrupt."""

    async def survey(self) -> Mapping[str, Chain]:
        """Every chain that has a segment or a checkpoint, by one listing."""

    async def checkpoint(self, partition: str) -> Checkpoint | None:
        """The newest checkpoint of a chain, read whole, or None. Raises Corrupt."""

    async def write_checkpoint(self, partition: str, seq: int) -> None:
        """Create it if there is none at or above `seq`. Raises Corrupt if a segment since the last one is missing."""


class Replays(Protocol):
    """Requests to score records once more; durable, also before the daemon that will see them was started."""

    async def unanswered(self) -> Sequence[str]:
        """The names of requests that have no answer, the oldest first."""

    async def request(self, name: str) -> ReplayRequest:
        """One of them. Raises Corrupt, or Missing if it is gone."""

    async def answer(self, name: str, answer: ReplayAnswer) -> None:
        """Say what came of it, durably. Idempotent: the first answer stands."""


class PromptCounter(Protocol):
    """Exact tokens of a pool's prompts, as its replicas count them. Raises Transient while nothing can say."""

    async def count(self, user: str) -> int:
        """Tokens of the whole prompt with this user message, chat template and system message included."""

    async def encode(self, user: str) -> PromptIds:
        """The ids of that prompt; what spells a special token in the message is text."""


class Replica(Protocol):
    """One vLLM server at one base URL."""

    @property
    def name(self) -> str:
        """Its base URL, without credentials; the metric label."""

    async def ask(
        self, body: bytes, *, timeout_seconds: float, on_started: Callable[[], None] | None = None
    ) -> Reply:
        """POST one completion. Raises Transient, Saturated or Permanent. Cancelling closes the connection, which makes
        the server drop the request.

        Where the reply is streamed, `on_started` is called once, at its first token, and `timeout_seconds` is the time
        until then; after it progress counts. Otherwise `timeout_seconds` is for all of it.
        """

    async def models(self) -> Sequence[ServedModel]:
        """`/v1/models`."""

    async def count(self, body: bytes) -> int:
        """`/tokenize`: prompt tokens of a body with `messages`, chat template included."""

    async def load(self) -> Load:
        """`/metrics`, read once."""
