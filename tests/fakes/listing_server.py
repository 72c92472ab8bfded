"""A bucket of any number of small objects that exist only as they are asked for: it lists in pages, and can misbehave.

As a process: `python -m tests.fakes.listing_server --objects N`; prints its address.
"""

import argparse
import asyncio
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from xml.sax.saxutils import escape

from aiohttp import web
from aiohttp.typedefs import Handler

BUCKET = "lake"
PREFIX = "raw/"
SOURCE = "claude_cli"
_PAGE = 1000
_MODIFIED = "2026-01-01T00:00:00.000Z"
_EXPIRED = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><Code>ExpiredToken</Code>"
    "<Message>The provided token has expired.</Message></Error>"
)


class VirtualLake:
    """`objects` plain objects of `lines` records each, `padding` bytes larger than need be; what it lists can be changed while it serves.

    Attributes:
        objects: how many there are now.
        extra: keys (below the prefix) beside the numbered ones, each of one record.
        shuffled: pages hold their keys in any order, and some of them twice.
        expired: every request is answered with 403 ExpiredToken.
        broken: the status and the error code with which every read of a numbered object is answered.
        asked: requests so far, by method; refused ones too.
    """

    def __init__(self, objects: int, *, lines: int = 1, page: int = _PAGE, padding: int = 0) -> None:
        self.objects = objects
        self.extra: list[str] = []
        self.shuffled = False
        self.expired = False
        self.broken: dict[int, tuple[int, str]] = {}
        self.asked: dict[str, int] = {}
        self._lines = lines
        self._page = page
        self._padding = padding
        self._size = len(self._body(self._numbered(0)))

    def app(self) -> web.Application:
        """The S3 interface, as far as a source needs it."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(f"/{BUCKET}", self._list)
        app.router.add_get(f"/{BUCKET}/", self._list)
        app.router.add_get(f"/{BUCKET}/{{key:.+}}", self._get)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.asked[request.method] = self.asked.get(request.method, 0) + 1
        if self.expired:
            return web.Response(status=403, text=_EXPIRED, content_type="application/xml")
        return await handler(request)

    # Listing.

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = self._keys_after(after, prefix)
        more = len(keys) > self._page
        keys = keys[: self._page]
        last = keys[-1] if keys else ""
        if self.shuffled:
            keys += random.Random(after).sample(keys, len(keys) // 3)
            random.Random(last).shuffle(keys)
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        head = (
            "<?xml version='1.0' encoding='UTF-8'?>"
            "<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
            f"<MaxKeys>{self._page}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        )
        body = head + "".join(map(self._entry, keys)) + "</ListBucketResult>"
        return web.Response(text=body, content_type="application/xml")

    def _keys_after(self, after: str, prefix: str) -> list[str]:
        """At most one key more than a page has, sorted."""
        first = 0
        stem = f"{PREFIX}{SOURCE}/part-"
        if after.startswith(stem):
            first = int(after[len(stem) :].partition(".")[0]) + 1
        elif after > stem:
            first = self.objects
        numbered = range(first, min(self.objects, first + self._page + 1))
        keys = [self._numbered(number) for number in numbered]
        keys += [f"{PREFIX}{key}" for key in self.extra if f"{PREFIX}{key}" > after]
        return sorted(key for key in keys if key.startswith(prefix))

    def __contains__(self, key: str) -> bool:
        number = key.removeprefix(f"{PREFIX}{SOURCE}/part-").removesuffix(".jsonl")
        return (number.isdigit() and int(number) < self.objects) or key.removeprefix(PREFIX) in self.extra

    def _numbered(self, number: int) -> str:
        return f"{PREFIX}{SOURCE}/part-{number:08d}.jsonl"

    def _entry(self, key: str) -> str:
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_MODIFIED}</LastModified><ETag>&quot;{_etag(key)}&quot;"
            f"</ETag><Size>{len(self._body(key)) if key.removeprefix(PREFIX) in self.extra else self._size}</Size></Contents>"
        )

    # Objects.

    def _body(self, key: str) -> bytes:
        number = key.rpartition("part-")[2][:8]
        messages = [
            {"role": "user", "content": f"Fix the build of service {number}."},
            {"role": "assistant", "content": "Done; the tests pass."},
        ]
        record = {"messages": messages} | ({"padding": "." * self._padding} if self._padding else {})
        return (json.dumps(record).encode() + b"\n") * self._lines

    async def _get(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if key not in self:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        for number, (status, code) in self.broken.items():
            if key == self._numbered(number):
                return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")
        etag, wanted = f'"{_etag(key)}"', request.headers.get("If-Match")
        if wanted is not None and wanted != etag:
            return web.Response(status=412, text="<Error><Code>PreconditionFailed</Code></Error>")
        headers = {"ETag": etag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        body = self._body(key)
        asked = request.http_range
        if asked.start is None:
            return web.Response(body=body, headers=headers)
        if asked.start >= len(body):
            return web.Response(status=416, headers=headers)
        part = body[asked]
        headers["Content-Range"] = f"bytes {asked.start}-{asked.start + len(part) - 1}/{len(body)}"
        return web.Response(status=206, body=part, headers=headers)


def version_of(number: int) -> tuple[str, str]:
    """The uri and etag of a numbered object, as the product knows it."""
    key = f"{PREFIX}{SOURCE}/part-{number:08d}.jsonl"
    return f"s3://{BUCKET}/{key}", _etag(key)


def _etag(key: str) -> str:
    return blake2b(key.encode(), digest_size=16).hexdigest()


@contextmanager
def serving(lake: VirtualLake) -> Iterator[str]:
    """The address of `lake`, served by a thread of this process."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(lake.app(), access_log=None)
    address = loop.run_until_complete(_start(runner))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(runner: web.AppRunner) -> str:
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _main(objects: int, extra: list[str]) -> None:
    lake = VirtualLake(objects)
    lake.extra = extra
    print(await _start(web.AppRunner(lake.app(), access_log=None)), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--extra", action="append", default=[])
    chosen = parser.parse_args()
    asyncio.run(_main(chosen.objects, chosen.extra))
