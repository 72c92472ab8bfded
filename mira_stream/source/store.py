"""Opening object stores: one address in, one `ObjectStore` out."""

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.ports import ObjectStore

REMOTE_SCHEMES = ("s3", "gs", "az")

OnRefused = Callable[[str, int], None]
"""Told why (a bounded set of words) and how many names of a listing are no objects."""


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[source.store]` and `[sink.store]`: how to reach the store; credentials come from the environment or files."""

    endpoint: Annotated[
        str | None,
        msgspec.Meta(
            description="Address of an S3-, GCS- or Azure-compatible server; default: the cloud's own."
        ),
    ] = None
    region: Annotated[
        str | None, msgspec.Meta(description="S3 region; default: from the environment, else us-east-1.")
    ] = None
    allow_http: Annotated[
        bool, msgspec.Meta(description="Whether an endpoint may be plain http://, without TLS.")
    ] = False


def ignore_refused(reason: str, names: int) -> None:
    """The default `OnRefused`: does nothing."""


def open_store(
    uri: str,
    settings: StoreSettings,
    *,
    on_refused: OnRefused = ignore_refused,
    executor: Executor | None = None,
) -> ObjectStore:
    """The store at `uri`; nothing is asked of it yet.

    Args:
        uri: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder` or a folder's path.
        settings: how to reach it.
        on_refused: told about local names that cannot be objects: `not_utf8`, `link`, `special`.
        executor: where local files are read and written; default: a small one of the store's own.

    Raises Refusal if the address or the settings cannot be right.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        from mira_stream.source.local_store import LocalStore

        path = Path(rest if separator else uri).expanduser()
        if separator and not path.is_absolute():
            raise Refusal(f"{uri} is not an absolute path", "write file:///folder, or the path alone")
        return LocalStore(path, on_refused=on_refused, executor=executor)
    if scheme not in REMOTE_SCHEMES:
        raise Refusal(
            f"{uri}: no such kind of store: {scheme}://", "use s3://, gs://, az:// or a folder's path"
        )
    if "?" in rest or "#" in rest or "@" in rest.partition("/")[0]:
        raise Refusal(
            f"{scheme}://…: an address has no query, fragment or credentials",
            "put credentials into the environment or the provider's own files",
        )
    from mira_stream.source.remote_store import open_remote

    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise Refusal(f"{uri} names no bucket", f"write {scheme}://bucket/prefix")
    return open_remote(scheme, bucket, prefix=prefix.strip("/"), settings=settings)
