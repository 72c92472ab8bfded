"""A replica that answers from a script: replies, errors, and answers that wait for the test. No network, no clock."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from mira_stream.core.errors import MiraStreamError
from mira_stream.core.row import SLOTS
from mira_stream.core.usage import Load, Reply, ServedModel, Usage

MODEL = "mira/scorer"
CONTEXT_TOKENS = 65_536
GOOD = "\n".join(
    [f"[{slot}] criterion {slot}: 7/10 — as it should be" for slot in SLOTS]
    + ["overall: 70", "training_recommendation: keep", "domain_tag: coding", "brief: A fine trace."]
)
IDLE = Load(running=0, waiting=0, kv_usage=0.0, generation_tokens=0.0)


def reply(text: str = GOOD, *, finish_reason: str = "stop", prompt_tokens: int = 100) -> Reply:
    """A 200 answer with that text."""
    return Reply(text, finish_reason, Usage(prompt_tokens, 20, 5), MODEL, 0.01)


class Held:
    """An answer that is given when the test says so; `asked` tells when somebody waits for it.

    `begin` brings its first token, as where replies are streamed.
    """

    def __init__(self, answer: "Answer" = GOOD) -> None:
        self.answer = answer
        self.asked = asyncio.Event()
        self.released = asyncio.Event()
        self.on_started: Callable[[], None] | None = None

    def begin(self) -> None:
        """The first token has come."""
        assert self.on_started is not None
        self.on_started()


Answer = str | Reply | MiraStreamError | Held


class ScriptedReplica:
    """Implements `ports.Replica`.

    Args:
        name: its base URL.
        script: what successive requests get; `otherwise` answers when it is used up.
        otherwise: an answer, or a function of the request's body.
        served: what `/v1/models` says, in turn; the last one stays.
        counts: what `/tokenize` says, in turn; the last one stays.
    """

    def __init__(
        self,
        name: str = "http://one",
        script: Iterable[Answer] = (),
        *,
        otherwise: Answer | Callable[[bytes], Answer] = GOOD,
        served: Sequence[Sequence[ServedModel] | MiraStreamError] = ((ServedModel(MODEL, CONTEXT_TOKENS),),),
        counts: Sequence[int | MiraStreamError] = (100,),
    ) -> None:
        self.name = name
        self.asks: list[bytes] = []
        self.counted: list[bytes] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.cancelled = 0
        self.looks = 0
        self.load_answer: Load | MiraStreamError = IDLE
        self.served = deque(served)
        self._counts = deque(counts)
        self._script = deque(script)
        self._otherwise = otherwise
        self._news = asyncio.Event()

    async def ask(
        self, body: bytes, *, timeout_seconds: float, on_started: Callable[[], None] | None = None
    ) -> Reply:
        assert timeout_seconds > 0
        self.asks.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._news.set()
        try:
            return await self._answer(body, on_started)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
            self._news.set()

    async def _answer(self, body: bytes, on_started: Callable[[], None] | None) -> Reply:
        answer = self._script.popleft() if self._script else self._otherwise
        if callable(answer):
            answer = answer(body)
        await asyncio.sleep(0)
        if isinstance(answer, Held):
            answer.on_started = on_started
            answer.asked.set()
            await answer.released.wait()
            answer = answer.answer
        assert not isinstance(answer, Held)
        if isinstance(answer, MiraStreamError):
            raise answer
        return answer if isinstance(answer, Reply) else reply(answer)

    async def models(self) -> Sequence[ServedModel]:
        await asyncio.sleep(0)
        return _next(self.served)

    async def count(self, body: bytes) -> int:
        self.counted.append(body)
        await asyncio.sleep(0)
        return _next(self._counts)

    async def load(self) -> Load:
        await asyncio.sleep(0)
        self.looks += 1
        self._news.set()
        if isinstance(self.load_answer, MiraStreamError):
            raise self.load_answer
        return self.load_answer

    def then(self, *answers: Answer) -> None:
        """More answers, behind those that the script still has."""
        self._script.extend(answers)

    async def until(self, holds: Callable[["ScriptedReplica"], bool]) -> None:
        """Wait until something is true of it, such as `lambda r: len(r.asks) == 3`."""
        while not holds(self):
            self._news.clear()
            await self._news.wait()


def _next(script: "deque[object]") -> object:
    answer = script.popleft() if len(script) > 1 else script[0]
    if isinstance(answer, MiraStreamError):
        raise answer
    return answer
