"""Turns prompts into completions: the scorer's reply or a damaged one, cut at stop strings and at the token budget."""

from collections import OrderedDict

import msgspec

from mira_stream.sim.damage import Damage, DamagePlan, damaged
from mira_stream.sim.replies import Prompt, compose, judge, text_hash
from mira_stream.sim.tokens import BYTES_PER_TOKEN, count_text

_RECORDS_REMEMBERED = 65_536


class Completion(msgspec.Struct, frozen=True):
    """What one prompt gets: the text, its tokens, why it ends, and what was done to it."""

    text: str
    tokens: int
    finish_reason: str
    stop_reason: str | None
    damage: Damage | None
    record_hash: str


class Scorer:
    """One simulated student model. It remembers how often it was asked about a record, so that asking again helps."""

    def __init__(self, plan: DamagePlan) -> None:
        self._plan = plan
        self._asked: OrderedDict[bytes, int] = OrderedDict()

    def complete(self, prompt: Prompt, *, max_tokens: int, stops: list[str], keep_stop: bool) -> Completion:
        """The completion of at most `max_tokens` tokens; `keep_stop` leaves a stop string that was met in the text."""
        digest = text_hash(prompt.record)
        damage = self._plan.choose(digest, self._attempt(digest))
        judgement = judge(prompt, digest)
        if damage is None:
            text = compose(judgement)
        else:
            text = damaged(judgement, damage, max_tokens=max_tokens, pick=digest[0])
        text, stop_reason = _stopped(text, stops, keep_stop=keep_stop)
        text, tokens, whole = _cut(text, max_tokens)
        finish_reason = "stop" if whole else "length"
        return Completion(
            text, tokens, finish_reason, stop_reason if whole else None, damage, digest[:16].hex()
        )

    def _attempt(self, digest: bytes) -> int:
        """How often this record was asked about before; forgets the oldest records."""
        if not self._plan.share:
            return 0
        attempt = self._asked.pop(digest, 0)
        self._asked[digest] = attempt + 1
        if len(self._asked) > _RECORDS_REMEMBERED:
            self._asked.popitem(last=False)
        return attempt


def _stopped(text: str, stops: list[str], *, keep_stop: bool) -> tuple[str, str | None]:
    """`text` up to the first stop string, and that string."""
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return text, None
    place, stop = min(found)
    return text[: place + len(stop) if keep_stop else place], stop


def _cut(text: str, max_tokens: int) -> tuple[str, int, bool]:
    """`text` within the budget, its tokens (at least one), and whether nothing was cut."""
    tokens = max(1, count_text(text))
    if tokens <= max_tokens:
        return text, tokens, True
    kept = text.encode()[: max_tokens * BYTES_PER_TOKEN].decode(errors="ignore")
    return kept, max_tokens, False
