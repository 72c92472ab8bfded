"""A server between the product and another one: it writes down what is sent, and can leave out a header."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

_OWN_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}
"""What each side of the proxy says for itself."""


class Heard(NamedTuple):
    """One request that came by."""

    method: str
    path: str
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    target = ""
    leave_out: frozenset[str] = frozenset()
    heard: list[Heard]


class _Handler(BaseHTTPRequestHandler):
    """Sends each request on, one connection each, and its answer back."""

    server: _Server

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.heard.append(Heard(self.command, self.path, body))
        kept = {
            name: value for name, value in self.headers.items() if name.lower() not in self.server.leave_out
        }
        connection = HTTPConnection(self.server.target, timeout=20)
        try:
            connection.request(self.command, self.path, body or None, kept)
            answer = connection.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    def do_DELETE(self) -> None:
        self._pass_on()

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def log_message(self, *_: object) -> None:
        """Silence: it would go to the tests' stderr."""


@contextmanager
def proxy(url: str, *, leave_out: Collection[str] = ()) -> Iterator[tuple[str, list[Heard]]]:
    """The address of a proxy for `url`, and the list of what it heard; headers named in `leave_out` are not passed on."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.target = urlsplit(url).netloc
        server.leave_out = frozenset(name.lower() for name in leave_out)
        server.heard = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.heard
        finally:
            server.shutdown()
            thread.join()
