"""`mira-stream status` against what is no daemon: it says so, soon, and never shows a traceback."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.daemon import status_view
from mira_stream.daemon.status_view import show_status

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP answer with that body."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that takes one connection and hands it to `talk`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            server.close()  # whoever tries again is refused
            with client:
                client.recv(1 << 16)
                talk(client)

        port = server.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{port}/status.json"
        thread.join()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (whole(b"\xff\xfe"), "not the status"),
        (whole(b'{"version":"\xff"}'), "not the status"),
        (whole(b"<html>"), "not the status"),
        (whole(b"[" * 100_000), "not the status"),
        (whole(b"no", b"404 Not Found"), "404 Not Found"),
        (whole(b"{}")[:-1], "no daemon answers"),
        (b"", "no daemon answers"),
        (b"SSH-2.0-x\r\n\r\n", "no daemon answers"),
    ],
)
def test_what_is_no_status_is_refused(answer: bytes, said: str, *, as_json: bool) -> None:
    """Whatever else listens there, the command says that it is no daemon's status, as JSON too."""
    with listening(lambda client: client.sendall(answer)) as url, pytest.raises(Refusal, match=said):
        show_status(url, watch=False, as_json=as_json)


def test_where_nothing_listens_nobody_answers() -> None:
    """The most usual mistake is told in plain words."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/status.json"
        with pytest.raises(Refusal, match=r"no daemon answers at \S+: nothing listens there$"):
            show_status(url, watch=False, as_json=False)


def test_a_server_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is that of the whole answer: one that comes byte by byte for ever does not hold the command."""
    monkeypatch.setattr(status_view, "_TIMEOUT_SECONDS", 0.3)
    left = threading.Event()

    def drip(client: socket.socket) -> None:
        client.sendall(HEAD)
        try:
            while not left.wait(0.02):
                client.sendall(b" ")
        except OSError:
            return

    with listening(drip) as url:
        try:
            with pytest.raises(Refusal, match="nothing whole came"):
                show_status(url, watch=False, as_json=True)
        finally:
            left.set()


def test_a_server_that_floods_is_left() -> None:
    """What is far longer than any status is not read into memory."""

    def flood(client: socket.socket) -> None:
        client.sendall(HEAD)
        try:
            while True:
                client.sendall(b" " * (1 << 20))
        except OSError:
            return

    with listening(flood) as url, pytest.raises(Refusal, match="longer than"):
        show_status(url, watch=False, as_json=True)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """An address that cannot be one is a refusal, not a traceback."""
    with pytest.raises(Refusal, match="no address"):
        show_status(url, watch=False, as_json=False)
