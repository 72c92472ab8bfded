"""Exact counts of one pool's prompts: they decide what fits, and are believed until the replicas disagree."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from mira_stream.core.fit import Truncated, excess, truncate_to
from mira_stream.core.outcome import Reason
from mira_stream.core.request import PromptIds
from mira_stream.core.tokens import raw_tokens
from mira_stream.pipeline.draft import Draft, Prepared, Prompting, Text
from mira_stream.ports import PromptCounter
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_WRONG_MAX = 8
_CUTS_MAX = 6
_GOOD_CUTS = 2
_FILLED = 0.95
"""Share of the room that a cut text has to fill to be left as it is."""


class ExactCounts:
    """The exact counter of one pool.

    Args:
        as_ids: send token ids (`request.mode = "tokens"`) instead of messages.
        executor: where long records are cut.
    """

    def __init__(
        self,
        counter: PromptCounter,
        prompting: Prompting,
        *,
        as_ids: bool,
        executor: Executor,
        meters: Meters,
    ) -> None:
        self.as_ids = as_ids
        self._counter = counter
        self._prompting = prompting
        self._executor = executor
        self._meters = meters
        self._wrong = 0
        self._has_told = False
        self._shared: int | None = None

    @property
    def trusted(self) -> bool:
        """Whether the replicas count alike, so far. Ids are counted by those who send them."""
        return self.as_ids or self._wrong < _WRONG_MAX

    def compare(self, counted: int, reported: int) -> None:
        """What a replica reported of a prompt that was counted here."""
        if counted == reported:
            self._wrong = max(0, self._wrong - 1) if self.trusted else self._wrong
            return
        self._wrong += 1
        group = self._prompting.group
        self._meters.add(metrics.POOL_MISCOUNTED, 1, (group,))
        if not self._has_told:
            self._has_told = True
            _log.warning(
                "a replica counts a prompt otherwise than this pool's tokenizer",
                group=group,
                counted=counted,
                reported=reported,
                hint="is `tokenizer` that of the served model, with the chat template and the arguments it uses?",
            )
        if self._wrong == _WRONG_MAX and not self.as_ids:
            _log.error(
                "exact counts keep being wrong: this pool's prompts are estimated from now on", group=group
            )

    async def finish(self, draft: Draft) -> Prepared | Reason:
        """The request, or why there is none; what is too long is cut until it just fits. Raises Transient."""
        assert isinstance(draft.result, Text)
        text, limit = draft.result, self._prompting.prompt_tokens_max
        system, user = self._prompting.template.messages(text.text)
        prompt = await self._measured(user)
        if excess(prompt.tokens, limit):
            cut = await self._cut(text, prompt.tokens) if self._prompting.truncate else None
            if cut is None:
                return Reason.OVER_LENGTH
            shorter, prompt = cut
            _, user = self._prompting.template.messages(shorter.text)
            text = Text(text=shorter.text, turns=(0,), estimate=None)
            tokens = draft.subject.truncated_tokens + shorter.cut_tokens
            subject = msgspec.structs.replace(draft.subject, truncated_tokens=tokens)
            draft = Draft(subject=subject, result=text)
        return Prepared(
            subject=draft.subject,
            body=self._body(system, user, prompt),
            prompt_tokens=prompt.tokens,
            raw_tokens=0,
        )

    async def body_of(self, record_text: str) -> bytes:
        """The request for a record that is known to be short and harmless. Raises Transient."""
        system, user = self._prompting.template.messages(record_text)
        return self._body(system, user, await self._measured(user))

    def _body(self, system: str, user: str, prompt: PromptIds) -> bytes:
        encoder = self._prompting.encoder
        return encoder.encode_ids(prompt) if self.as_ids else encoder.encode_chat(system, user)

    async def _measured_text(self, text: str) -> PromptIds:
        """The prompt with that record."""
        return await self._measured(self._prompting.template.messages(text)[1])

    async def _measured(self, user: str) -> PromptIds:
        """The prompt with that user message: its tokens, and its ids if they are sent."""
        if self.as_ids:
            return await self._counter.encode(user)
        return PromptIds(await self._counter.count(user), b"")

    async def _cut(self, text: Text, counted: int) -> tuple[Truncated, PromptIds] | None:
        """The record without its middle, as long as fits; None if nothing of it does.

        What stays is chosen by raw tokens, and counted; the next choice is corrected by what was found.
        """
        if self._shared is None:
            self._shared = (await self._measured_text("")).tokens
        room = self._prompting.prompt_tokens_max - self._shared
        tokens = counted - self._shared
        if room <= 0:
            return None
        raw = await self._beside(partial(raw_tokens, text.text))
        keep = raw * room / tokens
        best: tuple[Truncated, PromptIds] | None = None
        for tried in range(_CUTS_MAX):
            cut_now = partial(
                truncate_to, text.text, text.turns, raw=raw, tokens=tokens, keep=min(raw - 1, int(keep))
            )
            cut = await self._beside(cut_now)
            if not cut.text:
                break
            prompt = await self._measured_text(cut.text)
            found = prompt.tokens - self._shared
            if found <= room:
                if best is None or prompt.tokens > best[1].tokens:
                    best = (cut, prompt)
                if found >= _FILLED * room or tried >= _GOOD_CUTS:
                    break
            elif best is not None:
                break
            # A quarter more at most: a side that ended early at a turn says little about density.
            keep *= min(1.25, room / max(1, found)) * (0.99 if tried < _GOOD_CUTS else 0.7)
        return best

    async def _beside(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
