"""The source over S3: conditions, errors for people, overwritten objects, refused settings."""

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from mira_stream.core.errors import AlreadyExists, MiraStreamError, Refusal, Saturated, Transient
from mira_stream.core.naming import SourceNaming
from mira_stream.core.outcome import Reason
from mira_stream.core.sight import LineBatch, SeenObject
from mira_stream.ports import ObjectStore
from mira_stream.source import tail
from mira_stream.source.probe import probe_source
from mira_stream.source.settings import SourceSettings
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from mira_stream.source.tail import TailSource
from tests.fakes.s3_server import CREDENTIALS, S3Lake, s3_lake


@pytest.fixture(scope="module")
def lake() -> Iterator[S3Lake]:
    """One server for all tests here."""
    with s3_lake() as running:
        yield running


def _source(store: ObjectStore) -> TailSource:
    settings = SourceSettings(uri=store.uri)
    return TailSource(store, settings, SourceNaming.parse(""), wall_clock=lambda: 0.0)


async def _discovered(source: TailSource) -> list[SeenObject]:
    return [seen async for page in source.discover(known=lambda _: {}) for seen in page]


async def _read(source: TailSource, seen: SeenObject) -> list[LineBatch]:
    return [batch async for batch in source.read(seen.version, once=False)]


def test_objects_of_a_bucket_are_found_and_read(lake: S3Lake) -> None:
    """Discovery gives uri, etag without quotes, source and size; reading gives every line, the torn last one too."""
    bucket = lake.new_bucket()
    lake.put(bucket, "raw/claude_cli/a.jsonl", b'{"a":1}\n{"b":2}')
    lake.put(bucket, "raw/claude_cli/empty.jsonl", b"")
    lake.put(bucket, "raw/_mira_stream/x.jsonl", b"ours")
    lake.put(bucket, "rawer/other.jsonl", b"not below the prefix")
    lake.put(bucket, "raw/folder/", b"")

    async def story() -> None:
        source = _source(lake.store(bucket))
        first, empty = sorted(await _discovered(source), key=lambda seen: seen.key)
        assert first.version.uri == f"s3://{bucket}/raw/claude_cli/a.jsonl"
        assert first.source == "claude_cli"
        assert first.change == first.version.etag == first.version.etag.strip('"')
        batches = await _read(source, first)
        assert [line.raw for batch in batches for line in batch.lines] == [b'{"a":1}', b'{"b":2}']
        assert batches[-1].end is not None
        assert (batches[-1].end.lines, batches[-1].end.reason) == (2, None)
        assert [batch.end for batch in await _read(source, empty)][-1].lines == 0
        source.close()

    asyncio.run(story())


def test_an_object_overwritten_while_it_is_read_ends_as_overwritten(
    lake: S3Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version between two ranges stops the reading: the lines before stay, no line mixes both."""
    monkeypatch.setattr(tail, "RANGE_BYTES", 20)
    bucket = lake.new_bucket()
    lake.put(bucket, "raw/s/a.jsonl", b'{"version":"one"}\n' * 4)

    async def story() -> None:
        source = _source(lake.store(bucket))
        (seen,) = await _discovered(source)
        batches = source.read(seen.version, once=False)
        lines = list((await anext(batches)).lines)
        lake.put(bucket, "raw/s/a.jsonl", b'{"version":"two"}\n' * 4)
        rest = [batch async for batch in batches]
        lines += [line for batch in rest for line in batch.lines]
        assert {line.raw for line in lines} == {b'{"version":"one"}'}
        assert rest[-1].end is not None
        assert rest[-1].end.reason is Reason.OVERWRITTEN
        assert rest[-1].end.lines == len(lines) < 4
        source.close()

    asyncio.run(story())


def test_the_probe_accepts_a_store_that_keeps_conditions(lake: S3Lake) -> None:
    """The probe finds nothing to say about S3 with an object, and says so where there is none yet."""
    bucket = lake.new_bucket()
    store = lake.store(bucket)
    (finding,) = asyncio.run(probe_source(store))
    assert "no object yet" in finding
    lake.put(bucket, "raw/s/a.jsonl", b"{}\n")
    assert asyncio.run(probe_source(store)) == []


def test_a_missing_bucket_is_refused_with_a_hint(lake: S3Lake) -> None:
    """Listing, reading and creating in no bucket are refusals that say what to do."""

    async def story() -> None:
        store = open_store("s3://no-such-bucket/raw", lake.settings)
        for call in (store.list().__anext__(), store.get("x"), store.create("x", b"")):
            with pytest.raises(Refusal, match="no-such-bucket") as caught:
                await call
            assert "create the bucket" in caught.value.hint
            assert "Debug source" not in str(caught.value)

    asyncio.run(story())


def test_a_plain_http_endpoint_needs_consent(lake: S3Lake) -> None:
    """An http:// endpoint without allow_http is refused with that hint."""
    settings = StoreSettings(endpoint=lake.settings.endpoint, region="us-east-1")

    async def story() -> None:
        with pytest.raises(Refusal) as caught:
            await open_store("s3://lake/raw", settings).get("x")
        assert "allow_http" in caught.value.hint

    asyncio.run(story())


def test_a_server_that_is_not_there_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection may pass: it is Transient, after a bounded number of tries."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    settings = StoreSettings(endpoint="http://127.0.0.1:9", region="us-east-1", allow_http=True)

    async def story() -> None:
        with pytest.raises(Transient):
            await open_store("s3://lake/raw", settings).create("x", b"")

    asyncio.run(story())


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the object's name asks for, and ignores all conditions."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status = int(self.path.rpartition("/")[2].partition("?")[0])
        body = b"<Error><Code>Whatever</Code></Error>" if status != 200 else b"data"
        if status == 200 and self.headers.get("range"):
            self.send_response(206)
            self.send_header("content-range", "bytes 0-3/4")
        else:
            self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"abc"')
        self.send_header("last-modified", "Mon, 23 Nov 2026 12:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store whose object `503` answers 503, and so on."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    settings = StoreSettings(
        endpoint=f"http://127.0.0.1:{server.server_port}", region="us-east-1", allow_http=True
    )
    yield open_store("s3://lake", settings)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Transient),
        (401, Refusal),
        (403, Refusal),
        (409, Transient),
        (412, AlreadyExists),
        (429, Saturated),
        (500, Transient),
        (503, Saturated),
    ],
)
def test_a_refused_create_is_told_apart(
    answering: ObjectStore, status: int, kind: type[MiraStreamError]
) -> None:
    """Each answer to a create becomes the error that says what to do; a 409 is never taken for `exists`."""

    async def story() -> None:
        with pytest.raises(kind) as caught:
            await answering.create(str(status), b"x")
        assert str(status) in str(caught.value)

    asyncio.run(story())


def test_a_store_that_ignores_conditions_is_refused(answering: ObjectStore) -> None:
    """A 200 under an etag that is not the object's is a refusal: two versions would be mixed."""

    async def story() -> None:
        assert await answering.get("200", start=0, etag="abc") == b"data"
        with pytest.raises(Refusal, match="ignores If-Match"):
            await answering.get("200", start=0, etag="other")

    asyncio.run(story())


def test_a_key_that_no_client_can_read_is_named(lake: S3Lake) -> None:
    """A key with an empty part cannot be listed past: the refusal names it instead of hiding the rest."""
    bucket = lake.new_bucket()
    lake.put(bucket, "raw/a//b.jsonl", b"{}\n")
    with pytest.raises(Refusal, match=r"raw/a//b\.jsonl") as caught:
        asyncio.run(_discovered(_source(lake.store(bucket))))
    assert "rename that key" in caught.value.hint
