"""A bounded, even sample of a corpus: some of its objects, and of their lines some, all with the same chance."""

from collections.abc import Callable
from contextlib import aclosing
from random import Random
from typing import Generic, TypeVar

import msgspec

from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.sight import SeenObject
from mira_stream.pipeline.raw import RawRecord
from mira_stream.ports import Source

T = TypeVar("T")


class SampleLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is looked at and kept. `names`: entries of the listing after which it is broken off."""

    records: int = 384
    bytes: int = 192 << 20
    objects: int = 48
    names: int = 200_000
    object_bytes: int = 128 << 20


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One object that was read: `size` bytes as it lies there, `lines` in the `read` bytes of it that were looked at;
    `whole`: that was all."""

    version: ObjectVersion
    size: int
    read: int
    lines: int
    whole: bool


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The lines kept, how many objects were read of how many listed, and how many lines they had.

    `whole`: every line of every object was looked at. `listed_bytes` are those of all that was listed, as they lie
    there; `parts` has the objects that were read.
    """

    records: tuple[RawRecord, ...]
    listed: int
    objects: int
    lines: int
    whole: bool
    listed_bytes: int = 0
    parts: tuple[Part, ...] = ()


class Reservoir(Generic[T]):
    """Keeps up to `size` of the items that it is shown, each with the same chance (algorithm R), and fewer if together
    they weigh more than `weight_max`: a random one goes, and its place with it, until they do not."""

    def __init__(
        self, size: int, random: Random, *, weigh: Callable[[T], int] = lambda _: 0, weight_max: int = 0
    ) -> None:
        self._size = size
        self._random = random
        self._weigh = weigh
        self._weight_max = weight_max
        self._weight = 0
        self.seen = 0
        self.items: list[T] = []

    def add(self, item: T) -> None:
        """Show it one item."""
        self.seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (place := self._random.randrange(self.seen)) < self._size:
            self._weight -= self._weigh(self.items[place])
            self.items[place] = item
        else:
            return
        self._weight += self._weigh(item)
        while self._weight > self._weight_max and len(self.items) > 1:
            self._weight -= self._weigh(self.items.pop(self._random.randrange(len(self.items))))
            self._size = len(self.items)


async def sample(
    source: Source,
    limits: SampleLimits,
    *,
    wanted: Callable[[SeenObject], bool],
    random: Random,
    on_lines: Callable[[int], None],
) -> Sample:
    """Sample the lines of `source`, of the objects that are `wanted` by their name; `on_lines` is told of progress."""
    objects: Reservoir[SeenObject] = Reservoir(limits.objects, random)
    listed_bytes = 0
    async for page in source.discover(known=lambda _: {}):
        for seen in page:
            if wanted(seen):
                objects.add(seen)
                listed_bytes += seen.size
        if objects.seen >= limits.names:
            break
    kept: Reservoir[RawRecord] = Reservoir(
        limits.records, random, weigh=lambda record: len(record.raw), weight_max=limits.bytes
    )
    parts: list[Part] = []
    for seen in objects.items:
        parts.append(await _read(source, seen, kept, limits.object_bytes))
        on_lines(kept.seen)
    records = random.sample(kept.items, len(kept.items))
    return Sample(
        records=tuple(records),
        listed=objects.seen,
        objects=len(objects.items),
        lines=kept.seen,
        whole=objects.seen <= limits.objects and all(part.whole for part in parts),
        listed_bytes=listed_bytes,
        parts=tuple(parts),
    )


async def _read(source: Source, seen: SeenObject, kept: Reservoir[RawRecord], bytes_max: int) -> Part:
    """Show all lines of an object to `kept`, or those of its first `bytes_max` bytes."""
    read, before, whole = 0, kept.seen, True
    async with aclosing(source.read(seen.version, once=True)) as batches:
        async for batch in batches:
            for line in batch.lines:
                read += len(line.raw)
                if line.raw and not line.raw.isspace():
                    kept.add(RawRecord(RecordKey(seen.version, line.ordinal), seen.source, line.raw))
            if read >= bytes_max and batch.end is None:
                whole = False
                break
    return Part(version=seen.version, size=seen.size, read=read, lines=kept.seen - before, whole=whole)
