"""From a record's end to its row: the one place that knows which column comes from where."""

from collections.abc import Callable, Mapping

import msgspec

from mira_stream.core.aggregate import Aggregator
from mira_stream.core.outcome import Reason, outcome_of
from mira_stream.core.partition import partition_name
from mira_stream.core.record import RecordKey
from mira_stream.core.reply import ParsedReply
from mira_stream.core.row import Row, encode_row
from mira_stream.core.segment import Received
from mira_stream.core.usage import Reply


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a record before it is asked about; None where it did not get so far."""

    key: RecordKey
    source: str
    group: str | None = None
    shape: str | None = None
    meta: str | None = None
    truncated_tokens: int = 0
    neutralised_tokens: int = 0


class Fingerprints(msgspec.Struct, frozen=True):
    """Which rubric and which prompt a pool judges by."""

    rubric: str
    prompt: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was said about a record, by whom, after how many requests; None where nobody answered.

    `refusal` is the server's own message where it refused the request.
    """

    fingerprints: Fingerprints
    attempts: int
    replica: str | None = None
    reply: Reply | None = None
    parsed: ParsedReply | None = None
    refusal: str | None = None


class RowMaker:
    """Encodes rows. `now` gives RFC 3339 UTC; `shards` is the layout's; `keep_reply` keeps the raw text always.

    `aggregators`: by rubric fingerprint, of those whose rows get an aggregate.
    """

    def __init__(
        self,
        *,
        shards: int,
        now: Callable[[], str],
        keep_reply: bool,
        aggregators: Mapping[str, Aggregator] | None = None,
    ) -> None:
        self._shards = shards
        self._now = now
        self._keep_reply = keep_reply
        self._aggregators = aggregators or {}

    def unasked(self, subject: Subject, reason: Reason) -> Received:
        """A record that ended before any replica saw it."""
        return self._received(subject, reason, {})

    def answered(self, subject: Subject, answer: Answer, reason: Reason | None) -> Received:
        """A record that was asked about: scored if `reason` is None. Dead letters have null scores."""
        columns: dict[str, object] = {
            "rubric_fingerprint": answer.fingerprints.rubric,
            "prompt_fingerprint": answer.fingerprints.prompt,
            "replica": answer.replica,
            "attempts": answer.attempts,
            "reply": answer.refusal,
        }
        if answer.reply is not None:
            columns |= _reply_columns(answer.reply, keep_text=self._keep_reply or reason is not None)
        if answer.parsed is not None:
            columns["missing"] = answer.parsed.missing
            if reason is None:
                columns |= _score_columns(answer.parsed)
                if aggregator := self._aggregators.get(answer.fingerprints.rubric):
                    columns |= _aggregate_columns(aggregator, subject.source, answer.parsed)
        return self._received(subject, reason, columns)

    def _received(self, subject: Subject, reason: Reason | None, columns: dict[str, object]) -> Received:
        key = subject.key
        row = Row(
            record_id=key.record_id,
            generation=key.generation,
            source=subject.source,
            group=subject.group,
            object=key.version.uri,
            etag=key.version.etag,
            ordinal=key.ordinal,
            shape=subject.shape,
            outcome=outcome_of(reason),
            reason=reason,
            truncated_tokens=subject.truncated_tokens,
            neutralised_tokens=subject.neutralised_tokens,
            scored_at=self._now(),
            meta=subject.meta,
            **columns,  # type: ignore[arg-type]  # the two helpers below name columns of Row only
        )
        partition = partition_name(subject.source, key.version.uri, self._shards)
        return Received(partition, key, row.outcome, reason, encode_row(row))


def _reply_columns(reply: Reply, *, keep_text: bool) -> dict[str, object]:
    return {
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
        "cached_tokens": reply.usage.cached_tokens,
        "latency_seconds": round(reply.latency_seconds, 6),
        "reply": reply.text if keep_text else None,
    }


def _score_columns(parsed: ParsedReply) -> dict[str, object]:
    return {
        "scores": parsed.scores,
        "rationales": parsed.rationales,
        "overall": parsed.overall,
        "training_recommendation": parsed.training_recommendation,
        "domain_tag": parsed.domain_tag,
        "brief": parsed.brief,
    }


def _aggregate_columns(aggregator: Aggregator, source: str, parsed: ParsedReply) -> dict[str, object]:
    found = aggregator.of(source, msgspec.structs.astuple(parsed.scores))
    return {
        "aggregate": found.value,
        "masked": found.masked,
        "aggregate_fingerprint": aggregator.fingerprint,
    }
