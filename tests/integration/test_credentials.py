"""Credentials of a store that expired are an outage, whichever call meets them; wrong ones stay a refusal."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from mira_stream.core.errors import Transient
from mira_stream.ports import ObjectStore
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from tests.fakes.listing_server import BUCKET, PREFIX, VirtualLake, serving
from tests.fakes.s3_server import CREDENTIALS

KEY = f"{PREFIX}claude_cli/part-00000000.jsonl"


@pytest.fixture
def lake() -> VirtualLake:
    """One object, and credentials that have expired."""
    lake = VirtualLake(1)
    lake.expired = True
    return lake


@pytest.fixture
def store(lake: VirtualLake, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The product's store over it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with serving(lake) as address:
        yield open_store(
            f"s3://{BUCKET}", StoreSettings(endpoint=address, region="us-east-1", allow_http=True)
        )


async def _listed(store: ObjectStore) -> list[str]:
    return [entry.key async for page in store.list() for entry in page]


@pytest.mark.parametrize(
    "call",
    [
        _listed,
        lambda store: store.get(KEY),
        lambda store: store.head(KEY),
        lambda store: store.create("new", b"x"),
    ],
    ids=["list", "get", "head", "create"],
)
def test_expired_credentials_are_an_outage(
    lake: VirtualLake, store: ObjectStore, call: Callable[[ObjectStore], Awaitable[object]]
) -> None:
    """Tried again like every outage, and said: HEAD too, whose answer has no body that could tell."""

    async def story() -> None:
        with pytest.raises(Transient, match="credentials have expired") as caught:
            await call(store)
        assert caught.value.status == 403
        lake.expired = False
        assert await _listed(store) == [KEY]

    asyncio.run(story())
