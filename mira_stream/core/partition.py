"""Partitions: one chain of output each, named so that no source name can leave the sink's folder."""

from functools import lru_cache
from hashlib import blake2b

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_NAME_BYTES_MAX = 200
_NAME_BYTES_KEPT = 160


def encode_name(name: str) -> str:
    """`name` as one path component: bytes outside `[A-Za-z0-9_.-]` as `%XX`, never `.`, `..` or empty."""
    # A record may name its source with megabytes: those are not kept.
    return _encode_usual(name) if len(name) <= _NAME_BYTES_MAX else _encode(name)


def _encode(name: str) -> str:
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%"
    raw = name.encode("utf-8", "surrogatepass")
    # Of a name that is too long anyway only what is kept is encoded: it may have megabytes.
    encoded = "".join(chr(b) if b in _SAFE else f"%{b:02X}" for b in raw[: _NAME_BYTES_MAX + 1])
    if len(encoded) <= _NAME_BYTES_MAX:
        return encoded
    return f"{encoded[:_NAME_BYTES_KEPT]}~{blake2b(raw, digest_size=8).hexdigest()}"


_encode_usual = lru_cache(maxsize=1024)(_encode)


def shard_of(uri: str, shards: int) -> int:
    """The shard of an object: a hash of its uri, so that all its versions meet in one chain."""
    assert shards >= 1
    return (
        int.from_bytes(blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % shards
    )


def partition_name(source: str, uri: str, shards: int) -> str:
    """`source=<source>/shard=<NN>`."""
    return f"{source_prefix(source)}shard={shard_of(uri, shards):02d}"


def source_prefix(source: str) -> str:
    """What the names of all partitions of a source begin with."""
    return f"source={encode_name(source)}/"


def segment_name(partition: str, seq: int, plan_id: str) -> str:
    """The `segment` column of a row: `<partition>/<seq, 8 digits>#<plan_id>`."""
    return f"{partition}/{seq:08d}#{plan_id}"
