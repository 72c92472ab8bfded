"""The example configurations: whoever copies one starts from a file that works."""

from pathlib import Path

import pytest

from mira_stream.daemon.config import Config, load_config

FOLDER = Path(__file__).parents[2] / "ops" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.toml"))


def test_the_promised_examples_are_there() -> None:
    """A smallest one, one that shows every section, and one node with eight replicas."""
    names = {path.name for path in EXAMPLES}
    assert names >= {"mira.minimal.toml", "mira.annotated.toml", "one-node-8xTP1.toml"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads(example: Path) -> None:
    """Every example passes the checks of the daemon's own loader."""
    assert isinstance(load_config(example), Config)


def test_the_annotated_example_shows_every_section() -> None:
    """A section that is added to the configuration is added there too."""
    text = (FOLDER / "mira.annotated.toml").read_text("utf-8")
    shown = {line.split("]")[0].strip("[") for line in text.splitlines() if line.startswith("[")}
    assert shown >= set(Config.__struct_fields__)


def test_the_node_has_eight_replicas() -> None:
    """Ports 8000 to 8007, one server for each GPU."""
    (pool,) = load_config(FOLDER / "one-node-8xTP1.toml").pool
    assert pool.replicas == tuple(f"http://127.0.0.1:{port}" for port in range(8000, 8008))
