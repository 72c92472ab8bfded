"""Turns what a server answered, or what became of the connection, into the errors of `core.errors`.

The one translator of the replica room. Messages are for people and never carry a secret: keys are struck out of what
a server said, and nothing of the request goes in.
"""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from mira_stream.core.errors import MiraStreamError, Permanent, Saturated, Transient, TransientKind

RETRY_AFTER_MAX_SECONDS = 3600.0
_SAID_CHARS_MAX = 400

_HINTS = {
    401: "check this pool's API key",
    403: "check this pool's API key and what the server lets it do",
    404: "check that the address is a vLLM server and that it serves this pool's model (`mira-stream check`)",
    405: "check that the address is a vLLM server",
}
_SHUTTING_DOWN = ("cannot schedule new futures after shutdown", "server is shutting down")
# Releases before `param` was filled in say it in the message alone.
_PARAMETER = re.compile(r"\(parameter=(\w{1,64})[,)]")
# Controls, and what turns the direction of the text around it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_OVER_LENGTH = re.compile(r"maximum context length|longer than the maximum model length", re.IGNORECASE)


class _Said(msgspec.Struct, frozen=True):
    """What an error body says: the message, and vLLM's name of the field at fault."""

    message: str
    param: str | None = None


def answered(
    name: str, status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]
) -> MiraStreamError:
    """The error that an answer other than 200 stands for; `secrets` are struck out of what it says."""
    said = _read(body, secrets)
    told = f" and says: {said.message}" if said.message else ""
    if status in (429, 503):
        wait = retry_after_seconds(headers)
        return Saturated(f"{name} is full or not ready ({status}){told}", wait, status)
    if status >= 500:
        ending = any(text in said.message.lower() for text in _SHUTTING_DOWN)
        kind = TransientKind.SHUTDOWN if ending else TransientKind.SERVER
        return Transient(kind, f"{name} failed with {status}{told}", status)
    if status == 408:
        return Transient(TransientKind.TIMEOUT, f"{name} gave up waiting ({status}){told}", status)
    if 400 <= status < 500:
        hint = f"; {_HINTS[status]}" if status in _HINTS else ""
        return Permanent(status, f"{name} refused the request with {status}{told}{hint}", said.param)
    if 300 <= status < 400:
        text = f"{name} answered {status}, a redirect, which is not followed; put the final address in `replicas`"
        return Transient(TransientKind.PROTOCOL, text, status)
    text = f"{name} answered {status}, which no vLLM server does{told}; check the address"
    return Transient(TransientKind.PROTOCOL, text, status)


def disconnected(
    name: str, error: aiohttp.ClientError | OSError, *, timeout_seconds: float, dropped: bool = False
) -> MiraStreamError:
    """The error that a failed connection stands for. Nobody is blamed for a connection that was never made.

    `dropped`: it failed before any answer and so soon after the request was sent that no work can have been lost.
    """
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Transient(TransientKind.REFUSED, f"{name} did not accept a connection in time; is it up?")
        case TimeoutError():
            return Transient(TransientKind.TIMEOUT, f"{name} did not answer within {timeout_seconds:.0f} s")
        case aiohttp.ClientConnectorCertificateError():
            why = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
            hint = "[replica] ca_file names further authorities"
            return Transient(
                TransientKind.REFUSED, f"{name}: its certificate was not accepted: {why}; {hint}"
            )
        case aiohttp.ClientSSLError():
            why = "its certificate was not accepted or it does not speak TLS"
            return Transient(TransientKind.REFUSED, f"{name} cannot be reached: {why}")
        case aiohttp.ClientConnectorDNSError():
            return Transient(TransientKind.REFUSED, f"{name} cannot be reached: its host name is not known")
        case aiohttp.ClientConnectorError():
            why = (error.os_error.strerror or "no connection").lower()
            return Transient(TransientKind.REFUSED, f"{name} cannot be reached: {why}; is it up?")
        case aiohttp.ClientResponseError():
            return Transient(TransientKind.PROTOCOL, f"{name} does not answer in HTTP; check the address")
        case _ if dropped:
            return Transient(TransientKind.DROPPED, f"{name} closed the connection as the request was sent")
        case _:
            return Transient(
                TransientKind.RESET, f"{name} closed the connection before its answer was complete"
            )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds from now, given as seconds or as a date; at most an hour, None if absent or unreadable.

    A date is compared with the server's own `Date`, so that a clock that is off does not stretch the wait.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until, now = _http_time(text), _http_time(headers.get("Date", ""))
        if until is None:
            return None
        seconds = until - (now if now is not None else time.time())
        return min(max(seconds, 0.0), RETRY_AFTER_MAX_SECONDS)
    return min(seconds, RETRY_AFTER_MAX_SECONDS) if seconds >= 0 and not math.isnan(seconds) else None


def _http_time(text: str) -> float | None:
    """Seconds since the epoch of an HTTP date."""
    parts = email.utils.parsedate_tz(text)
    if parts is None:
        return None
    try:
        return float(email.utils.mktime_tz(parts))
    except (OverflowError, ValueError):
        return None


def _read(body: bytes, secrets: tuple[str, ...]) -> _Said:
    """The message in `body`: vLLM's `{"error": {…}}`, its older flat form, FastAPI's `{"detail": …}`, or plain text."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return _Said(_tidy(body.decode("utf-8", "replace"), secrets))
    error: Any = told.get("error", told) if isinstance(told, dict) else told
    if not isinstance(error, dict):
        return _Said(_tidy(str(error), secrets))
    message = error.get("message", error.get("detail", ""))
    param = error.get("param")
    return _said(_tidy(str(message), secrets), param if isinstance(param, str) else None)


def _said(message: str, param: str | None) -> _Said:
    if param is None and (named := _PARAMETER.search(message)):
        param = named[1]
    if param is None and _OVER_LENGTH.search(message):
        param = "input_tokens"
    return _Said(message, param)


def _tidy(text: str, secrets: tuple[str, ...]) -> str:
    """One line of bounded length, without secrets and without what a terminal would obey."""
    for secret in secrets:
        text = text.replace(secret, "***")
    line = " ".join(_CONTROL.sub(" ", text[: 4 * _SAID_CHARS_MAX]).split())
    return line if len(line) <= _SAID_CHARS_MAX else f"{line[:_SAID_CHARS_MAX]}…"
