"""The reference page names everything that the simulator understands."""

from pathlib import Path

import pytest

from mira_stream.sim.damage import Damage
from mira_stream.sim.faults import FaultKind
from mira_stream.sim.request_log import RequestEntry
from mira_stream.sim.settings import SimSettings

PAGE = (Path(__file__).parents[3] / "docs/reference/sim.md").read_text()
WORDS = [
    *SimSettings.__struct_fields__,
    *RequestEntry.__struct_fields__,
    *Damage,
    *(kind for kind in FaultKind if kind is not FaultKind.STATUS),
]


@pytest.mark.parametrize("word", WORDS)
def test_the_reference_names_it(word: str) -> None:
    """Each setting, log field, kind of damage and kind of fault stands on the page."""
    assert f"`{word}`" in PAGE
