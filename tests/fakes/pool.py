"""One pool for tests: a dispatcher over scripted replicas, in a lab, with a clock in the test's hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mira_stream.control.admission import PoolControl
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.outcome import LimitingFactor
from mira_stream.core.prompt import PromptTemplate
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.request import RequestEncoder, RequestSettings
from mira_stream.core.row import SLOTS
from mira_stream.core.usage import Reply
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.dispatch import Dispatcher
from mira_stream.pipeline.draft import Prepared, Prompting
from mira_stream.pipeline.request import PoolIdentity, Workplace
from mira_stream.pipeline.rows import Fingerprints, Subject
from tests.fakes.lab import Lab
from tests.fakes.ledgers import version
from tests.fakes.scripted_replica import CONTEXT_TOKENS, MODEL, ScriptedReplica

GROUP = "agent/A"
OBJECT = version("a")
CANNED = b"canned"
WARM_UP = b"warm up"


def prompting(
    *,
    context_tokens: int = CONTEXT_TOKENS,
    max_tokens: int = 2048,
    truncate: bool = True,
    seed: int | None = 7,
) -> Prompting:
    """How the pool asks; the shared part of its prompt counts 50 tokens."""
    return Prompting(
        group=GROUP,
        slots=SLOTS,
        template=PromptTemplate("Grade it.", "Record:\n", "\nAnswer.", 50),
        encoder=RequestEncoder(RequestSettings(max_tokens=max_tokens, seed=seed), model=MODEL),
        context_tokens=context_tokens,
        max_tokens=max_tokens,
        truncate=truncate,
    )


class Pool:
    """A dispatcher and everything around it."""

    def __init__(
        self,
        lab: Lab,
        *replicas: ScriptedReplica,
        admission: AdmissionSettings | None = None,
        reasks_max: int = 2,
        control: PoolControl | None = None,
    ) -> None:
        self.lab = lab
        self.now = 1000.0
        self.stops = 0
        self.learned: list[Reply] = []
        self.replicas = {replica.name: replica for replica in replicas}
        self.prompting = prompting()
        self.control = control or PoolControl(list(self.replicas), admission or AdmissionSettings())
        self.dispatcher = Dispatcher(
            PoolIdentity(
                group=GROUP,
                model=MODEL,
                prompting=self.prompting,
                fingerprints=Fingerprints("rubric", "prompt"),
                canned=CANNED,
                warm_up=WARM_UP,
                reasks_max=reasks_max,
            ),
            self.control,
            self.replicas,
            workplace=Workplace(
                committer=lab.committer,
                rows=lab.rows,
                account=lab.account,
                meters=lab.meters,
                clock=lambda: self.now,
                jitter=lambda: 0.0,
            ),
            learn=lambda _, reply: self.learned.append(reply),
            on_stopped=self._stopped,
        )

    def _stopped(self) -> None:
        self.stops += 1

    def body(self, ordinal: int) -> bytes:
        """The first request for the record with that ordinal."""
        return self.prompting.encoder.encode_chat(*self.prompting.template.messages(f"record {ordinal}"))

    def prepared(self, ordinal: int, tokens: int = 100, object_version: ObjectVersion = OBJECT) -> Prepared:
        """A record that is ready to be sent."""
        subject = Subject(key=RecordKey(object_version, ordinal), source="claude_cli", group=GROUP)
        return Prepared(subject=subject, body=self.body(ordinal), prompt_tokens=tokens, raw_tokens=tokens)

    async def offer(self, *ordinals: int, tokens: int = 100) -> None:
        """Records are read and offered, one after the other."""
        for ordinal in ordinals:
            prepared = self.prepared(ordinal, tokens)
            self.lab.committer.enter(prepared.subject.key)
            await self.dispatcher.offer(prepared)

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.dispatcher.wake()

    async def until_factor(self, factor: LimitingFactor | None) -> None:
        """Wait until that is what limits the pool; it is found out in steps of the loop, not in time."""
        for _ in range(1000):
            if self.dispatcher.factor is factor:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"limited by {self.dispatcher.factor}, not {factor}")

    def settled(self) -> bool:
        """Whether no permit is out."""
        return all(one.requests == one.reserved_tokens == 0 for one in self.control.snapshot(self.now))

    @property
    def window(self) -> int:
        return self.lab.account.at(Stage.WINDOW)


@asynccontextmanager
async def dispatching(pool: Pool) -> AsyncIterator[Pool]:
    """The dispatcher runs inside the block; at its end no more is offered, and all that was ends."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(pool.lab.committer.run())
        async with asyncio.TaskGroup() as sending:
            sending.create_task(pool.dispatcher.run())
            yield pool
            pool.dispatcher.close()
        await pool.lab.committer.close()
    assert pool.settled()


Story = Callable[[Pool], object]
