"""A server between the product and another one: it writes down what is sent, leaves out headers, loses answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
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


class Trouble(NamedTuple):
    """What befalls one request: how often it is passed on and answered, and by what.

    `answers` 0 with neither `stalls` nor `cut`: the connection is closed without a word. `status`: given in place of
    the server's, with `body`. `stalls`: nothing is said until the client has gone. `cut`: half of the body, then closed.
    """

    name: str
    sends: int = 1
    answers: int = 1
    status: int | None = None
    body: bytes = b""
    stalls: bool = False
    cut: bool = False
    late_seconds: float = 0.0


FINE = Trouble("fine")


class Troubles:
    """Gives the requests that `applies` picks one trouble after the other, `fine` of them in peace after each.

    It begins again at the end, unless `once`. `given` counts them by name.
    """

    def __init__(
        self, plan: Sequence[Trouble], applies: Callable[[Heard], bool], *, fine: int = 1, once: bool = False
    ) -> None:
        self.given: Counter[str] = Counter()
        self._plan = [each for trouble in plan for each in (trouble, *[FINE] * fine)]
        self._applies = applies
        self._once = once
        self._next = 0
        self._lock = threading.Lock()

    def __call__(self, heard: Heard) -> Trouble:
        with self._lock:
            if not self._applies(heard) or not self._plan:
                return FINE
            trouble = self._plan[self._next % len(self._plan)]
            self._next += 1
            if self._once and self._next == len(self._plan):
                self._plan = []
            self.given[trouble.name] += 1
            return trouble


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    target = ""
    leave_out: frozenset[str] = frozenset()
    heard: list[Heard]
    trouble: Callable[[Heard], Trouble] = staticmethod(lambda _: FINE)

    def handle_error(self, *_: object) -> None:
        """Silence: a client that has gone before its answer came is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """Sends each request on, one connection each, and its answer back."""

    server: _Server
    # Kept alive, so that a second answer finds the client listening.
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _pass_on(self) -> None:
        heard = Heard(self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.server.heard.append(heard)
        trouble = self.server.trouble(heard)
        answer = _Answer(400, [], b"")
        for _ in range(trouble.sends):
            answer = self._ask(heard.body)
        if trouble.status is not None:
            answer = _Answer(trouble.status, [], trouble.body)
        time.sleep(trouble.late_seconds)
        for _ in range(trouble.answers):
            self._answer(answer, cut=trouble.cut)
        if trouble.stalls:
            self.rfile.read(1)
        self.close_connection = self.close_connection or trouble.stalls or trouble.cut or not trouble.answers

    def _ask(self, body: bytes) -> "_Answer":
        left_out = {"connection", *self.server.leave_out}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        connection = HTTPConnection(self.server.target, timeout=20)
        try:
            connection.request(self.command, self.path, body or None, kept)
            answer = connection.getresponse()
            return _Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _answer(self, answer: "_Answer", *, cut: bool) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        told = next((value for name, value in answer.headers if name.lower() == "content-length"), "0")
        length = told if self.command == "HEAD" else str(len(answer.body))
        if answer.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)

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


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@contextmanager
def proxy(
    url: str, *, leave_out: Collection[str] = (), trouble: Callable[[Heard], Trouble] = lambda _: FINE
) -> Iterator[tuple[str, list[Heard]]]:
    """The address of a proxy for `url`, and the list of what it heard.

    Headers named in `leave_out` are not passed on; `trouble` is asked for each request, by the thread that has it.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.target = urlsplit(url).netloc
        server.leave_out = frozenset(name.lower() for name in leave_out)
        server.heard = []
        server.trouble = trouble
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.heard
        finally:
            server.shutdown()
            thread.join()
