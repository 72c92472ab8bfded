"""A source in memory: object versions with the number of their lines and how they end."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from mira_stream.core.errors import MiraStreamError
from mira_stream.core.record import Line, ObjectVersion
from mira_stream.core.sight import LineBatch, ObjectEnd, Prefix, SeenObject
from mira_stream.ports import Known

_BATCH = 4


class MemorySource:
    """`ends` may be changed between calls; `errors` are raised, in order, by the next reads of a uri."""

    def __init__(self, ends: dict[ObjectVersion, ObjectEnd | int]) -> None:
        self.ends = ends
        self.errors: dict[str, list[MiraStreamError]] = {}
        self.reads: list[ObjectVersion] = []

    async def discover(
        self, *, known: Known, newest: Callable[[str], Sequence[str]] = lambda _: ()
    ) -> AsyncIterator[Sequence[SeenObject]]:
        del newest
        for version in list(self.ends):
            if known([version.uri]).get(version.uri) != version.etag:
                yield [SeenObject(version, version.uri, "claude_cli", 1, 0.0, version.etag)]

    async def check(self) -> None:
        """A memory always answers."""

    async def read(
        self, version: ObjectVersion, *, once: bool, prefix: Prefix | None = None
    ) -> AsyncGenerator[LineBatch, None]:
        self.reads.append(version)
        if self.errors.get(version.uri):
            raise self.errors[version.uri].pop(0)
        end = self.ends[version]
        if isinstance(end, int):
            end = ObjectEnd(end)
        for start in range(0, end.lines, _BATCH):
            ordinals = range(start, min(start + _BATCH, end.lines))
            yield LineBatch(tuple(Line(n, b"{}") for n in ordinals))
        yield LineBatch((), end)
