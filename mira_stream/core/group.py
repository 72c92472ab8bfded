"""The groups of MIRA: which sources, model and anchors belong together, and what is not known of them."""

import tomllib
from typing import Literal

import msgspec

from mira_stream.core.errors import Refusal

UNKNOWN: Literal["unknown"] = "unknown"
Unknown = Literal["unknown"]


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One student scorer: `id` is family and group (`agent/A`), `anchors` a path beside `groups.toml`."""

    id: str
    title: str
    model: str
    prompt_family: str
    anchors: str
    dimensions: int | Unknown
    context_tokens: int | Unknown
    records: int | Unknown
    sources: tuple[str, ...]
    sources_complete: bool

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        """What a pool would need and no readable card states."""
        needed = ("prompt_family", "anchors", "context_tokens")
        return tuple(name for name in needed if getattr(self, name) == UNKNOWN)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    group: tuple[Group, ...]


def parse_groups(text: str, name: str) -> dict[str, Group]:
    """`groups.toml` by group id. `name` is the file's, for messages; raises Refusal."""
    try:
        groups = msgspec.convert(tomllib.loads(text), _File).group
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Refusal(
            f"{name}: {error}", "compare it with the groups.toml that ships with the package"
        ) from error
    by_id = {group.id: group for group in groups}
    if len(by_id) != len(groups):
        raise Refusal(f"{name}: a group id occurs twice", "give every [[group]] an id of its own")
    return by_id
