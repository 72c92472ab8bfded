"""The files of the page: whole, small, of no other place, and without a way to make markup or code of a string."""

import re
from pathlib import Path

import pytest

import mira_stream.daemon
from mira_stream.core.outcome import LimitingFactor, Outcome
from mira_stream.daemon.diagnosis import WORDS
from mira_stream.pipeline.account import Stage

FOLDER = Path(mira_stream.daemon.__file__).parent / "page"
FILES = sorted(FOLDER.iterdir())
_NEEDED = re.compile(r"""(?:from|href=|src=) ?"(?:\./|page/)([^"]+)\"""")
_FOREIGN = re.compile(r"(?:https?:)?//[a-z0-9]")
_UNSAFE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\.srcdoc|DOMParser|"
    r"createContextualFragment|setHTML|\bon[a-z]+=|style=|<style|javascript:"
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_small_and_safe(file: Path) -> None:
    """At most 300 lines; nothing is loaded from elsewhere, nothing stands inline, no string becomes markup or code."""
    text = file.read_text("utf-8")
    assert text.count("\n") <= 300
    assert not _FOREIGN.findall(text.replace("http://www.w3.org/2000/svg", ""))
    assert not _UNSAFE.findall(text)
    assert "<script" not in re.sub(r'<script type="module" src="[^"]+"></script>', "", text)


def test_every_file_that_is_needed_is_there_and_every_one_is_needed() -> None:
    """The page, its scripts and their imports."""
    needed = {name for file in FILES for name in _NEEDED.findall(file.read_text("utf-8"))}
    assert needed | {"index.html"} == {file.name for file in FILES}


def test_the_page_knows_every_stage_and_outcome() -> None:
    """A record is shown wherever it is; each limiting factor has words."""
    script = "".join(file.read_text("utf-8") for file in FILES if file.suffix == ".js")
    assert not [stage for stage in Stage if f"under.{stage.value}" not in script]
    assert not [outcome for outcome in Outcome if f"outcomes.{outcome.value}" not in script]
    assert set(WORDS) == set(LimitingFactor)
