"""One record from bytes to request body, in synchronous steps: decode, render, neutralise, estimate, cut, encode."""

from collections.abc import Callable

import msgspec

from mira_stream.core.decode import decode, field_text
from mira_stream.core.fit import Truncated, Zone, excess, truncate_counted, truncate_middle, zone
from mira_stream.core.outcome import Reason
from mira_stream.core.prompt import SPECIAL_TOKENS, PromptTemplate, neutralise_rendered
from mira_stream.core.request import RequestEncoder
from mira_stream.core.tokens import Estimate, Estimator
from mira_stream.core.trace import render
from mira_stream.pipeline.raw import RawRecord
from mira_stream.pipeline.rows import Subject


class Prompting(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool asks: its template, its request, and how many tokens prompt and reply may have together.

    `special` are the special tokens that no record may spell, beside every `<|name|>`.
    """

    group: str
    slots: tuple[str, ...]
    template: PromptTemplate
    encoder: RequestEncoder
    context_tokens: int
    max_tokens: int
    truncate: bool
    special: frozenset[str] = SPECIAL_TOKENS

    @property
    def prompt_tokens_max(self) -> int:
        return self.context_tokens - self.max_tokens


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is ready to be sent. `prompt_tokens` is what admission counts; `raw_tokens` is the estimator's
    raw count of the whole prompt, which the replica's count teaches it with; 0: the count is exact, nothing to learn."""

    subject: Subject
    body: bytes
    prompt_tokens: int
    raw_tokens: int


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a record as it would be asked about; `counted` are the prompt's exact tokens, where known.

    `estimate` is None as long as an exact counter is to say.
    """

    text: str
    turns: tuple[int, ...]
    estimate: Estimate | None
    counted: int | None = None

    @property
    def estimated(self) -> Estimate:
        assert self.estimate is not None, "an exact counter is to say"
        return self.estimate


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A record whose text is known, or the reason why there is none."""

    subject: Subject
    result: Text | Reason

    def cut_to(self, counted: int, prompting: Prompting, estimator: Estimator) -> "Draft":
        """This draft after an exact count: as it is if it fits, else with more of its middle cut out."""
        assert isinstance(self.result, Text)
        old, limit = self.result, prompting.prompt_tokens_max
        if not excess(counted, limit) or not prompting.truncate:
            return msgspec.structs.replace(self, result=msgspec.structs.replace(old, counted=counted))
        cut = truncate_counted(old.text, old.turns, estimate=old.estimated, counted=counted, limit=limit)
        return self.with_text(cut, prompting, estimator)

    def cut_if_over(self, prompting: Prompting, estimator: Estimator) -> "Draft":
        """This draft without its middle, if it is surely too long and may be cut. What stays may be of another density
        than the whole, and is to be judged anew."""
        assert isinstance(self.result, Text)
        over = zone(self.result.estimated, prompting.prompt_tokens_max) is Zone.OVER
        return self.cut_by_estimate(prompting, estimator) if over and prompting.truncate else self

    def cut_by_estimate(self, prompting: Prompting, estimator: Estimator) -> "Draft":
        """This draft with as much of its middle cut out as its estimate asks for, if any."""
        assert isinstance(self.result, Text)
        old, source = self.result, self.subject.source
        limit = prompting.prompt_tokens_max
        cut = truncate_middle(
            old.text, old.turns, estimate=old.estimated, limit=limit, estimator=estimator, source=source
        )
        return self.with_text(cut, prompting, estimator) if cut.cut_tokens else self

    def estimated(self, prompting: Prompting, estimator: Estimator) -> "Draft":
        """This draft with an estimate, where it has none yet."""
        assert isinstance(self.result, Text)
        if self.result.estimate is not None:
            return self
        estimate = estimator.estimate(
            self.result.text, self.subject.source, overhead=prompting.template.shared_tokens
        )
        return msgspec.structs.replace(self, result=msgspec.structs.replace(self.result, estimate=estimate))

    def with_text(self, cut: Truncated, prompting: Prompting, estimator: Estimator) -> "Draft":
        """This draft with a shorter text; its turns are not known any more, and not needed."""
        tokens = self.subject.truncated_tokens + cut.cut_tokens
        subject = msgspec.structs.replace(self.subject, truncated_tokens=tokens)
        text = cut.text
        estimate = estimator.estimate(text, subject.source, overhead=prompting.template.shared_tokens)
        return Draft(subject=subject, result=Text(text=text, turns=(0,), estimate=estimate))


def draft_record(
    raw: RawRecord,
    prompting_of: Callable[[str], Prompting | None],
    *,
    name_field: str | None,
    meta_fields: tuple[str, ...],
    estimator: Estimator,
    exact: Callable[[str], bool] = lambda _: False,
) -> Draft:
    """Decode, render and neutralise one line, and estimate it, unless its source's pool has an `exact` counter.

    Never raises for what the bytes are.
    """
    subject = Subject(key=raw.key, source=raw.source)
    if name_field is None and prompting_of(raw.source) is None:
        blank = not raw.raw or raw.raw.isspace()
        return Draft(subject=subject, result=Reason.BLANK if blank else Reason.NO_POOL)
    record = decode(raw.raw, first=raw.key.ordinal == 0)
    if isinstance(record, Reason):
        return Draft(subject=subject, result=record)
    source = raw.source if name_field is None else field_text(record, name_field)
    if not source:
        return Draft(subject=subject, result=Reason.MISSING_FIELD)
    subject = msgspec.structs.replace(subject, source=source, meta=_meta(record, meta_fields))
    prompting = prompting_of(source)
    if prompting is None:
        return Draft(subject=subject, result=Reason.NO_POOL)
    rendered = render(record)
    if isinstance(rendered, Reason):
        return Draft(subject=msgspec.structs.replace(subject, group=prompting.group), result=rendered)
    text, turns, neutralised = neutralise_rendered(rendered.text, rendered.turns, prompting.special)
    subject = msgspec.structs.replace(
        subject, group=prompting.group, shape=str(rendered.shape), neutralised_tokens=neutralised
    )
    draft = Draft(subject=subject, result=Text(text=text, turns=turns, estimate=None))
    return draft if exact(source) else draft.estimated(prompting, estimator)


def tokenize_body(draft: Draft, prompting: Prompting, *, counted: int | None) -> bytes | None:
    """The body for an exact count, where one is needed: near the limit, or after a cut that followed a count."""
    assert isinstance(draft.result, Text)
    text = draft.result
    if text.counted is not None or not text.text:
        return None
    if counted is None and zone(text.estimated, prompting.prompt_tokens_max) is not Zone.NEAR:
        return None
    return prompting.encoder.encode_tokenize(*prompting.template.messages(text.text))


def finish_draft(draft: Draft, prompting: Prompting, *, estimator: Estimator) -> Prepared | Reason:
    """The request, or why there is none. What was not counted must fit by the upper end of its estimate."""
    assert isinstance(draft.result, Text)
    text, limit = draft.result, prompting.prompt_tokens_max
    tokens = text.counted
    if tokens is None:
        where = zone(text.estimated, limit)
        if where is Zone.OVER and not prompting.truncate:
            return Reason.OVER_LENGTH
        # Near, not counted and not to be cut: it is sent, and the replica's own count decides.
        if where is not Zone.UNDER and prompting.truncate:
            draft = draft.cut_by_estimate(prompting, estimator)
            assert isinstance(draft.result, Text)
            text = draft.result
        tokens = text.estimated.tokens
    elif excess(tokens, limit):
        return Reason.OVER_LENGTH
    if not text.text:
        return Reason.OVER_LENGTH
    body = prompting.encoder.encode_chat(*prompting.template.messages(text.text))
    return Prepared(subject=draft.subject, body=body, prompt_tokens=tokens, raw_tokens=text.estimated.raw)


def _meta(record: dict[str, object], fields: tuple[str, ...]) -> str | None:
    found = {name: text for name in fields if (text := field_text(record, name)) is not None}
    return msgspec.json.encode(found).decode() if found else None
