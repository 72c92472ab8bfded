"""`mira-stream status`: what a running daemon says about itself, for a terminal."""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console
from rich.live import Live

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import load_config
from mira_stream.daemon.http_guard import http_token
from mira_stream.daemon.status import Status
from mira_stream.daemon.status_picture import picture

_REFRESH_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_BYTES_MAX = 16 << 20
"""A replica takes about a kilobyte of it, a source of scores as much."""


def status_url(config: Path | None, url: str | None) -> str:
    """Where the daemon says how it is. Raises Refusal if neither or both are given."""
    if (config is None) == (url is None):
        raise Refusal("say which daemon is meant", "give --config FILE or --url http://host:port")
    if url is None:
        assert config is not None
        host, _, port = load_config(config).http.listen.rpartition(":")
        if port == "0":
            raise Refusal(f"{config} lets the daemon choose its port", "give --url as its log says")
        url = f"http://{_reachable(host)}:{port}"
    if not url.startswith(("http://", "https://")):
        raise Refusal(f"{url} is no address", "give --url http://host:port")
    return url.rstrip("/") + "/status.json"


def status_token(config: Path | None, token_env: str | None) -> str | None:
    """What the daemon asks for, if it does: named by hand, else by its configuration. Raises Refusal."""
    name = token_env or (load_config(config).http.token_env if config is not None else None)
    return None if name is None else http_token(name)


def _reachable(host: str) -> str:
    """A daemon that listens on every address is reached on this one."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not bound


def show_status(url: str, *, watch: bool, as_json: bool, token: str | None = None) -> None:
    """Print it once, or show it until interrupted. Raises Refusal if nobody answers there."""
    if as_json:
        body = _fetch(url, token)
        _decoded(body, url)
        sys.stdout.write(body.decode() + "\n")
        return
    console = Console()
    if not watch:
        console.print(picture(_status(url, token)))
        return
    try:
        with Live(picture(_status(url, token)), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_SECONDS)
                live.update(picture(_status(url, token)), refresh=True)
    except KeyboardInterrupt:
        return


def _fetch(url: str, token: str | None) -> bytes:
    try:
        return asyncio.run(_get(url, {"Authorization": f"Bearer {token}"} if token else {}))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Refusal(
            f"no daemon answers at {url}: {_reason(error)}",
            "is it running, and is [http] listen this address?",
        ) from error


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientResponseError(status=401):
            return "it asks for a token: give --token-env NAME, or the --config that names it"
        case TimeoutError():
            return f"nothing whole came within {_TIMEOUT_SECONDS:.0f} s"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "nothing listens there"
        case aiohttp.InvalidURL():
            return "that is no address"
        case aiohttp.ClientResponseError():
            return f"what is there says {error.status} {error.message}"
        case _:
            return str(error)


async def _get(url: str, headers: dict[str, str]) -> bytes:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    body = bytearray()
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.get(url, headers=headers) as answer,
    ):
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > _BYTES_MAX:
                raise _no_status(url, f"it is longer than {_BYTES_MAX:,} bytes")
    return bytes(body)


def _status(url: str, token: str | None) -> Status:
    return _decoded(_fetch(url, token), url)


def _decoded(body: bytes, url: str) -> Status:
    try:
        return msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_status(url, str(error)) from error


def _no_status(url: str, why: str) -> Refusal:
    return Refusal(f"{url} is not the status of a mira-stream of this version: {why}")
