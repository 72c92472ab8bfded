"""The requests that the daemon would send for the sampled records, made distinct so that no cache answers for the GPU."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from statistics import mean

import msgspec

from mira_stream.audit.bench.figures import spread
from mira_stream.audit.bench.sample import Sample
from mira_stream.audit.bench.values import Sampled
from mira_stream.core.outcome import Reason
from mira_stream.core.tokens import Estimator
from mira_stream.pipeline.draft import Prepared, Prompting, draft_record, finish_draft
from mira_stream.pipeline.raw import RawRecord

_NONCE = b"run %010d\\n"  # in JSON: the line break is escaped
_NONCE_TOKENS = 24


class Preparing(msgspec.Struct, frozen=True, kw_only=True):
    """What turns lines into requests: the pool's prompting by source, and the names of fields."""

    prompting: Prompting
    prompting_of: Callable[[str], Prompting | None]
    name_field: str | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the daemon would send it; `estimated_tokens` of its prompt."""

    number: int
    data: bytes
    estimated_tokens: int


class Bodies:
    """Gives out the requests of a sample in a fixed random order, round after round, each with a first line of its own
    in the record: a prompt that was sent before would come out of the engine's prefix cache, which real records, all
    different, do not. What all prompts share stays shared.

    Args:
        prompting: the pool's, of which the place of the record in a body is told.
        bodies: at least one.
    """

    def __init__(self, prompting: Prompting, bodies: Sequence[Body]) -> None:
        assert bodies, "nothing to send"
        self._bodies = bodies
        self._at = _record_place(prompting)
        self._exact: dict[int, int] = {}
        self._sent = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def next(self) -> Body:
        """The next request."""
        return self.renewed(self._bodies[self._sent % len(self._bodies)])

    def by_length(self) -> list[Body]:
        """All of them, the shortest first, as they are: `renewed` makes one fit to be sent."""
        return sorted(self._bodies, key=lambda body: body.estimated_tokens)

    def renewed(self, body: Body) -> Body:
        """`body` with a first line in its record that was never sent before."""
        self._sent += 1
        nonce = _NONCE % self._sent
        return msgspec.structs.replace(body, data=body.data[: self._at] + nonce + body.data[self._at :])

    def learn(self, number: int, prompt_tokens: int) -> None:
        """The engine counted the prompt of that body."""
        self._exact[number] = prompt_tokens

    def prompt_tokens(self, body: Body) -> int:
        """Tokens of its prompt: the engine's count, or the estimate corrected by the counts known."""
        exact = self._exact.get(body.number)
        return exact if exact is not None else round(body.estimated_tokens * self._ratio())

    def mean_prompt_tokens(self) -> float:
        """Mean over the sample."""
        return mean(map(self.prompt_tokens, self._bodies))

    def _ratio(self) -> float:
        estimated = sum(self._bodies[number].estimated_tokens for number in self._exact)
        return sum(self._exact.values()) / estimated if estimated else 1.0


def prepare(
    sample: Sample, preparing: Preparing, *, origin: str, random: Random
) -> tuple[list[Body], Sampled]:
    """The requests for a sample, and what is to be said about it. Blocking work: about 1 ms per 100 KB of record."""
    roomy = _with_room(preparing.prompting)
    estimator = Estimator()
    made: list[Prepared] = []
    left_out: Counter[str] = Counter()
    for record in sample.records:
        prepared = _prepared(record, preparing, roomy, estimator)
        if isinstance(prepared, Reason):
            left_out[prepared.value] += 1
        else:
            made.append(prepared)
    random.shuffle(made)
    bodies = [
        Body(number=number, data=one.body, estimated_tokens=one.prompt_tokens)
        for number, one in enumerate(made)
    ]
    told = Sampled(
        origin=origin,
        objects=sample.objects,
        listed=sample.listed,
        lines=sample.lines,
        records=len(bodies),
        prompt_tokens=spread([body.estimated_tokens for body in bodies]),
        truncated=sum(one.subject.truncated_tokens > 0 for one in made),
        left_out=left_out,
        whole=sample.whole,
    )
    return bodies, told


def of_one_token(body: Body) -> Body:
    """The same prompt, answered with a single token: what remains of its latency is the prefill."""
    fields = msgspec.json.decode(body.data)
    fields["max_tokens"] = 1
    return msgspec.structs.replace(body, data=msgspec.json.encode(fields))


def _prepared(
    record: RawRecord, preparing: Preparing, roomy: Prompting, estimator: Estimator
) -> Prepared | Reason:
    draft = draft_record(
        record,
        preparing.prompting_of,
        name_field=preparing.name_field,
        meta_fields=(),
        estimator=estimator,
    )
    if isinstance(draft.result, Reason):
        return draft.result
    if draft.subject.group != roomy.group:
        return Reason.NO_POOL
    return finish_draft(draft, roomy, estimator=estimator)


def _with_room(prompting: Prompting) -> Prompting:
    """The same prompting, with room for the line that makes a request distinct."""
    return msgspec.structs.replace(prompting, context_tokens=prompting.context_tokens - _NONCE_TOKENS)


def _record_place(prompting: Prompting) -> int:
    """Where in a body the record begins: up to there all bodies are the same."""
    one, other = (prompting.encoder.encode_chat(*prompting.template.messages(text)) for text in "01")
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
