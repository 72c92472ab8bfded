"""The page of guarantees: each says what it demands, what it rests on, and which tests prove it; those exist."""

import re

import pytest

from tests.tidy.tree import ROOT, functions, modules_of_tests

PAGE = (ROOT / "docs/reference/delivery.md").read_text("utf-8")
GUARANTEES = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def _tests() -> set[tuple[str, str]]:
    return {(module.name, one.name) for module in modules_of_tests() for one in functions(module.tree)}


def test_every_test_that_is_named_exists() -> None:
    """A proof that was renamed or removed is no proof."""
    named = set(TEST.findall(PAGE))
    assert len(named) > 30
    assert named <= _tests()
    assert len(TEST.findall(PAGE)) == PAGE.count("::"), "one is misspelt"


@pytest.mark.parametrize(("head", "text"), GUARANTEES, ids=[head[:40] for head, _ in GUARANTEES])
def test_every_guarantee_is_complete(head: str, text: str) -> None:
    """What must be, on what condition, and how it was proven."""
    assert re.search(r"\b(?:MUST|MAY)\b", head)
    assert "Rests on: " in text
    assert TEST.search(text.partition("Proven by: ")[2])


def test_what_could_not_be_tested_is_said() -> None:
    """Silence would be a claim."""
    assert "Google Cloud Storage" in PAGE.partition("## What was not tested")[2]
