"""What each reason means, and what to do about it, in a sentence each; the runbook says more."""

from collections.abc import Mapping

from mira_stream.core.outcome import Reason

MEANING: Mapping[Reason, tuple[str, str]] = {
    Reason.INVALID_UTF8: ("the line is not UTF-8", "mend the writer, and land the object again"),
    Reason.INVALID_JSON: (
        "the line is not JSON: cut off, two records in one, or a number that JSON does not know",
        "mend the writer, and land the object again",
    ),
    Reason.NOT_OBJECT: ("the line is JSON, but no object", "mend the writer, and land the object again"),
    Reason.TOO_DEEP: (
        "the record is nested more than 500 levels deep",
        "look for a writer that wraps its output",
    ),
    Reason.LINE_TOO_LONG: (
        "the line is longer than [source] line_bytes_max",
        "raise the limit if such records are meant, restart the daemon, then replay",
    ),
    Reason.NO_TEXT: ("there is no text in it to judge", "see what was understood with `mira-stream render`"),
    Reason.MISSING_FIELD: (
        "it lacks the field by which [source] name_from finds its source",
        "mend the writer, and land the object again",
    ),
    Reason.OVER_LENGTH: (
        "prompt and reply do not fit the model's context, and [request] overflow forbids cutting",
        'set overflow = "middle" or give replicas of a longer context, restart the daemon, then replay',
    ),
    Reason.REFUSED: (
        "a replica refused this request while it answered others; its words are in the reply",
        "look at them; replay once the replicas' settings or release have changed",
    ),
    Reason.POISON: (
        "twice a replica crashed while this was its only request",
        "look into that replica's log before replaying, and do it while little depends on the fleet",
    ),
    Reason.MALFORMED_REPLY: (
        "the last reply lacked a required field, also after it was asked again",
        "look at the reply; replay once the replicas serve the right model with the right sampling",
    ),
    Reason.CUT_REPLY: (
        "the last reply lacked a required field, and ended at max_tokens",
        "raise [request] max_tokens, restart the daemon, then replay",
    ),
    Reason.TRUNCATED: (
        "the object ends inside a line, frame or member, or went while it was read",
        "put it back or let its writer go on, then replay; or land it again whole, as a new version",
    ),
    Reason.OVERWRITTEN: (
        "the object was replaced, or written over, while it was read",
        "write objects once; [source] on_overwrite decides about the new version",
    ),
    Reason.WINDOW: (
        "a zstd frame needs a larger window than [source] window_log_max",
        "compress it with a smaller one, and land it again",
    ),
    Reason.RATIO: (
        "it grows too much when it is decompressed: a bomb, or a writer gone wrong",
        "look at its writer",
    ),
    Reason.CORRUPT: (
        "a checksum is wrong, or something stands behind its last frame",
        "compare it with the writer's copy, and land it again",
    ),
    Reason.BLANK: ("the line is blank", "nothing: it is counted so that rows and lines agree"),
    Reason.NO_POOL: (
        "no pool scored its source when it was read",
        "give a [[pool]] its source, restart the daemon, then replay",
    ),
    Reason.SUPERSEDED: (
        'another version of its object was being scored, and on_overwrite = "first"',
        "nothing, or land it under a name of its own",
    ),
}
