"""The small tree of operating errors. Adapters translate foreign exceptions into it; bugs stay assertions.

Each message is for a person: what is wrong, where, what to do next.
"""

from enum import StrEnum

from mira_stream.core.outcome import Reason


class MiraStreamError(Exception):
    """Root of the operating errors of this package."""


class Refusal(MiraStreamError):
    """We will not start or go on: configuration, layout, probe or lock says no. `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Denied(Refusal):
    """We have no permission: a refusal where nothing can be had, else the trouble of one object alone."""


class TransientKind(StrEnum):
    """What kind of passing trouble it was; control/retry.py blames a record only for some of them."""

    REFUSED = "refused"  # nobody listens: blames nobody
    SHUTDOWN = "shutdown"  # the server announced that it is going away: blames nobody
    DROPPED = "dropped"  # the connection was closed as the request was sent: most often it was an idle one
    RESET = "reset"  # the connection died under a request
    TIMEOUT = "timeout"  # no answer within the time the work should have taken
    SERVER = "server"  # 5xx
    PROTOCOL = "protocol"  # an answer that is not what this server speaks


class Transient(MiraStreamError):
    """May succeed when tried again, perhaps elsewhere."""

    def __init__(self, kind: TransientKind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class Saturated(MiraStreamError):
    """The other side says that it is full (429, 503, SlowDown)."""

    def __init__(
        self, message: str, retry_after_seconds: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.status = status


class Permanent(MiraStreamError):
    """The same request will be refused again (4xx). `param` is vLLM's name of the offending field, if given."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class Corrupt(MiraStreamError):
    """Bytes are not what they claim to be; `reason` is how the object ends."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Missing(MiraStreamError):
    """The object is not there (404)."""


class Elsewhere(Missing):
    """The object cannot be there now: it is of another `source.uri`, or the folder is empty as if not mounted."""


class Overwritten(MiraStreamError):
    """The object is no longer the version that was asked for (412 on `If-Match`)."""


class AlreadyExists(MiraStreamError):
    """Create-if-absent found something there (412, EEXIST)."""
