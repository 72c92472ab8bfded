"""The latest dead letters: fifty, newest first, clipped."""

from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.row import Row, encode_row
from mira_stream.core.segment import Received
from mira_stream.pipeline.letters import LatestLetters


def received(ordinal: int, reason: Reason | None, reply: str | None = None) -> Received:
    """The outcome of a record, as it goes into the ledger."""
    key = RecordKey(ObjectVersion("s3://lake/a.jsonl", "e"), ordinal)
    outcome = Outcome.DEAD_LETTERED if reason else Outcome.SCORED
    row = Row(
        record_id=key.record_id, generation=0, source="x", group="agent/A", object=key.version.uri, etag="e",
        ordinal=ordinal, outcome=outcome, reason=reason, replica="http://one", attempts=3, scored_at="2026", reply=reply,
    )  # fmt: skip
    return Received("p", key, outcome, reason, encode_row(row))


def test_the_last_fifty_are_kept_newest_first() -> None:
    """Of dead letters only."""
    letters = LatestLetters()
    for ordinal in range(70):
        letters.see(received(2 * ordinal, Reason.POISON))
        letters.see(received(2 * ordinal + 1, None))
    assert [one.ordinal for one in letters] == list(range(138, 38, -2))


def test_what_is_kept_of_a_letter_is_bounded() -> None:
    """A megabyte of reply is three hundred characters, all of them visible."""
    letters = LatestLetters()
    letters.see(received(1, Reason.MALFORMED_REPLY, "\x1b[31m" + "x" * (1 << 20)))
    (one,) = letters
    assert (one.source, one.group, one.replica, one.attempts) == ("x", "agent/A", "http://one", 3)
    assert one.said is not None
    assert len(one.said) == 300
    assert one.said.startswith("\ufffd[31mxxx")
    assert one.said.endswith("…")
