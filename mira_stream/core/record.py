"""Identity: which version of which object, and which line of it. Never depends on rubric, model or time."""

from hashlib import blake2b

import msgspec

_encode = msgspec.json.Encoder().encode


class ObjectVersion(msgspec.Struct, frozen=True, order=True):
    """One immutable version of one object.

    Args:
        uri: `s3://bucket/key`, `gs://…`, `az://…` or `file://` + real path; raw, not percent-encoded, no credentials.
        etag: as the store gives it, without quotes and `W/`; of a local file: blake2b-128 of its first line.
    """

    uri: str
    etag: str


class RecordKey(msgspec.Struct, frozen=True, order=True):
    """One line of one object version, in one generation (0 is the first pass, a deliberate replay is +1)."""

    version: ObjectVersion
    ordinal: int
    generation: int = 0

    @property
    def record_id(self) -> str:
        """The public identity: hex of 16 bytes; the same for every generation."""
        return record_id(self.version.uri, self.version.etag, self.ordinal)


class Line(msgspec.Struct, frozen=True):
    """One framed line: the bytes before 0x0A, and its 0-based number in the decompressed object.

    `oversized` marks a line longer than `line_bytes_max`, of which `raw` keeps nothing.
    """

    ordinal: int
    raw: bytes
    oversized: bool = False


class Record(msgspec.Struct, frozen=True):
    """One line on its way through the pipeline."""

    key: RecordKey
    source: str
    raw: bytes


def record_id(uri: str, etag: str, ordinal: int) -> str:
    """blake2b-128, hex, of the compact UTF-8 JSON `[uri, etag, ordinal]`."""
    return blake2b(_encode((uri, etag, ordinal)), digest_size=16).hexdigest()


def first_line_etag(line: bytes) -> str:
    """The etag of a local file: blake2b-128, hex, of its first line without 0x0A, byte for byte."""
    return blake2b(line, digest_size=16).hexdigest()
