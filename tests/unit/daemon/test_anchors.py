"""Rubrics: the package's own, a folder of somebody's, and the import of another layout."""

import json
from pathlib import Path

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.daemon.anchors import import_anchors, load_groups, load_rubric, write_anchors

THEIRS = [
    {"dimension": "Clarity", "about": "Is it clear?", "n": 12, "examples": [{"value": 2, "why": "unclear"}]},
    {"dimension": "Depth", "about": "Is it deep?", "n": 7, "examples": []},
]
MAP = {
    "name": "dimension",
    "description": "about",
    "cluster_size": "n",
    "references": "examples",
    "references.score": "value",
    "references.text": "why",
}


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "theirs.json"
    path.write_text(text)
    return path


def test_the_package_knows_its_groups_and_the_rubric_of_one() -> None:
    """All twelve siblings are known by name; agent/A has its 15 slots and a fingerprint."""
    groups = load_groups(None)
    assert len(groups) == 12
    rubric = load_rubric(groups["agent/A"], None)
    assert len(rubric.slots) == 15
    assert len(rubric.fingerprint) == 32
    with pytest.raises(Refusal, match="anchors of group agent/B are not known"):
        load_rubric(groups["agent/B"], None)


@pytest.mark.parametrize("form", ["array", "lines"])
def test_another_layout_is_taken_over(tmp_path: Path, form: str) -> None:
    """A JSON array or JSON lines, fields mapped by name; slots are numbered in their order."""
    text = json.dumps(THEIRS) if form == "array" else "\n".join(map(json.dumps, THEIRS)) + "\n\n"
    rubric = import_anchors(_file(tmp_path, text), group="agent/X", names=MAP)
    first, second = rubric.criteria
    assert (first.slot, first.name, first.description, first.cluster_size) == (
        "A1",
        "Clarity",
        "Is it clear?",
        12,
    )
    assert [(one.score, one.text) for one in first.references] == [(2.0, "unclear")]
    assert (second.slot, second.references) == ("A2", ())


def test_references_may_be_an_object_of_scores(tmp_path: Path) -> None:
    """`{"9": "text"}` needs no map of its own."""
    text = json.dumps([{"name": "Clarity", "references": {"9": "clear", "2.5": "unclear"}}])
    (only,) = import_anchors(_file(tmp_path, text), group="agent/X", names={}).criteria
    assert sorted((one.score, one.text) for one in only.references) == [(2.5, "unclear"), (9.0, "clear")]


def test_nested_fields_are_found_by_their_path(tmp_path: Path) -> None:
    """Dotted on their side."""
    text = json.dumps([{"meta": {"title": "Clarity"}}])
    (only,) = import_anchors(_file(tmp_path, text), group="agent/X", names={"name": "meta.title"}).criteria
    assert only.name == "Clarity"


@pytest.mark.parametrize(
    ("text", "names", "says"),
    [
        ("{not json", {}, "is not JSON"),
        ('[{"name":"a"},', {}, "is not JSON"),
        ('[{"title":"a"}]', {}, "anchor 1 has no name"),
        ('[{"name":"a"},7]', {}, "anchor 2 has no name"),
        (json.dumps([{"name": "a"}] * 16), {}, "has 16 anchors"),
        ('[{"name":"a","references":7}]', {}, "neither a list nor an object"),
        ('[{"name":"a","references":[{"text":"x"}]}]', {}, "no numeric score"),
        ('[{"name":"a","references":[{"score":"nan","text":"x"}]}]', {}, "line 1: Expected `float`"),
        ('[{"name":"a","references":[{"score":11,"text":"x"}]}]', {}, "outside 0–10"),
        ('[{"name":"a","slot":"A2"}]', {}, "the slots are A2"),
        ("", {}, "the slots are none"),
        ('[{"name":"a"}]', {"colour": "x"}, "--map cannot fill colour"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_its_place(
    tmp_path: Path, text: str, names: dict[str, str], says: str
) -> None:
    """Which anchor lacks what, and never half a rubric."""
    with pytest.raises(Refusal) as refused:
        import_anchors(_file(tmp_path, text), group="agent/X", names=names)
    assert says in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing or binary."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", binary):
        with pytest.raises(Refusal, match="cannot read"):
            import_anchors(path, group="agent/X", names={})


def test_what_is_written_is_what_is_read_back(tmp_path: Path) -> None:
    """The same fingerprint from the folder that `[anchors] path` names; an existing file is never overwritten."""
    rubric = import_anchors(_file(tmp_path, json.dumps(THEIRS)), group="agent/A", names=MAP)
    target = write_anchors(rubric, tmp_path / "anchors")
    groups = load_groups(str(tmp_path / "anchors"))
    assert load_rubric(groups["agent/A"], str(tmp_path / "anchors")).fingerprint == rubric.fingerprint
    before = target.read_text()
    with pytest.raises(Refusal, match="exists already"):
        write_anchors(rubric, tmp_path / "anchors")
    assert target.read_text() == before
    target.unlink()
    with pytest.raises(Refusal, match="there is no anchors file"):
        load_rubric(groups["agent/A"], str(tmp_path / "anchors"))
