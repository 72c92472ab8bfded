"""Azure, played by Azurite: the contracts of store and sink, and the whole job from one container into another."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from mira_stream.ports import ObjectStore
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from tests.contract import test_object_store as store_contract
from tests.contract import test_sink as sink_contract
from tests.e2e.harness import Lab, Row, conversation, replicas
from tests.e2e.proxy import Trouble, Troubles, proxy
from tests.system.node_servers import AZURE_ACCOUNT, AZURE_KEY, azurite, environment, make_container

ENVIRONMENT = {"AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}
RECORDS = b"".join(conversation(f"Rename module {number} and run the tests.") for number in range(20))
_numbers = count()


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one server for all tests; the environment has credentials for it."""
    with environment(ENVIRONMENT), azurite(tmp_path_factory.mktemp("azurite")) as address:
        yield address


def new_container(azure: str) -> str:
    """The name of a container that nobody else uses."""
    name = f"lake-{next(_numbers)}"
    make_container(azure, name)
    return name


def new_store(azure: str) -> ObjectStore:
    """The product's store over a prefix of a new container."""
    return open_store(f"az://{new_container(azure)}/raw", StoreSettings(endpoint=azure, allow_http=True))


class TestStore:
    """Every test of the contract of `ports.ObjectStore`."""

    @pytest.fixture
    def play(self, azure: str) -> store_contract.Play:
        """Runs a story on a new, empty store."""
        return lambda story: asyncio.run(story(new_store(azure)))


class TestSink:
    """Every test of the contract of `ports.Sink`."""

    @pytest.fixture
    def play(self, azure: str) -> sink_contract.Play:
        """Runs a story on a new sink."""

        def run(story: sink_contract.Story) -> None:
            with ThreadPoolExecutor(2) as executor:
                store, settings = new_store(azure), sink_contract.SETTINGS
                sink = SegmentSink(store, settings=settings, patience=Patience(settings), executor=executor)
                asyncio.run(story(sink, store))

        return run


for house, contract in ((TestStore, store_contract), (TestSink, sink_contract)):
    for name, promise in vars(contract).items():
        if name.startswith("test_"):
            setattr(house, name, staticmethod(promise))


class Container(Lab):
    """A lab whose lake and scores are prefixes of a container."""

    def __init__(self, folder: Path, azure: str) -> None:
        super().__init__(folder)
        self.name = new_container(azure)
        self.store = open_store(f"az://{self.name}", StoreSettings(endpoint=azure, allow_http=True))
        self.azure = azure

    def land(self, key: str, data: bytes) -> None:
        asyncio.run(self.store.create(f"raw/{key}", data))

    def configure_azure(self, urls: list[str], *, sink: str = "", **keys: object) -> None:
        """Both ends in the container; `sink` is another address of the server for that end."""
        reached = {"endpoint": self.azure, "allow_http": True}
        self.configure(
            urls,
            source={"uri": f"az://{self.name}/raw"},
            sink={"uri": f"az://{self.name}/scores", "roll_records": 4, **keys},
            **{"source.store": reached, "sink.store": reached | ({"endpoint": sink} if sink else {})},
        )

    def segments(self) -> Iterator[tuple[str, bytes]]:
        async def read() -> list[tuple[str, bytes]]:
            keys = [entry.key async for page in self.store.list("scores") for entry in page]
            return [(key, await self.store.get(key)) for key in sorted(keys) if "/source=" in key]

        yield from asyncio.run(read())


def test_a_container_is_scored_once_whatever_step_dies(tmp_path: Path, azure: str) -> None:
    """Killed at three steps of the commit, one run after the other, then run to its end: all is there, once."""
    lab = Container(tmp_path, azure)
    lab.land("claude_cli/a.jsonl", RECORDS)
    with replicas(count=1) as urls:
        lab.configure_azure(urls)
        for step in ("seal.after", "publish.after", "advance.before"):
            assert lab.run_once(extra={"MIRA_STREAM_FAILPOINT": step}).code == -signal.SIGKILL, step
        rows: list[Row] = lab.scored()
    assert sorted(row["ordinal"] for row in rows) == list(range(20))


def test_segments_whose_answers_are_lost_are_there_once(tmp_path: Path, azure: str) -> None:
    """Writes that land unheard or twice, that are refused, or stall: each record is published once."""
    lab = Container(tmp_path, azure)
    lab.land("claude_cli/a.jsonl", RECORDS)
    plan = (
        Trouble("answer lost", answers=0),
        Trouble("request lost", sends=0, answers=0),
        Trouble("sent twice", sends=2),
        Trouble("answered twice", answers=2),
        Trouble("409", sends=0, status=409),
        Trouble("500, landed", status=500),
        Trouble("503", sends=0, status=503),
        Trouble("stalled, landed", answers=0, stalls=True),
    )
    troubles = Troubles(plan, lambda heard: heard.method == "PUT" and "scores/source" in heard.path)
    server, _, account = azure.rpartition("/")
    with replicas(count=1) as urls, proxy(server, trouble=troubles) as (address, _):
        quick = {"request_timeout_seconds": 1.0, "retry_initial_seconds": 0.01, "retry_max_seconds": 0.05}
        lab.configure_azure(urls, sink=f"{address}/{account}", **quick | {"roll_records": 1})
        run = lab.run_once()
        assert run.code == 0, run.stderr
        assert "rival" not in run.stderr
        lab.configure_azure(urls)
        assert len(lab.audited()) == 20
    assert set(troubles.given) == {trouble.name for trouble in plan} | {"fine"}
