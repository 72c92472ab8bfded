"""Every record ends once: the closed set of ends, and the closed set of reasons."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a record ended."""

    SCORED = "scored"
    DEAD_LETTERED = "dead_lettered"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Why a record was not scored: an error class, a metric label and a section of the runbook at once."""

    # dead_lettered: the bytes of the line
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    NOT_OBJECT = "not_object"
    TOO_DEEP = "too_deep"
    LINE_TOO_LONG = "line_too_long"
    # dead_lettered: the content of the record
    NO_TEXT = "no_text"
    MISSING_FIELD = "missing_field"
    OVER_LENGTH = "over_length"
    # dead_lettered: what the replicas said
    REFUSED = "refused"
    POISON = "poison"
    MALFORMED_REPLY = "malformed_reply"
    CUT_REPLY = "cut_reply"
    # dead_lettered: an object that could not be read to its end; stands at the next ordinal
    TRUNCATED = "truncated"
    OVERWRITTEN = "overwritten"
    WINDOW = "window"
    RATIO = "ratio"
    CORRUPT = "corrupt"
    # skipped
    BLANK = "blank"
    NO_POOL = "no_pool"
    SUPERSEDED = "superseded"


SKIPPED_REASONS = frozenset({Reason.BLANK, Reason.NO_POOL, Reason.SUPERSEDED})
OBJECT_REASONS = frozenset(
    {Reason.TRUNCATED, Reason.OVERWRITTEN, Reason.WINDOW, Reason.RATIO, Reason.CORRUPT, Reason.SUPERSEDED}
)


def outcome_of(reason: Reason | None) -> Outcome:
    """The outcome that a reason stands for; no reason is a score."""
    if reason is None:
        return Outcome.SCORED
    return Outcome.SKIPPED if reason in SKIPPED_REASONS else Outcome.DEAD_LETTERED


class LimitingFactor(StrEnum):
    """Why the next record is not being dispatched."""

    KV = "kv"
    PREFILL = "prefill"
    REQUESTS = "requests"
    SOURCE_STARVED = "source_starved"
    SINK_BLOCKED = "sink_blocked"
    BREAKER = "breaker"
    RETRY_BUDGET = "retry_budget"
    DRAINING = "draining"
