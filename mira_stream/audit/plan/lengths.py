"""How long the sampled records are, as the daemon would count them before it cuts anything."""

from collections.abc import Sequence

from mira_stream.audit.bench.bodies import Preparing
from mira_stream.audit.bench.sample import Sample
from mira_stream.audit.plan.values import Length
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion
from mira_stream.core.tokens import Estimator
from mira_stream.pipeline.draft import draft_record
from mira_stream.pipeline.raw import RawRecord


def lengths(sample: Sample, preparing: Preparing) -> list[Length]:
    """One for each sampled line. Blocking work: about 1 ms per 100 KB of record."""
    estimator = Estimator()
    places = {part.version: number for number, part in enumerate(sample.parts)}
    return [_length(record, places, preparing, estimator) for record in sample.records]


def prompts_within(found: Sequence[Length], prompt_tokens_max: int, *, cut: bool) -> list[int]:
    """The prompts that would be sent: those that are too long cut to the limit, or left out."""
    tokens = [one.tokens for one in found if one.reason is None]
    if cut:
        return [min(one, prompt_tokens_max) for one in tokens]
    return [one for one in tokens if one <= prompt_tokens_max]


def _length(
    record: RawRecord, places: dict[ObjectVersion, int], preparing: Preparing, estimator: Estimator
) -> Length:
    draft = draft_record(
        record,
        preparing.prompting_of,
        name_field=preparing.name_field,
        meta_fields=(),
        estimator=estimator,
    )
    source, part = draft.subject.source, places[record.key.version]
    if isinstance(draft.result, Reason):
        return Length(part=part, source=source, reason=draft.result.value)
    if draft.subject.group != preparing.prompting.group:
        return Length(part=part, source=source, reason=Reason.NO_POOL.value)
    return Length(part=part, source=source, tokens=draft.result.estimated.tokens)
