"""What obstore raises, in the words of this package. It tells kinds of trouble by text alone, so the text is read here."""

import re

from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

from mira_stream.core.errors import (
    AlreadyExists,
    Denied,
    MiraStreamError,
    Missing,
    Overwritten,
    Refusal,
    Saturated,
    Transient,
    TransientKind,
)

OBSTORE_ERRORS = (BaseError, OSError)
_STATUS = re.compile(r"status code: (\d{3})")
_QUERY = re.compile(r"(?<!<)\?[^\s)<>]*")  # not the head of an answer in XML
_TIMED_OUT = re.compile(r"TimedOut|timed out|timeout", re.IGNORECASE)
_UNREACHABLE = re.compile(r"ConnectionRefused|connection refused|dns error|ConnectError", re.IGNORECASE)
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)")
_SETTINGS_HINTS = {
    "NoSuchBucket": "create the bucket, or correct the name in the address",
    "ContainerNotFound": "create the container, or correct the name in the address",
    "builder error": "an endpoint with http:// needs allow_http = true; otherwise correct the endpoint",
    "incorrectly configured region": "set region to the bucket's own",
    "PermanentRedirect": "set region or endpoint to the bucket's own",
    "AuthorizationHeaderMalformed": "set region to the bucket's own",
    "InvalidAccessKeyId": "give credentials that this store knows",
    "SignatureDoesNotMatch": "give the right secret key",
}
_EXPIRED = re.compile(
    "ExpiredToken|TokenRefreshRequired|RequestExpired|RequestTimeTooSkewed|not valid in the specified time frame"
)
_DENIED_HINT = "give credentials that may list, read (and for a sink create and delete) there"
_PATH_HINT = "no client of this store can list it past a key with an empty part or with '.' or '..' as a part: rename that key"


def is_past_the_end(error: Exception) -> bool:
    """Whether a range began at or after the end of the object: 416, or (on Azure) found out by the client."""
    text = str(error)
    return _status(text) == 416 or "Wanted range starting at" in text


def is_denied(error: Exception) -> bool:
    """Whether the store refused these credentials (401, 403)."""
    return _status(str(error)) in (401, 403) or isinstance(
        error, PermissionDeniedError | UnauthenticatedError
    )


def translated(error: Exception, doing: str) -> MiraStreamError:
    """The error of this package for what obstore raised while `doing`."""
    text = str(error)
    problem = f"cannot {doing}: {brief(text)}"
    if certificate := _CERTIFICATE.search(text):
        # A certificate that ran out is renewed some day: tried again, as any store that is not there.
        why = f"its certificate was not accepted: {certificate[1]}; SSL_CERT_FILE names further authorities"
        return Transient(TransientKind.REFUSED, f"{problem} ({why})")
    for sign, hint in _SETTINGS_HINTS.items():
        if sign in text:
            return Refusal(problem, hint)
    status = _status(text)
    if _EXPIRED.search(text):
        # Whoever issues them renews them, and clocks are set right: an outage, not a wrong setting.
        advice = (
            "credentials have expired, or this machine's clock is wrong: tried again until they are renewed"
        )
        return Transient(TransientKind.SERVER, f"{problem} ({advice})", status)
    if is_denied(error):
        return Denied(problem, _DENIED_HINT)
    if type(error).__name__ == "InvalidPathError":
        return Refusal(problem, _PATH_HINT)
    if status == 404 or isinstance(error, FileNotFoundError):
        return Missing(problem)
    if status == 409 and "BlobAlreadyExists" not in text:  # that is Azure's 412
        # S3 answers so while another conditional request on that key runs: neither yes nor no.
        return Transient(TransientKind.SERVER, problem, status)
    if type(error).__name__ == "AlreadyExistsError":
        return AlreadyExists(problem)
    if status == 412 or isinstance(error, PreconditionError):
        return Overwritten(problem)
    if status in (429, 503):
        return Saturated(problem, status=status)
    return Transient(_kind(text, status), problem, status)


def brief(text: str) -> str:
    """One line without the client's debug dump and without queries, which may hold signatures."""
    return _QUERY.sub("", text.partition("\n\nDebug source")[0]).replace("\n", " ").strip()[:500]


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found.group(1)) if found else None


def _kind(text: str, status: int | None) -> TransientKind:
    if status is not None:
        return TransientKind.SERVER
    if _UNREACHABLE.search(text):
        return TransientKind.REFUSED
    return TransientKind.TIMEOUT if _TIMED_OUT.search(text) else TransientKind.RESET
