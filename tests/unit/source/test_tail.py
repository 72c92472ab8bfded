"""The live source: discovery, growing and overwritten files, and what is no object."""

import asyncio
import gc
import gzip
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backports import zstd

from mira_stream.core.errors import Denied, Missing, Overwritten, Refusal, Transient, TransientKind
from mira_stream.core.naming import SourceNaming
from mira_stream.core.outcome import Reason
from mira_stream.core.record import ObjectVersion, first_line_etag
from mira_stream.core.sight import LineBatch, ObjectEnd, Prefix, SeenObject, StoredObject
from mira_stream.ports import ObjectStore
from mira_stream.source import tail
from mira_stream.source.local_file import LocalFile
from mira_stream.source.local_store import LocalStore
from mira_stream.source.probe import probe_source
from mira_stream.source.settings import SourceSettings
from mira_stream.source.tail import TailSource
from tests.fakes.memory_store import MemoryStore

NOW = 1_800_000_000.0
OLD = NOW - 3600
NOISE = b"\n".join(os.urandom(3000).hex().encode() for _ in range(300)) + b"\n"


class Lake:
    """A folder that is followed, and a clock in the test's hand."""

    def __init__(self, root: Path) -> None:
        self.root = root / "lake"
        self.root.mkdir()
        self.now = NOW
        self.ignored: dict[str, int] = {}
        self.source = self.follow(LocalStore(self.root, on_refused=self._count))

    def follow(self, store: ObjectStore, **settings: object) -> TailSource:
        """A source over `store`."""
        return TailSource(
            store,
            SourceSettings(uri=store.uri, **settings),
            SourceNaming.parse(""),
            wall_clock=lambda: self.now,
            on_ignored=self._count,
        )

    def write(self, key: str, data: bytes, *, modified: float = OLD) -> Path:
        """Write a file in place."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (modified, modified))
        return path

    def discover(self, known: Callable[[str], str | None] = lambda _: None) -> dict[str, SeenObject]:
        """One pass."""
        return asyncio.run(discovered(self.source, known))

    def read(self, seen: SeenObject) -> tuple[list[bytes], ObjectEnd]:
        """All lines, and the end."""
        return asyncio.run(read(self.source, seen.version))

    def _count(self, reason: str, names: int) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + names


async def discovered(
    source: TailSource, known: Callable[[str], str | None] = lambda _: None
) -> dict[str, SeenObject]:
    """One pass, by key; each object once."""

    def marks(uris: Sequence[str]) -> dict[str, str]:
        return {uri: mark for uri in uris if (mark := known(uri)) is not None}

    found = [seen async for page in source.discover(known=marks) for seen in page]
    assert len({seen.key for seen in found}) == len(found)
    return {seen.key: seen for seen in found}


async def read(source: TailSource, version: ObjectVersion) -> tuple[list[bytes], ObjectEnd]:
    """All lines, whose ordinals must count up, and the end."""
    batches: list[LineBatch] = [batch async for batch in source.read(version, once=False)]
    lines = [line for batch in batches for line in batch.lines]
    assert [line.ordinal for line in lines] == list(range(len(lines)))
    assert [batch.end is not None for batch in batches] == [False] * (len(batches) - 1) + [True]
    end = batches[-1].end
    assert end is not None
    assert end.lines == len(lines)
    return [line.raw for line in lines], end


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty folder."""
    return Lake(tmp_path)


def test_only_object_names_are_found(lake: Lake) -> None:
    """Names in the design's list are objects, all others are ignored and counted by reason."""
    names = ["a.jsonl", "s/b.ndjson", "s/c.jsonl.zst", "s/d.ndjson.zstd", "s/deep/e.jsonl.gz"]
    ignored = [
        ".h.jsonl",
        "_x.jsonl",
        "s/_m/y.jsonl",
        "s/.z/y.jsonl",
        "s/f.jsonl.tmp",
        "s/g.json",
        "s/readme",
    ]
    for key in names + ignored:
        lake.write(key, b"{}\n")
    found = lake.discover()
    assert sorted(found) == sorted(names)
    assert lake.ignored == {"hidden": 4, "temporary": 1, "name": 2}
    assert found["a.jsonl"].source == "."
    assert found["s/deep/e.jsonl.gz"].source == "s"


def test_include_changes_which_names_are_objects(lake: Lake) -> None:
    """A glob on the last part or on the whole key replaces the usual names; hidden ones stay out."""
    for key in ("a.txt", "s/a.txt", "s/a.jsonl", "deep/er/b.log", "er/b.log", ".a.txt"):
        lake.write(key, b"{}\n")
    source = lake.follow(LocalStore(lake.root), include=("*.txt", "**/er/?.log"))
    assert sorted(asyncio.run(discovered(source))) == ["a.txt", "deep/er/b.log", "er/b.log", "s/a.txt"]
    with pytest.raises(Refusal):
        lake.follow(LocalStore(lake.root), include=("*" * 9,))


def test_an_object_is_its_real_path_once(lake: Lake, tmp_path: Path) -> None:
    """Links inside, links that leave, loops, FIFOs and sockets are no objects, and a linked root is its real path."""
    lake.write("s/a.jsonl", b"{}\n")
    outside = tmp_path / "outside.jsonl"
    outside.write_bytes(b"{}\n")
    (lake.root / "again.jsonl").symlink_to(lake.root / "s/a.jsonl")
    (lake.root / "leaves.jsonl").symlink_to(outside)
    (lake.root / "s/loop").symlink_to(lake.root)
    os.mkfifo(lake.root / "fifo.jsonl")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(lake.root / "sock.jsonl"))
    assert list(lake.discover()) == ["s/a.jsonl"]
    assert lake.ignored == {"link": 3, "special": 2}
    listening.close()
    (tmp_path / "link").symlink_to(lake.root)
    assert LocalStore(tmp_path / "link").uri == LocalStore(lake.root).uri == f"file://{lake.root}"


def test_a_name_that_is_not_utf8_is_refused_and_counted(lake: Lake) -> None:
    """Such a file is never read under a guessed name, and the rest is found."""
    lake.write("s/a.jsonl", b"{}\n")
    Path(os.fsdecode(bytes(lake.root) + b"/s/\xff.jsonl")).write_bytes(b"{}\n")
    Path(os.fsdecode(bytes(lake.root) + b"/\xfe")).mkdir()
    assert list(lake.discover()) == ["s/a.jsonl"]
    assert lake.ignored == {"not_utf8": 2}


@pytest.mark.parametrize("encode", [bytes, zstd.compress, gzip.compress], ids=["plain", "zstd", "gzip"])
def test_the_identity_of_a_file_is_its_first_line(lake: Lake, encode: Callable[[bytes], bytes]) -> None:
    """uri is the real path, etag the digest of the decompressed first line, change something else."""
    first = b'\xef\xbb\xbf{"a":1}\r'
    lake.write("s/ü.jsonl", encode(first + b"\n" + NOISE))
    seen = lake.discover()["s/ü.jsonl"]
    assert seen.version == ObjectVersion(f"file://{lake.root}/s/ü.jsonl", first_line_etag(first))
    assert seen.change != seen.version.etag
    lines, end = lake.read(seen)
    assert lines == [first, *NOISE.splitlines()]
    assert (end.reason, end.settled) == (None, True)


def test_unchanged_objects_are_left_out_and_changed_ones_are_not(lake: Lake) -> None:
    """Discovery gives what is new or changed since the caller saw it."""
    lake.write("s/a.jsonl", b"{}\n")
    lake.write("s/b.jsonl", b"{}\n")
    marks = {seen.version.uri: seen.change for seen in lake.discover().values()}
    assert lake.discover(marks.get) == {}
    lake.write("s/b.jsonl", b"{}\n{}\n", modified=NOW)
    assert list(lake.discover(marks.get)) == ["s/b.jsonl"]


@pytest.mark.parametrize(
    "torn", [b'{"a":1}\n{"b', zstd.compress(b'{"a":1}\n') + zstd.compress(NOISE)[:-9]], ids=["plain", "zstd"]
)
def test_a_torn_tail_is_not_yet_until_it_has_settled(lake: Lake, torn: bytes) -> None:
    """Complete lines are read, the torn tail is left until the file is quiet, renamed or deleted."""
    path = lake.write("s/a.jsonl", torn, modified=NOW - 1)
    seen = lake.discover()["s/a.jsonl"]
    lines, end = lake.read(seen)
    assert (end.settled, end.reason) == (False, None)
    assert lines[0] == b'{"a":1}'
    lake.now += 3600
    settled_lines, settled = lake.read(seen)
    assert settled.settled
    if torn.startswith(b"{"):
        assert (settled_lines, settled.reason) == ([b'{"a":1}', b'{"b'], None)
    else:
        assert (settled_lines, settled.reason) == (lines, Reason.TRUNCATED)
    lake.now = NOW
    opened = lake.source.read(seen.version, once=False)

    async def renamed_meanwhile() -> LineBatch:
        await anext(opened)
        path.rename(path.with_suffix(".done"))
        return [batch async for batch in opened][-1]

    last = asyncio.run(renamed_meanwhile())
    assert last.end is not None
    assert last.end.settled


def test_a_growing_file_is_followed_from_the_same_identity(lake: Lake) -> None:
    """Appending changes the mark, not the version; the lines before keep their ordinals."""
    lake.write("s/a.jsonl", b'{"a":1}\n', modified=NOW)
    first = lake.discover()["s/a.jsonl"]
    assert lake.read(first) == ([b'{"a":1}'], ObjectEnd(1))
    lake.write("s/a.jsonl", b'{"a":1}\n{"b":2}\n', modified=NOW + 1)
    again = lake.discover({first.version.uri: first.change}.get)["s/a.jsonl"]
    assert again.version == first.version
    assert lake.read(again) == ([b'{"a":1}', b'{"b":2}'], ObjectEnd(2))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", None),
        (b'{"a', None),
        (zstd.compress(b'{"a":1}\n')[:-5], Reason.TRUNCATED),
        (zstd.compress(b"{"), None),
    ],
)
def test_a_file_without_a_first_line_has_no_identity_until_it_has_settled(
    lake: Lake, data: bytes, reason: Reason | None
) -> None:
    """Unsettled it is not found, and counted; settled it is, and reads to its end."""
    lake.write("s/a.jsonl", data, modified=NOW - 1)
    assert lake.discover() == {}
    assert lake.ignored == {"unsettled": 1}
    lake.now += 3600
    seen = lake.discover()["s/a.jsonl"]
    assert data or seen.version.etag == first_line_etag(b"")
    _, end = lake.read(seen)
    assert end.settled
    assert end.reason is reason


@pytest.mark.parametrize(
    "after", [b'{"other":1}\n{"b":2}\n', b'{"ot', b"", zstd.compress(b'{"other":1}\n'), b"\x1f\x8b\x07junk"]
)
def test_a_file_with_another_first_line_is_overwritten(lake: Lake, after: bytes) -> None:
    """What stands at the path now is another version: nothing of it is read as the old one, at any age."""
    lake.write("s/a.jsonl", b'{"a":1}\n{"b":2}\n')
    seen = lake.discover()["s/a.jsonl"]
    for modified in (NOW, OLD):
        lake.write("s/a.jsonl", after, modified=modified)
        assert lake.read(seen)[0] == []
        assert lake.read(seen)[1].reason is Reason.OVERWRITTEN


@pytest.mark.parametrize(
    "rest", [b"", b'{"changed":"' + b"x" * (3 << 20) + b'"}\n'], ids=["shorter", "other"]
)
def test_a_file_written_over_while_it_is_read_is_overwritten(lake: Lake, rest: bytes) -> None:
    """A file that shrinks, or whose read bytes change, ends the reading; the lines before stay."""
    path = lake.write("s/a.jsonl", b'{"a":1}\n' + b'{"b":"' + b"y" * 100_000 + b'"}\n' * 30)
    seen = lake.discover()["s/a.jsonl"]

    async def story() -> ObjectEnd | None:
        batches = lake.source.read(seen.version, once=False)
        await anext(batches)
        path.write_bytes(rest)
        return [batch async for batch in batches][-1].end

    end = asyncio.run(story())
    assert end is not None
    assert end.reason is Reason.OVERWRITTEN


def test_a_file_that_is_gone_is_missing(lake: Lake) -> None:
    """Reading an object that was deleted, or became a folder, raises Missing."""
    path = lake.write("s/a.jsonl", b"{}\n")
    seen = lake.discover()["s/a.jsonl"]
    path.unlink()
    with pytest.raises(Missing):
        lake.read(seen)
    path.mkdir()
    with pytest.raises(Missing):
        lake.read(seen)


@pytest.mark.parametrize(
    ("data", "reason", "lines"),
    [
        (zstd.compress(b"1\n2\n") + b"junk", Reason.CORRUPT, 2),
        (zstd.compress(b"1\n") + gzip.compress(b"2\n", mtime=0), Reason.CORRUPT, 1),
        (gzip.compress(b"1\n", mtime=0) + gzip.compress(NOISE, mtime=0)[:-1], Reason.TRUNCATED, 301),
        (b"1\n" + b"\n" * 100_002, Reason.RATIO, 100_001),
        (b"\x28\xb5\x2f\xfd\x00\xff" + bytes(20), Reason.WINDOW, 0),
        (zstd.compress(b"1\n2") + bytes(100), None, 2),
    ],
    ids=["junk", "other_codec", "cut", "ratio", "window", "padding"],
)
def test_damage_is_an_end_and_keeps_the_lines_before(
    lake: Lake, data: bytes, reason: Reason | None, lines: int
) -> None:
    """Whatever the bytes are, reading ends with a reason at the next ordinal, on a folder and on a bucket alike."""
    lake.write("s/a.jsonl", data)
    local, end = lake.read(lake.discover()["s/a.jsonl"])
    assert (len(local), end.reason, end.settled) == (lines, reason, True)
    bucket = MemoryStore()
    bucket.put("s/a.jsonl", data)
    source = lake.follow(bucket)

    async def story() -> tuple[list[bytes], ObjectEnd]:
        return await read(source, (await discovered(source))["s/a.jsonl"].version)

    assert asyncio.run(story()) == (local, end)


def test_an_object_is_read_in_ranges_under_one_etag(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Object stores are read in bounded ranges, all of them under the version's etag, to the very end."""
    monkeypatch.setattr(tail, "RANGE_BYTES", 1000)

    class Recording(MemoryStore):
        ranges: list[tuple[int, int | None, str | None]] = []  # noqa: RUF012

        async def get(
            self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
        ) -> bytes:
            self.ranges.append((start, end, etag))
            return await super().get(key, start=start, end=end, etag=etag)

    for data in (b"", b"x" * 999 + b"\n", b"x" * 2499, NOISE[:5000]):
        bucket = Recording()
        bucket.ranges = []
        bucket.put("s/a.jsonl", data)
        source = lake.follow(bucket)

        async def story(source: TailSource) -> tuple[list[bytes], ObjectEnd]:
            return await read(source, (await discovered(source))["s/a.jsonl"].version)

        lines, end = asyncio.run(story(source))
        assert b"\n".join(lines) == data.removesuffix(b"\n")
        assert end.reason is None
        assert [start for start, _, _ in bucket.ranges] == list(range(0, len(data) + 1, 1000))
        assert len({etag for _, _, etag in bucket.ranges}) == 1
        assert all(end - start == 1000 for start, end, _ in bucket.ranges if end is not None)


def test_a_reading_given_up_closes_its_file(lake: Lake) -> None:
    """Breaking off in the middle, or being cancelled there, leaves no file open."""
    path = lake.write("s/a.jsonl", NOISE * 5)
    seen = lake.discover()["s/a.jsonl"]

    async def story(cancelled: asyncio.Event) -> None:
        async for _ in lake.source.read(seen.version, once=False):
            if cancelled.is_set():
                raise asyncio.CancelledError
            cancelled.set()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(story(asyncio.Event()))
    lake.source.close()
    gc.collect()
    held = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    assert str(path) not in held


def test_io_trouble_is_raised_and_never_an_end(lake: Lake) -> None:
    """A store that fails is no damaged object: the error passes, so that the object is read again."""

    class Failing(MemoryStore):
        async def get(
            self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
        ) -> bytes:
            raise Transient(TransientKind.RESET, "connection lost")

    bucket = Failing()
    bucket.put("s/a.jsonl", b"{}\n")
    source = lake.follow(bucket)

    async def story() -> None:
        seen = (await discovered(source))["s/a.jsonl"]
        await read(source, seen.version)

    with pytest.raises(Transient):
        asyncio.run(story())


class Sorted(MemoryStore):
    """Lists in the order of keys, as S3 does, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str | None]] = []

    async def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        self.asked.append((prefix, after))
        entries = [entry async for page in super().list(prefix, after) for entry in page]
        entries.sort(key=lambda entry: entry.key)
        for start in range(0, len(entries), 2):
            yield entries[start : start + 2]


def test_between_full_listings_only_newer_keys_are_asked_for(lake: Lake) -> None:
    """start-after per source finds what comes in order; what comes late is found by the next full listing."""
    bucket = Sorted()
    for key in ("a/1.jsonl", "a/2.jsonl", "b/1.jsonl"):
        bucket.put(key, b"{}\n")
    source = lake.follow(bucket, full_list_seconds=100)

    async def story() -> None:
        assert len(await discovered(source)) == 3
        bucket.put("a/3.jsonl", b"{}\n")
        bucket.put("b/2.jsonl", b"{}\n")
        bucket.put("c/1.jsonl", b"{}\n")
        bucket.put("a/0-late.jsonl", b"{}\n")
        bucket.asked.clear()
        assert sorted(await discovered(source)) == ["a/3.jsonl", "b/2.jsonl", "c/1.jsonl"]
        assert bucket.asked == [("", "b/1.jsonl"), ("a", "a/2.jsonl")]
        assert await discovered(source) == {}
        lake.now += 100
        assert "a/0-late.jsonl" in await discovered(source)
        assert bucket.asked[-1] == ("", None)
        lake.now -= 10_000
        await discovered(source)
        assert bucket.asked[-1] == ("", None), "a clock that went back does not put the truth off"

    asyncio.run(story())


def test_what_is_newer_than_all_that_was_known_is_shown_before_a_long_listing(lake: Lake) -> None:
    """After a restart each source is asked for what is behind its last known key, and then for everything."""
    bucket = Sorted()
    for key in ("a/0-late.jsonl", "a/1.jsonl", "a/2.jsonl", "b/1.jsonl", "b/2.jsonl"):
        bucket.put(key, b"{}\n")
    source = lake.follow(bucket, full_list_seconds=100)
    known = {f"{bucket.uri}/{key}" for key in ("a/1.jsonl", "b/1.jsonl")}
    shown: list[str] = []

    async def story() -> None:
        def marks(uris: Sequence[str]) -> dict[str, str]:
            return {uri: uri for uri in uris if uri in known}

        async for page in source.discover(known=marks, newest=lambda _: sorted(known)):
            shown.extend(seen.key for seen in page)
            known.update(seen.version.uri for seen in page)
        assert shown[:2] == ["b/2.jsonl", "a/2.jsonl"]
        assert "a/0-late.jsonl" in shown
        assert bucket.asked == [("", "b/1.jsonl"), ("a", "a/1.jsonl"), ("", None)]

    asyncio.run(story())


def test_an_unsorted_store_is_always_listed_in_full(lake: Lake) -> None:
    """Without order start-after means nothing: every pass lists everything."""
    bucket = MemoryStore()
    for n in range(9):
        bucket.put(f"s/{n}.jsonl", b"{}\n")
    source = lake.follow(bucket)

    async def story() -> None:
        assert len(await discovered(source)) == 9
        bucket.put("s/00.jsonl", b"{}\n")
        assert len(await discovered(source)) == 10

    asyncio.run(story())
    assert "unsorted" in repr(source)


class Million(MemoryStore):
    """A million names, made up while they are listed."""

    async def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        for start in range(0, 1_000_000, 1000):
            yield [
                StoredObject(f"s{n % 500}/{n:07}.jsonl", f"{n:x}", 100, OLD)
                for n in range(start, start + 1000)
            ]


def test_a_million_names_are_listed_in_bounded_memory_and_the_first_page_comes_at_once(lake: Lake) -> None:
    """Memory does not grow with the names, and the first objects are there before the second page is asked for."""
    import tracemalloc

    source = lake.follow(Million())

    async def story() -> tuple[int, int]:
        total = 0
        pages = source.discover(known=lambda _: {})
        first = await anext(pages)
        assert len(first) == 1000
        tracemalloc.start()
        async for page in pages:
            total += len(page)
            if total > 20_000:
                break
        early = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        async for page in pages:
            total += len(page)
            if total > 980_000:
                break
        tracemalloc.start()
        async for page in pages:
            total += len(page)
        late = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == 999_000
        return early, late

    early, late = asyncio.run(story())
    assert early < 4 << 20
    assert late < 2 * early


def test_the_probe_refuses_a_store_that_ignores_if_match() -> None:
    """A 200 under a wrong etag means that overwritten objects would be mixed: refused, with what to do."""

    class Ignoring(MemoryStore):
        async def get(
            self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
        ) -> bytes:
            return await super().get(key, start=start, end=end)

    bucket = Ignoring()
    bucket.put("s/empty.jsonl", b"")
    assert "no object yet" in asyncio.run(probe_source(bucket))[-1]
    bucket.put("s/a.jsonl", b"{}\n")
    with pytest.raises(Refusal, match="ignores If-Match") as caught:
        asyncio.run(probe_source(bucket))
    assert "AWS S3" in caught.value.hint


def test_the_probe_says_what_it_found(lake: Lake) -> None:
    """A folder passes; an unsorted listing is told."""
    lake.write("b.jsonl", b"{}\n")
    assert asyncio.run(probe_source(LocalStore(lake.root))) == []
    bucket = MemoryStore()
    for n in range(3):
        bucket.put(f"{n}.jsonl", b"{}\n")
    (finding,) = asyncio.run(probe_source(bucket))
    assert "unsorted" in finding


def test_reading_under_a_mark_sees_a_changed_file(lake: Lake) -> None:
    """The folder's own get refuses bytes of another sight of the file."""
    store = LocalStore(lake.root)
    lake.write("a.jsonl", b"{}\n")

    async def story() -> None:
        entry = await store.head("a.jsonl")
        assert entry is not None
        lake.write("a.jsonl", b"{}\n{}\n", modified=NOW)
        with pytest.raises(Overwritten):
            await store.get("a.jsonl", etag=entry.etag)

    asyncio.run(story())


# Rotation, and what was read before.


def test_a_renamed_file_is_read_beside_its_name(lake: Lake) -> None:
    """The version keeps its uri; compressed meanwhile or not, its lines are those it had."""
    lake.write("app.jsonl", b"one\ntwo\n")
    first = lake.discover()["app.jsonl"]
    lake.write("app.jsonl.1.gz", gzip.compress(b"one\ntwo\nthree\n"))
    lake.write("other.jsonl.1", b"one\nno\n")
    replaced = lake.write("app.jsonl.new", b"next\n")
    replaced.rename(lake.root / "app.jsonl")
    second = lake.discover(lambda _: first.change)["app.jsonl"]
    assert second.version != first.version
    assert [one.etag for one in second.beside] == [first.version.etag]
    assert lake.read(first) == ([b"one", b"two", b"three"], ObjectEnd(3))
    assert lake.read(second) == ([b"next"], ObjectEnd(1))
    (lake.root / "app.jsonl").unlink()
    assert lake.read(first)[1] == ObjectEnd(3)


def test_a_rotated_file_is_final_once_it_is_quiet(lake: Lake) -> None:
    """Its writer may hold it open for a while: until then every line is read, and its end is open."""
    first_write = lake.write("app.jsonl", b"one\n")
    seen = lake.discover()["app.jsonl"]
    first_write.rename(lake.root / "app.jsonl.1")
    lake.write("app.jsonl.1", b"one\ntwo\n", modified=NOW)
    assert lake.read(seen) == ([b"one", b"two"], ObjectEnd(2, settled=False))
    lake.now += 61
    assert lake.read(seen)[1] == ObjectEnd(2)


@pytest.mark.parametrize(
    ("now", "is_same"),
    [(b"a\nb\nc\n", True), (b"a\nb\n", True), (b"a\nb", False), (b"a\nB\nc\n", False), (b"a\n", False)],
)
def test_what_was_read_must_still_be_there(lake: Lake, now: bytes, is_same: bool) -> None:
    """Growth keeps it; anything else is another content under the same first line, of which no line is given out."""
    lake.write("a.jsonl", b"a\nb\nc")
    seen = lake.discover()["a.jsonl"]
    batches = asyncio.run(_batches(lake.source, seen.version, None))
    assert batches[-1].file is not None
    prefix = batches[-1].file.prefix
    assert prefix is not None
    assert prefix.bytes in (4, 5)
    lake.write("a.jsonl", now)
    (*before, last) = asyncio.run(_batches(lake.source, seen.version, msgspec.structs.replace(prefix)))
    reason = last.end.reason if last.end else None
    assert (reason is None) == is_same
    assert bool(before) == is_same


async def _batches(source: TailSource, version: ObjectVersion, prefix: Prefix | None) -> list[LineBatch]:
    return [batch async for batch in source.read(version, once=True, prefix=prefix)]


def test_a_file_that_may_still_be_written_to_is_shown_again(lake: Lake) -> None:
    """As long as the ledger asks for it; and whether it is quiet by now is said."""
    lake.write("a.jsonl", b"a\n", modified=NOW)
    seen = lake.discover()["a.jsonl"]
    assert not seen.quiet
    assert lake.discover(lambda _: seen.change) == {}
    lake.now += 61
    assert lake.discover(lambda _: f"{seen.change}?")["a.jsonl"].quiet


class _Denying(LocalStore):
    """Files that have `private` in their names belong to somebody else."""

    def open(self, key: str) -> LocalFile:
        if "private" in key:
            raise Denied(f"cannot read {key}")
        return super().open(key)


def test_a_file_that_is_denied_hides_no_other(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """All others are found; it is counted at every listing, and named once."""
    lake.write("s/private.jsonl", b"{}\n")
    lake.write("s/z.jsonl", b"{}\n")
    lake.source = lake.follow(_Denying(lake.root))
    assert list(lake.discover()) == list(lake.discover()) == ["s/z.jsonl"]
    assert lake.ignored == {"denied": 2}
    assert capsys.readouterr().out.count("private.jsonl") == 1


def test_the_probe_goes_on_behind_an_object_that_is_denied() -> None:
    """Archived objects say nothing of If-Match; the first that can be read does."""

    class Archived(MemoryStore):
        async def get(self, key: str, **wanted: Any) -> bytes:
            if key < "c":
                raise Denied(f"cannot read {key}")
            return await super().get(key, **wanted)

    store = Archived(page=9)
    for key in "abc":
        store.put(key, b"{}")
    assert [note for note in asyncio.run(probe_source(store)) if "If-Match" in note] == []
    del store.objects["c"]
    assert "If-Match could not be tried" in asyncio.run(probe_source(store))[-1]
