"""Exact counts decide what fits, and are believed until the replicas disagree."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mira_stream.core.errors import Transient, TransientKind
from mira_stream.core.outcome import Reason
from mira_stream.core.record import RecordKey
from mira_stream.core.request import PromptIds
from mira_stream.pipeline.draft import Draft, Prepared, Prompting, Text
from mira_stream.pipeline.exact import ExactCounts
from mira_stream.pipeline.rows import Subject
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters
from tests.fakes.ledgers import version
from tests.fakes.pool import GROUP, prompting

SMALL = prompting(context_tokens=4096, max_tokens=1024)
LIMIT = SMALL.prompt_tokens_max


class LetterCounter:
    """So many letters are a token; every prompt has ten more."""

    def __init__(self, letters: int = 3, trouble: Sequence[Transient] = ()) -> None:
        self.letters = letters
        self.asked = 0
        self._trouble = list(trouble)

    async def count(self, user: str) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self._trouble:
            raise self._trouble.pop()
        return 10 + -(-len(user) // self.letters)

    async def encode(self, user: str) -> PromptIds:
        tokens = await self.count(user)
        return PromptIds(tokens, b",".join([b"7"] * tokens))


def _draft(text: str, turns: tuple[int, ...] = (0,)) -> Draft:
    subject = Subject(key=RecordKey(version("a"), 0), source="claude_cli", group=GROUP)
    return Draft(subject=subject, result=Text(text=text, turns=turns, estimate=None))


def _finished(
    text: str, *, counter: LetterCounter | None = None, pool: Prompting = SMALL, as_ids: bool = False
) -> Prepared | Reason:
    with ThreadPoolExecutor(1) as executor:
        exact = ExactCounts(
            counter or LetterCounter(), pool, as_ids=as_ids, executor=executor, meters=Meters()
        )
        return asyncio.run(exact.finish(_draft(text)))


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_record_of_exactly_the_limit_is_sent_whole(as_ids: bool) -> None:
    """One token more, and it is cut."""
    shared = len("Record:\n\nAnswer.") + 30
    for extra, cut in ((0, False), (1, True)):
        prepared = _finished("x" * (3 * LIMIT - shared + 3 * extra), as_ids=as_ids)
        assert isinstance(prepared, Prepared)
        assert (prepared.subject.truncated_tokens > 0) is cut
        assert prepared.prompt_tokens <= LIMIT
        assert prepared.raw_tokens == 0
        assert (b'"prompt":[7,7' in prepared.body) is as_ids


@pytest.mark.parametrize("letters", [1, 2, 3, 7])
@pytest.mark.parametrize("step", ["step of many\n", "x", "漢字", "0f "])
def test_what_is_cut_just_fits(letters: int, step: str) -> None:
    """However far the raw weights are from the truth, and with few counts."""
    counter = LetterCounter(letters)
    prepared = _finished(step * (letters * 60_000 // len(step)), counter=counter)
    assert isinstance(prepared, Prepared)
    assert 0.85 * LIMIT < prepared.prompt_tokens <= LIMIT
    assert counter.asked <= 8


def test_what_may_not_be_cut_is_a_dead_letter() -> None:
    """`overflow = "dead_letter"`, and a context that has no room at all."""
    strict = prompting(context_tokens=4096, max_tokens=1024, truncate=False)
    assert _finished("x" * 100_000, pool=strict) is Reason.OVER_LENGTH
    tiny = prompting(context_tokens=1040, max_tokens=1024)
    assert _finished("x" * 100_000, pool=tiny) is Reason.OVER_LENGTH


def test_trouble_of_the_counter_is_raised() -> None:
    """The caller decides whether an estimate does as well."""
    counter = LetterCounter(trouble=[Transient(TransientKind.PROTOCOL, "gone")])
    with pytest.raises(Transient, match="gone"):
        _finished("x", counter=counter)


def test_counts_that_keep_being_wrong_are_given_up() -> None:
    """Each is measured; a single one among many right ones is forgiven; ids are counted by those who send them."""
    meters = Meters()
    with ThreadPoolExecutor(1) as executor:
        chat = ExactCounts(LetterCounter(), SMALL, as_ids=False, executor=executor, meters=meters)
        for _ in range(30):
            chat.compare(100, 101)
            chat.compare(100, 100)
        assert chat.trusted
        for _ in range(8):
            chat.compare(100, 101)
        assert not chat.trusted
        chat.compare(100, 100)
        assert not chat.trusted
        assert meters.value(metrics.POOL_MISCOUNTED, (GROUP,)) == 38
        ids = ExactCounts(LetterCounter(), SMALL, as_ids=True, executor=executor, meters=meters)
        for _ in range(20):
            ids.compare(100, 101)
        assert ids.trusted
