"""S3, Google Cloud Storage and Azure through obstore, its errors translated."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from mira_stream.core.errors import Missing, Overwritten, Refusal, Transient, TransientKind
from mira_stream.core.sight import StoredObject
from mira_stream.source.remote_errors import OBSTORE_ERRORS, brief, is_denied, is_past_the_end, translated
from mira_stream.source.store_settings import StoreSettings

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

# Small enough that the work on one page does not stall the event loop.
_PAGE = 250
# Bounded here, patient above: the callers retry with their own waits and count what they retry.
_RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_TIMEOUT = timedelta(seconds=120)
_CONNECT_TIMEOUT = timedelta(seconds=5)

Backend = S3Store | GCSStore | AzureStore


def open_remote(scheme: str, bucket: str, *, prefix: str, settings: StoreSettings) -> "RemoteStore":
    """The store of `scheme` (`s3`, `gs`, `az`); `prefix` is without slashes at its ends."""
    try:
        backend = _backend(scheme, bucket, prefix or None, settings)
    except (*OBSTORE_ERRORS, ValueError) as error:
        raise Refusal(
            f"{scheme}://{bucket}: the settings of the store are not right: {brief(str(error))}",
            "look at endpoint, region and the credentials in the environment",
        ) from error
    return RemoteStore(backend, f"{scheme}://{bucket}/{prefix}".rstrip("/"))


def _backend(scheme: str, bucket: str, prefix: str | None, settings: StoreSettings) -> Backend:
    client: ClientConfig = {
        "allow_http": settings.allow_http,
        "timeout": _TIMEOUT,
        "connect_timeout": _CONNECT_TIMEOUT,
    }
    endpoint = settings.endpoint
    if scheme == "gs":
        return GCSStore(
            bucket,
            prefix=prefix,
            config={"base_url": endpoint} if endpoint else {},
            client_options=client,
            retry_config=_RETRY,
        )
    if scheme == "az":
        return AzureStore(
            bucket,
            prefix=prefix,
            config={"endpoint": endpoint} if endpoint else {},
            client_options=client,
            retry_config=_RETRY,
        )
    return S3Store(
        bucket,
        prefix=prefix,
        config={
            **({"endpoint": endpoint} if endpoint else {}),
            **({"region": settings.region} if settings.region else {}),
        },
        client_options=client,
        retry_config=_RETRY,
    )


class RemoteStore:
    """A prefix of a bucket or container."""

    def __init__(self, backend: Backend, uri: str) -> None:
        self._backend = backend
        self._uri = uri

    def __repr__(self) -> str:
        return f"RemoteStore({self._uri})"

    @property
    def uri(self) -> str:
        """As configured, without a trailing slash."""
        return self._uri

    async def list(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[StoredObject]]:
        """Pages as the store sends them, which on S3 and GCS is in the order of the keys' bytes."""
        pages = obstore.list(self._backend, prefix.rstrip("/") or None, offset=after, chunk_size=_PAGE)
        while True:
            try:
                page = await anext(pages, None)
            except OBSTORE_ERRORS as error:
                raise translated(error, f"list {self._uri}") from error
            if page is None:
                return
            # Some stores ignore the offset (Azurite does): it is only ever a hint.
            kept = [_entry(meta) for meta in page if after is None or meta["path"] > after]
            if kept:
                yield kept

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> bytes:
        """One ranged GET with `If-Match`; a short answer that is not the end of the object is Transient."""
        if end is not None and end <= start:
            return b""
        doing = f"read {self._uri}/{key}"
        options: GetOptions = {"range": {"offset": start} if end is None else (start, end)}
        if etag is not None:
            options["if_match"] = f'"{etag}"'
        try:
            answer = await obstore.get_async(self._backend, key, options=options)
            data = bytes(await answer.bytes_async())
        except OBSTORE_ERRORS as error:
            if is_past_the_end(error):
                await self._check_still(key, etag)
                return b""
            found = translated(error, doing)
            if isinstance(found, Overwritten) and etag is None:
                raise _of_another_request(doing) from error
            if isinstance(found, Overwritten) and await self.head(key) is None:
                raise Missing(
                    f"cannot {doing}: it is gone"
                ) from error  # Azurite says 412 of what is not there
            raise found from error
        meta = _entry(answer.meta)
        self._refuse_ignored_condition(meta, etag)
        if answer.range[0] != start or len(data) != min(end or meta.size, meta.size) - start:
            raise Transient(TransientKind.PROTOCOL, f"cannot {doing}: the store sent another range")
        return data

    async def head(self, key: str) -> StoredObject | None:
        """One HEAD."""
        try:
            return _entry(await obstore.head_async(self._backend, key))
        except OBSTORE_ERRORS as error:
            doing = f"look at {self._uri}/{key}"
            found = translated(error, doing)
            if isinstance(found, Missing):
                return None
            if isinstance(found, Overwritten):
                raise _of_another_request(doing) from error
            if is_denied(error):
                await self._say_why_denied(key)
            raise found from error

    async def create(self, key: str, data: bytes) -> None:
        """One PUT with `If-None-Match: *`, never multipart.

        The client repeats it after a 5xx or a broken connection; if the first try landed the second says
        AlreadyExists, so AlreadyExists may be our own: callers read back.
        """
        try:
            await obstore.put_async(self._backend, key, data, mode="create", use_multipart=False)
        except OBSTORE_ERRORS as error:
            raise translated(error, f"create {self._uri}/{key}") from error

    async def settle(self) -> None:
        """Nothing to do: these stores show nothing that they could still lose."""

    async def delete(self, key: str) -> None:
        """One DELETE."""
        try:
            await obstore.delete_async(self._backend, key)
        except OBSTORE_ERRORS as error:
            found = translated(error, f"delete {self._uri}/{key}")
            if not isinstance(found, Missing):
                raise found from error

    async def _say_why_denied(self, key: str) -> None:
        """An answer to HEAD has no body, so it does not tell expired credentials from wrong ones; one to GET does."""
        with suppress(Missing, Overwritten):
            await self.get(key, end=1)

    async def _check_still(self, key: str, etag: str | None) -> None:
        """Raise Overwritten if the object, whose end was just met, is another one: its end is not ours."""
        found = await self.head(key) if etag is not None else None
        if etag is not None and (found is None or found.etag != etag):
            raise Overwritten(f"{self._uri}/{key} has changed")

    def _refuse_ignored_condition(self, found: StoredObject, etag: str | None) -> None:
        if etag is not None and found.etag and found.etag != etag:
            raise Refusal(
                f"{self._uri}: the store ignores If-Match: it sent {found.key} as {found.etag}, asked for as {etag}",
                "an object overwritten while it is read would be mixed with its new version: use a store that keeps "
                "conditional requests (AWS S3, GCS, Azure, MinIO, Ceph), or copy the objects to a folder",
            )


def _of_another_request(doing: str) -> Transient:
    """A condition that nobody set cannot have failed: a gateway that answers twice shifts answers by one."""
    return Transient(TransientKind.PROTOCOL, f"cannot {doing}: the store answered another request")


def _entry(meta: "ObjectMeta") -> StoredObject:
    etag = (meta["e_tag"] or "").removeprefix("W/").strip('"')
    return StoredObject(meta["path"], etag, meta["size"], meta["last_modified"].timestamp())
