"""Opening object stores: one address in, one `ObjectStore` out."""

import re
from concurrent.futures import Executor
from pathlib import Path

from mira_stream.core.errors import Refusal
from mira_stream.ports import ObjectStore
from mira_stream.source.local_store import LocalStore
from mira_stream.source.remote_store import open_remote
from mira_stream.source.store_settings import OnRefused, StoreSettings, ignore_refused

REMOTE_SCHEMES = ("s3", "gs", "az")
_BUCKET = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.-]*")


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
        path = Path(rest if separator else uri).expanduser()
        if separator and not path.is_absolute():
            raise Refusal(f"{uri} is not an absolute path", "write file:///folder, or the path alone")
        return LocalStore(path, on_refused=on_refused, executor=executor)
    if scheme not in REMOTE_SCHEMES:
        raise Refusal(
            # The rest of the address is not repeated: it may hold a password.
            f"{scheme}://… is no kind of store that is known",
            "use s3://, gs://, az:// or a folder's path",
        )
    bucket, _, prefix = rest.partition("/")
    if "?" in rest or "#" in rest or (bucket and not _BUCKET.fullmatch(bucket)):
        raise Refusal(
            f"{scheme}://…: an address has no query, fragment or credentials, and a bucket's name is of letters, "
            "digits, '.', '_' and '-'",
            "put credentials into the environment or the provider's own files",
        )
    if settings.endpoint is not None and _has_credentials(settings.endpoint):
        raise Refusal(
            f"the endpoint of {uri} holds credentials",
            "put credentials into the environment or the provider's own files",
        )
    if not bucket:
        raise Refusal(f"{uri} names no bucket", f"write {scheme}://bucket/prefix")
    return open_remote(scheme, bucket, prefix=prefix.strip("/"), settings=settings)


def _has_credentials(address: str) -> bool:
    """Whether a URL has a user, or a query, in which signatures are written."""
    return "@" in address or "?" in address
