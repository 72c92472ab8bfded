"""A source whose readings follow a script: so many lines, then an end, trouble, or a wait."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec

from mira_stream.core.errors import MiraStreamError, Missing
from mira_stream.core.record import Line, ObjectVersion
from mira_stream.core.sight import LineBatch, ObjectEnd, Prefix, SeenObject
from mira_stream.ports import Known


class Reading(msgspec.Struct, frozen=True):
    """One reading of an object: the lines `[0, lines)`, then `then`.

    `then` None is a clean end. With `gate` the reading waits for it before `then`.
    """

    lines: int
    then: ObjectEnd | MiraStreamError | None = None
    gate: asyncio.Event | None = None
    oversized: frozenset[int] = frozenset()


def trace(version: ObjectVersion, ordinal: int) -> bytes:
    """A small record that every pool can score."""
    text = f"line {ordinal} of {version.uri}"
    return msgspec.json.encode({"messages": [{"role": "user", "content": text}]})


class ScriptedSource:
    """Implements `ports.Source`. The last reading of each version is repeated.

    `versions` may be changed between listings. A uri whose `change` is the one the caller knows is left out, as in
    every source; `changes` overrides the mark, which is the etag otherwise. `outage` is what `check` raises.
    """

    def __init__(
        self,
        versions: dict[ObjectVersion, list[Reading]],
        *,
        line: Callable[[ObjectVersion, int], bytes] = trace,
        trouble: Sequence[MiraStreamError] = (),
        source_of: Callable[[ObjectVersion], str] = lambda _: "claude_cli",
    ) -> None:
        self.versions = {version: deque(readings) for version, readings in versions.items()}
        self.changes: dict[str, str] = {}
        self.listings = 0
        self.reads: list[ObjectVersion] = []
        self.closed = False
        self.outage: MiraStreamError | None = None
        self._line = line
        self._trouble = deque(trouble)
        self._source_of = source_of
        self._news = asyncio.Event()

    async def discover(
        self, *, known: Known, newest: Callable[[str], Sequence[str]] = lambda _: ()
    ) -> AsyncIterator[Sequence[SeenObject]]:
        del newest
        await asyncio.sleep(0)
        if self._trouble:
            raise self._trouble.popleft()
        for version in list(self.versions):
            change = self.changes.get(version.uri, version.etag)
            if known([version.uri]).get(version.uri) != change:  # also if it is to be shown again
                yield [SeenObject(version, version.uri[-9:], self._source_of(version), 1, 0.0, change)]
        self.listings += 1
        self._news.set()

    async def check(self) -> None:
        if self.outage is not None:
            raise self.outage

    async def read(
        self, version: ObjectVersion, *, once: bool, prefix: Prefix | None = None
    ) -> AsyncGenerator[LineBatch, None]:
        self.reads.append(version)
        self._news.set()
        if version not in self.versions:
            raise Missing(f"{version.uri} is gone")
        readings = self.versions[version]
        reading = readings.popleft() if len(readings) > 1 else readings[0]
        for ordinal in range(reading.lines):
            await asyncio.sleep(0)
            yield LineBatch((self._made(version, ordinal, reading),))
        if reading.gate is not None:
            await reading.gate.wait()
        if isinstance(reading.then, MiraStreamError):
            raise reading.then
        yield LineBatch((), reading.then or ObjectEnd(reading.lines))

    def close(self) -> None:
        self.closed = True

    async def until(self, holds: Callable[["ScriptedSource"], bool]) -> None:
        """Wait until something is true of it, such as `lambda s: s.listings == 2`."""
        while not holds(self):
            self._news.clear()
            await self._news.wait()

    def _made(self, version: ObjectVersion, ordinal: int, reading: Reading) -> Line:
        if ordinal in reading.oversized:
            return Line(ordinal, b"", oversized=True)
        return Line(ordinal, self._line(version, ordinal))
