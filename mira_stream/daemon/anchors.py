"""Where rubrics come from: the package's own anchors, or a folder that `anchors.path` names; and the import of others."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from mira_stream.core.errors import Refusal
from mira_stream.core.group import UNKNOWN, Group, parse_groups
from mira_stream.core.row import SLOTS
from mira_stream.core.rubric import Anchor, Criterion, Rubric, parse_rubric

GROUPS_FILE = "groups.toml"
_PACKAGE = "mira_stream.anchor_data"

MAP_TARGETS = (
    "slot",
    "name",
    "cluster_size",
    "description",
    "references",
    "references.score",
    "references.text",
)
"""The fields of our layout that `anchors import --map` can fill from other names."""


def load_groups(path: str | None) -> dict[str, Group]:
    """All groups of `<path>/groups.toml`; a folder without that file uses the package's. Raises Refusal."""
    folder = _folder(path)
    file = folder / GROUPS_FILE
    if path is not None and not file.is_file():
        file = resources.files(_PACKAGE) / GROUPS_FILE
    return parse_groups(file.read_text("utf-8"), str(file))


def load_rubric(group: Group, path: str | None) -> Rubric:
    """The rubric of `group` from `path` or from the package. Raises Refusal where there is none."""
    if group.anchors == UNKNOWN:
        raise Refusal(
            f"the anchors of group {group.id} are not known",
            f"put the anchor file and a {GROUPS_FILE} that names it into a folder and set [anchors] path",
        )
    file = _folder(path) / group.anchors
    if not file.is_file():
        raise Refusal(f"there is no anchors file {file}", f"{GROUPS_FILE} names it for group {group.id}")
    return parse_rubric(file.read_text("utf-8"), group=group.id, name=str(file))


def _folder(path: str | None) -> Traversable:
    if path is None:
        return resources.files(_PACKAGE)
    folder = Path(path)
    if not folder.is_dir():
        raise Refusal(
            f"[anchors] path {folder} is not a folder", "name the folder that holds the anchor files"
        )
    return folder


def import_anchors(source: Path, *, group: str, names: Mapping[str, str]) -> Rubric:
    """Read a foreign anchors file (JSON lines, or one JSON array) as a rubric of `group`.

    `names` maps our fields (MAP_TARGETS) to theirs, dotted for nested ones. Slots missing there are numbered in order
    of the lines. Raises Refusal that says which line lacks what.
    """
    unknown = sorted(set(names) - set(MAP_TARGETS))
    if unknown:
        raise Refusal(f"--map cannot fill {unknown[0]}", f"it can fill {', '.join(MAP_TARGETS)}")
    entries = _entries(source)
    if len(entries) > len(SLOTS):
        raise Refusal(f"{source} has {len(entries)} anchors", f"a rubric has at most {len(SLOTS)} slots")
    criteria = [_criterion(entry, number, names, source) for number, entry in enumerate(entries)]
    lines = "\n".join(msgspec.json.encode(criterion).decode() for criterion in criteria)
    return parse_rubric(lines, group=group, name=str(source))


def write_anchors(rubric: Rubric, folder: Path) -> Path:
    """Write `rubric` in our layout under `folder`, where `[anchors] path` finds it; never overwrites."""
    if not re.fullmatch(r"[a-z]+/[A-Za-z0-9_-]+", rubric.group):
        raise Refusal(f"{rubric.group} is not a group id", "write family/id, such as agent/A")
    family, _, name = rubric.group.partition("/")
    target = folder / family / f"group_{name}_dim_anchors.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(msgspec.json.encode(criterion).decode() + "\n" for criterion in rubric.criteria)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise Refusal(f"{target} exists already", "move it away, or choose another --out folder") from error
    return target


def _entries(source: Path) -> Sequence[object]:
    try:
        text = source.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"cannot read {source}: {error}", "give a file of JSON lines or one JSON array"
        ) from error
    try:
        if text.lstrip().startswith("["):
            entries: object = json.loads(text)
            assert isinstance(entries, list)
            return entries
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise Refusal(
            f"{source} is not JSON: {error}", "give a file of JSON lines or one JSON array"
        ) from error


def _criterion(entry: object, number: int, names: Mapping[str, str], source: Path) -> Criterion:
    where = f"{source}, anchor {number + 1}"
    name = _pick(entry, names.get("name", "name"))
    if not isinstance(name, str):
        raise Refusal(f"{where} has no {names.get('name', 'name')}", "tell its field: --map name=THEIR_FIELD")
    size = _pick(entry, names.get("cluster_size", "cluster_size"))
    description = _pick(entry, names.get("description", "description"))
    slot = _pick(entry, names.get("slot", "slot"))
    return Criterion(
        slot=str(slot) if slot is not None else SLOTS[number],
        name=name,
        cluster_size=size if isinstance(size, int) else None,
        description=description if isinstance(description, str) else "",
        references=_references(_pick(entry, names.get("references", "references")), names, where),
    )


def _references(value: object, names: Mapping[str, str], where: str) -> tuple[Anchor, ...]:
    if value is None:
        return ()
    if isinstance(value, dict):  # {"9": "text", …}
        value = [{"score": score, "text": text} for score, text in value.items()]
        names = {}
    if not isinstance(value, list):
        raise Refusal(f"{where}: references are neither a list nor an object", "see --map references=…")
    return tuple(_anchor(item, names, where) for item in value)


def _anchor(item: object, names: Mapping[str, str], where: str) -> Anchor:
    score = _pick(item, names.get("references.score", "score"))
    text = _pick(item, names.get("references.text", "text"))
    try:
        return Anchor(float(str(score)), str(text)) if text is not None else Anchor(float(str(score)), "")
    except ValueError as error:
        raise Refusal(
            f"{where}: a reference has no numeric score", "tell its field: --map references.score=THEIR_FIELD"
        ) from error


def _pick(entry: object, path: str) -> object:
    value = entry
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
