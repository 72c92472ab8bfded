"""Who may read the HTTP endpoints: on loopback whoever is there, on any other address whoever bears the token."""

import base64
import binascii
import hmac
import ipaddress

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import HttpSection
from mira_stream.daemon.secrets import read_secret

TOKEN_CHARS_MIN = 16
_KEY = "[http] token_env"


class Guard:
    """Admits requests that bear the token: `Authorization: Bearer <token>`, or Basic with it as the password."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def admits(self, authorization: str | None) -> bool:
        """Whether the header of that name is right; in constant time for tokens of any one length."""
        scheme, _, given = (authorization or "").partition(" ")
        found = (
            _password(given.strip())
            if scheme.lower() == "basic"
            else given.strip().encode("utf-8", "replace")
        )
        return hmac.compare_digest(found, self._token) and scheme.lower() in ("basic", "bearer")


def guard_of(settings: HttpSection) -> Guard | None:
    """The guard of the configured address; None where none is asked for. Raises Refusal if there has to be one."""
    if settings.token_env is not None:
        return Guard(http_token(settings.token_env))
    if not is_loopback(settings.listen):
        raise Refusal(
            f"[http] listen = {settings.listen!r} can be reached from other machines, and no token is asked for",
            f"name the token's environment variable or credential in {_KEY}, or listen on 127.0.0.1",
        )
    return None


def http_token(name: str) -> str:
    """The token called `name`. Raises Refusal if it is not there or could be guessed."""
    token = read_secret(name, _KEY)
    if len(token) < TOKEN_CHARS_MIN:
        raise Refusal(
            f"the token that {_KEY} names is shorter than {TOKEN_CHARS_MIN} characters",
            "make a long one, such as `openssl rand -hex 32` prints",
        )
    return token


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach `host:port`. A name other than localhost may be any address."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _password(encoded: str) -> bytes:
    """The password of a Basic header; empty if it is none."""
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
