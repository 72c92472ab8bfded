"""A lake that grows while it is scored, on local files or on S3, and what must come out of it."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import zstandard

from mira_stream.sink.format import decode_rows
from tests.fakes.s3_server import S3Lake

SOURCES = ("alpha", "beta", "gamma")
_LINES_MAX = 24
_PADDING_MAX = 600


class Line(NamedTuple):
    """What was written at one ordinal: the record's name, or why it is none."""

    name: str | None
    reason: str | None


class Shelf(Protocol):
    """Where a lake and its scores lie."""

    raw_uri: str
    grows: bool
    sections: dict[str, dict[str, Any]]

    def put(self, key: str, data: bytes) -> None:
        """A whole object appears in the source."""

    def append(self, key: str, data: bytes) -> None:
        """An object of the source grows, where `grows` says that they do."""

    def published(self) -> dict[str, str]:
        """Every name in the sink that readers take for a segment, with something that changes when the object does."""

    def segment(self, key: str) -> bytes:
        """The bytes of one."""


class LocalShelf:
    """Two folders."""

    grows = True

    def __init__(self, folder: Path) -> None:
        self._raw, self._scores = folder / "raw", folder / "scores"
        self._raw.mkdir(parents=True)
        self.raw_uri = f"file://{self._raw.resolve()}/"
        self.sections: dict[str, dict[str, Any]] = {
            "source": {"uri": str(self._raw)},
            "sink": {"uri": str(self._scores)},
        }

    def put(self, key: str, data: bytes) -> None:
        target = self._raw / key
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.tmp")
        part.write_bytes(data)
        part.rename(target)

    def append(self, key: str, data: bytes) -> None:
        with (self._raw / key).open("ab", buffering=0) as file:
            file.write(data)

    def published(self) -> dict[str, str]:
        found = {}
        for path in sorted(self._scores.glob("source=*/shard=*/*.jsonl.zst")):
            status = path.stat()
            found[path.relative_to(self._scores).as_posix()] = f"{status.st_ino} {status.st_size}"
        return found

    def segment(self, key: str) -> bytes:
        return (self._scores / key).read_bytes()


class S3Shelf:
    """Two prefixes of a bucket."""

    grows = False

    def __init__(self, s3: S3Lake) -> None:
        self._s3, self._bucket = s3, s3.new_bucket()
        self.raw_uri = f"s3://{self._bucket}/raw/"
        self.sections: dict[str, dict[str, Any]] = {}
        for end, prefix in (("source", "raw"), ("sink", "scores")):
            self.sections[end] = {"uri": f"s3://{self._bucket}/{prefix}"}
            store = {"endpoint": s3.settings.endpoint, "region": "us-east-1", "allow_http": True}
            self.sections[f"{end}.store"] = store

    def put(self, key: str, data: bytes) -> None:
        self._s3.put(self._bucket, f"raw/{key}", data)

    def append(self, key: str, data: bytes) -> None:
        raise AssertionError(f"{key}: objects of a bucket do not grow")

    def published(self) -> dict[str, str]:
        pages = self._s3.client.get_paginator("list_objects_v2")
        listed = pages.paginate(Bucket=self._bucket, Prefix="scores/source=")
        return {
            entry["Key"].removeprefix("scores/"): entry["ETag"]
            for page in listed
            for entry in page.get("Contents", [])
        }

    def segment(self, key: str) -> bytes:
        found: bytes = self._s3.client.get_object(Bucket=self._bucket, Key=f"scores/{key}")["Body"].read()
        return found


class GrowingLake:
    """Lands objects, and remembers what is in each."""

    def __init__(self, shelf: Shelf, rng: Random) -> None:
        self.shelf = shelf
        self.lines: dict[str, list[Line]] = {}
        self._rng = rng
        self._torn: dict[str, bytes] = {}
        self._count = 0

    @property
    def total(self) -> int:
        """Lines that are there whole."""
        return sum(self.sizes().values())

    def sizes(self) -> dict[str, int]:
        """Whole lines by object, now."""
        return {key: len(lines) - bool(self._torn.get(key)) for key, lines in self.lines.items()}

    def land(self) -> None:
        """One more object, or one more piece of one that grows."""
        if self._torn and self._rng.random() < 0.6:
            self._grow(self._rng.choice(sorted(self._torn)))
            return
        self._count += 1
        stem = f"{self._rng.choice(SOURCES)}/{self._count:05d}"
        form = self._rng.choice(("plain", "plain", "zst", "gz", "grows"))
        if form == "grows" and self._begin(f"{stem}.jsonl"):
            return
        key = {"zst": f"{stem}.jsonl.zst", "gz": f"{stem}.jsonl.gz"}.get(form, f"{stem}.jsonl")
        data = self._written(key, self._rng.randint(1, _LINES_MAX))
        self.shelf.put(key, _packed(key, data))

    def settle(self) -> None:
        """What grew is complete: no line is left torn."""
        for key, rest in self._torn.items():
            self.shelf.append(key, rest)
        self._torn.clear()

    def _begin(self, key: str) -> bool:
        """A file that grows; its first line is whole, as its identity hangs on it."""
        if not self.shelf.grows:
            return False
        self.shelf.put(key, self._written(key, 1))
        self._torn[key] = b""
        return True

    def _grow(self, key: str) -> None:
        """The rest of the torn line, some more lines, and the beginning of one more."""
        rest = self._torn.pop(key)
        more = self._written(key, self._rng.randint(0, 6))
        if self._rng.random() < 0.3:
            self.shelf.append(key, rest + more)
            return
        last = self._written(key, 1)
        cut = self._rng.randint(0, len(last) - 1)
        self.shelf.append(key, rest + more + last[:cut])
        self._torn[key] = last[cut:]

    def _written(self, key: str, count: int) -> bytes:
        known = self.lines.setdefault(key, [])
        return b"".join(self._line(key, known) for _ in range(count))

    def _line(self, key: str, known: list[Line]) -> bytes:
        name, dice = f"{key}#{len(known)}", self._rng.random()
        if known and dice < 0.03:
            text, reason = self._rng.choice(
                ((b"{not json", "invalid_json"), (b"[1, 2]", "not_object"), (b"  ", "blank"))
            )
            known.append(Line(None, reason))
            return text + b"\n"
        known.append(Line(name, None))
        padding = "the tests are green. " * (self._rng.randint(0, _PADDING_MAX) // 21)
        messages = [
            {"role": "user", "content": f"Fix {name} in the parser and run the tests. {padding}"},
            {"role": "assistant", "content": f"Done: {name} is fixed and all tests pass."},
        ]
        return json.dumps({"name": name, "messages": messages}).encode() + b"\n"


def rows_of(data: bytes) -> Iterator[dict[str, Any]]:
    """The rows of a segment."""
    return map(json.loads, decode_rows(data))


def _packed(key: str, data: bytes) -> bytes:
    if key.endswith(".zst"):
        return zstandard.compress(data)
    return gzip.compress(data, mtime=0) if key.endswith(".gz") else data
