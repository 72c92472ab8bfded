"""The two servers that the suite shares. It is run by `make test-vllm`, which makes what they need."""

from collections.abc import Iterator

import pytest

from tests.vllm.servers import COMMAND, KEY, MODEL, Server, gone_after

WHOLE_PREFILL = ("--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192")
"""With prompts prefilled in pieces, a seed kills a server on CPU."""
COMMON = ("--max-num-seqs", "12", "--shutdown-timeout", "20", "--enable-prompt-tokens-details")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Servers take half a minute to start, on a machine that is busy with them."""
    for item in items:
        if item.path.parent.name == "vllm":
            item.add_marker(pytest.mark.timeout(420))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, ...]]:
    """Two servers with little KV: one shares prefixes and refuses what is too much, the other one does neither and
    asks for a key."""
    if not COMMAND.exists() or not MODEL.exists():
        pytest.fail("vLLM is not there: `make test-vllm` installs it and makes the model", pytrace=False)
    folder = tmp_path_factory.mktemp("vllm")
    first = Server(folder, "first", *WHOLE_PREFILL, *COMMON, "--max-num-queued-reqs", "16", blocks=200)
    second = Server(
        folder, "second", *WHOLE_PREFILL, *COMMON, "--no-enable-prefix-caching", "--api-key", KEY, blocks=160
    )
    with gone_after(first, second) as servers:
        yield servers


@pytest.fixture
def first(fleet: tuple[Server, ...]) -> Server:
    """The server with a prefix cache and a bounded queue."""
    return fleet[0]


@pytest.fixture
def second(fleet: tuple[Server, ...]) -> Server:
    """The server without a prefix cache, and with a key."""
    return fleet[1]
