"""What stores say in their own words, told apart by text alone."""

import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

from mira_stream.core.errors import (
    AlreadyExists,
    MiraStreamError,
    Overwritten,
    Saturated,
    Transient,
    TransientKind,
)
from mira_stream.source.remote_errors import is_past_the_end, translated


def _answer(status: str, code: str) -> str:
    return f"Error performing PUT http://lake/x in 2ms - Server returned non-2xx status code: {status}: <Code>{code}</Code>"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AlreadyExistsError(_answer("412 Precondition Failed", "PreconditionFailed")), AlreadyExists),
        (AlreadyExistsError(_answer("409 Conflict", "BlobAlreadyExists")), AlreadyExists),
        (AlreadyExistsError(_answer("409 Conflict", "ConditionalRequestConflict")), Transient),
        (GenericError(_answer("409 Conflict", "OperationAborted")), Transient),
        (GenericError(_answer("503 Service Unavailable", "SlowDown")), Saturated),
        (GenericError(_answer("500 Internal Server Error", "InternalError")), Transient),
        (PreconditionError(_answer("412 Precondition Failed", "ConditionNotMet")), Overwritten),
    ],
)
def test_a_conflict_that_decides_is_told_from_one_that_does_not(
    error: Exception, kind: type[MiraStreamError]
) -> None:
    """S3 says 412 where a name is taken and 409 while it cannot say; Azure says 409 for the first, by a code of its own."""
    assert type(translated(error, "create x")) is kind


@pytest.mark.parametrize(
    ("text", "past"),
    [
        (_answer("416 Range Not Satisfiable", "InvalidRange"), True),
        (
            "Generic MicrosoftAzure error: Wanted range starting at 10, but object was only 10 bytes long",
            True,
        ),
        (_answer("500 Internal Server Error", "InternalError"), False),
    ],
)
def test_a_range_past_the_end_is_known_by_the_stores_word_or_the_clients(text: str, *, past: bool) -> None:
    """Azure's client finds it out by itself, without a status."""
    assert is_past_the_end(GenericError(text)) is past


def test_a_certificate_that_was_not_accepted_is_told() -> None:
    """The client says it in its debug dump alone; the store is asked again, as one that is not there."""
    dump = (
        "\n\nDebug source:\nHttpError { kind: Connect, error: InvalidCertificate(\n    UnknownIssuer,\n ) }"
    )
    found = translated(GenericError("HTTP error: error sending request" + dump), "list s3://lake")
    assert isinstance(found, Transient)
    assert found.kind is TransientKind.REFUSED
    assert "its certificate was not accepted: UnknownIssuer; SSL_CERT_FILE" in str(found)
