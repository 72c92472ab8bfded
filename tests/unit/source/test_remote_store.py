"""What a remote store is taken to have said."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from mira_stream.core.errors import Transient
from mira_stream.source.remote_store import RemoteStore, open_remote
from mira_stream.source.store_settings import StoreSettings


class _AlwaysPreconditionFailed(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(412)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    """A bucket whose gateway answers 412 to whatever it is asked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _AlwaysPreconditionFailed)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        settings = StoreSettings(
            endpoint=f"http://127.0.0.1:{server.server_address[1]}", region="us-east-1", allow_http=True
        )
        yield open_remote("s3", "lake", prefix="scores", settings=settings)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_condition_that_nobody_set_has_not_failed(store: RemoteStore) -> None:
    """A gateway that answered the request before twice: asked again, and no record is blamed."""
    with pytest.raises(Transient, match="answered another request"):
        asyncio.run(store.head("a"))
    with pytest.raises(Transient, match="answered another request"):
        asyncio.run(store.get("a"))
