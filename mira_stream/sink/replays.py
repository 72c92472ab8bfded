"""Requests for replays and their answers, as files of the sink's own folder: durable, made once, never changed."""

from hashlib import blake2b
from typing import TypeVar

import msgspec

from mira_stream.core.errors import AlreadyExists, Corrupt, Missing
from mira_stream.core.outcome import Reason
from mira_stream.core.replay import REPLAY_VERSION, ReplayAnswer, ReplayRequest
from mira_stream.core.segment import ObjectRange
from mira_stream.ports import ObjectStore
from mira_stream.sink.format import RESERVED, is_count, spans_are_sound
from mira_stream.sink.retry import Patience

T = TypeVar("T", ReplayRequest, ReplayAnswer)
REPLAYS_PREFIX = f"{RESERVED}replays"
_REQUEST = ".request.json"
_ANSWER = ".answer.json"
_FILE_BYTES_MAX = 64 << 20


class ReplayFolder:
    """Implements `ports.Replays` below the store of a sink; a request and its answer have one name.

    Args:
        store: the sink.
        patience: repeats what fails for a passing reason.
    """

    def __init__(self, store: ObjectStore, *, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    async def ask(self, request: ReplayRequest) -> str:
        """Make a request durable; its name, which sorts by the time it was asked at."""
        data = msgspec.json.encode(request)
        stamp = "".join(one for one in request.asked_at if one.isalnum())
        name = f"{stamp}-{blake2b(data, digest_size=4).hexdigest()}"
        await self._create(name + _REQUEST, data)
        return name

    async def unanswered(self) -> list[str]:
        """The names of all requests that have no answer, the oldest first; by one listing."""
        asked, answered = await self._patience.until_known(self._names)
        return sorted(asked - answered)

    async def names(self) -> list[str]:
        """The names of all requests, the oldest first."""
        return sorted((await self._patience.until_known(self._names))[0])

    async def request(self, name: str) -> ReplayRequest:
        """A request that was listed. Raises Corrupt, or Missing if it is gone."""
        found = self._decoded(name + _REQUEST, await self._get(name + _REQUEST), ReplayRequest)
        if not all(map(_is_sound, found.ranges)):
            raise self._corrupt(name + _REQUEST, "it asks for records that cannot be")
        return found

    async def answered(self, name: str) -> ReplayAnswer | None:
        """The answer to a request, or None while there is none. Raises Corrupt."""
        try:
            data = await self._get(name + _ANSWER)
        except Missing:
            return None
        return self._decoded(name + _ANSWER, data, ReplayAnswer)

    async def answer(self, name: str, answer: ReplayAnswer) -> None:
        """Answer a request. Idempotent: the first answer stands."""
        await self._create(name + _ANSWER, msgspec.json.encode(answer))

    async def _names(self) -> tuple[set[str], set[str]]:
        asked: set[str] = set()
        answered: set[str] = set()
        async for page in self._store.list(REPLAYS_PREFIX):
            for entry in page:
                name = entry.key.rpartition("/")[2]
                if name.endswith(_REQUEST):
                    asked.add(name.removesuffix(_REQUEST))
                elif name.endswith(_ANSWER):
                    answered.add(name.removesuffix(_ANSWER))
        return asked, answered

    async def _create(self, name: str, data: bytes) -> None:
        async def create() -> None:
            try:
                await self._patience.answered(lambda: self._store.create(_key(name), data))
            except AlreadyExists:
                return  # ours, if an answer was lost; or somebody else was first, with the same to say

        await self._patience.until_known(create)

    async def _get(self, name: str) -> bytes:
        return await self._patience.fetched(lambda: self._store.get(_key(name), end=_FILE_BYTES_MAX))

    def _decoded(self, name: str, data: bytes, kind: type[T]) -> T:
        try:
            found = msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._corrupt(name, f"it cannot be understood: {error}") from error
        if found.version != REPLAY_VERSION:
            raise self._corrupt(name, "a newer mira-stream wrote it")
        return found

    def _corrupt(self, name: str, what: str) -> Corrupt:
        return Corrupt(Reason.CORRUPT, f"{self._store.uri}/{_key(name)}: {what}")


def _key(name: str) -> str:
    return f"{REPLAYS_PREFIX}/{name}"


def _is_sound(asked: ObjectRange) -> bool:
    """Whoever may write to the sink may have written it."""
    return spans_are_sound(asked.spans) and is_count(asked.generation) and asked.generation > 0
