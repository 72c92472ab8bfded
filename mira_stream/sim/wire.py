"""vLLM's error answers, in its own words and forms."""

import msgspec

VERSION = "0.32.0"
"""The vLLM whose surface this is."""

DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
LEAVING = "cannot schedule new futures after shutdown"
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    500: "InternalServerError",
    503: "Service Unavailable",
}
_PLANNED = {500: DEAD, 503: BUSY}


class WireError(Exception):
    """An answer that is an error: its status, its body, and a Retry-After in seconds if there is one."""

    def __init__(self, status: int, body: bytes, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {body.decode(errors='replace')}")
        self.status = status
        self.body = body
        self.retry_after_seconds = retry_after_seconds


def error_form(
    status: int, message: str, param: str | None = None, kind: str | None = None
) -> dict[str, object]:
    """`{"error": {message, type, param, code}}`."""
    kind = kind or _TYPES.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def error(status: int, message: str, *, param: str | None = None, kind: str | None = None) -> WireError:
    """An error in vLLM's own form."""
    return WireError(status, msgspec.json.encode(error_form(status, message, param, kind)))


def parameter_error(message: str, parameter: str, value: object) -> WireError:
    """A refused value, in the words that end with the parameter's name."""
    return error(400, f"{message} (parameter={parameter}, value={value})", param=parameter)


def unauthorized() -> WireError:
    """The answer to a missing or wrong API key."""
    return WireError(401, b'{"error":"Unauthorized"}')


def framework_error(status: int, detail: str) -> WireError:
    """What the web framework refuses before vLLM sees it, in the framework's form."""
    return WireError(status, msgspec.json.encode({"detail": detail}))


def planned_error(status: int, retry_after_seconds: float | None) -> WireError:
    """The answer of a planned fault: vLLM's own body for that status, as far as it has one."""
    if status == 401:
        return unauthorized()
    body = msgspec.json.encode(error_form(status, _PLANNED.get(status, "planned fault")))
    return WireError(status, body, retry_after_seconds)
