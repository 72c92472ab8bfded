"""The reference of the configuration, made from the struct tree itself."""

import types
from collections.abc import Iterator
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from mira_stream.daemon.config import Config

_INTRODUCTION = """\
# Configuration

One TOML file, given with `--config`. Unknown keys are refused, with the nearest right one. Numbers have their unit in
their name. Secrets are never in the file: `api_key_env` names an environment variable or a systemd credential, stores
take their credentials as [obstore](https://developmentseed.org/obstore/) does, from the environment or files.

This page is made by `make docs` from the code.
"""
_NAMES = {str: "text", int: "whole number", float: "number", bool: "yes/no"}


def render_reference() -> str:
    """Markdown: a table of keys for each section."""
    parts = [_INTRODUCTION]
    for name, section in _sections(Config, ""):
        rows = [_row(field) for field in msgspec.structs.fields(section) if _struct(field.type) is None]
        about = (section.__doc__ or "").split(": ", 1)[-1].strip()
        parts.append(
            f"## {name}\n\n{about[:1].upper()}{about[1:]}\n\n| key | type | default | meaning |\n|---|---|---|---|"
        )
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _sections(struct: type[msgspec.Struct], path: str) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for field in msgspec.structs.fields(struct):
        section = _struct(field.type)
        if section is None:
            continue
        name = f"{path}{field.encode_name}"
        yield (f"[[{name}]]" if get_origin(_plain(field.type)) is tuple else f"[{name}]"), section
        yield from _sections(section, f"{name}.")


def _struct(kind: object) -> type[msgspec.Struct] | None:
    plain = _plain(kind)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return plain
    if get_origin(plain) is tuple:
        return _struct(get_args(plain)[0])
    return None


def _plain(kind: object) -> object:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _row(field: msgspec.structs.FieldInfo) -> str:
    metas = [meta for meta in get_args(field.type) if isinstance(meta, Meta)]
    meaning = next((meta.description for meta in metas if meta.description), "")
    meaning = meaning.replace("|", "\\|")
    return f"| `{field.encode_name}` | {_type_name(field.type)} | {_default(field)} | {meaning} |"


def _type_name(kind: object) -> str:
    plain = _plain(kind)
    origin, arguments = get_origin(plain), get_args(plain)
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return "table"
    return _NAMES.get(plain, str(plain)) if isinstance(plain, type) else str(plain)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int):
        return f"`{default:_}`"
    if isinstance(default, str | tuple | float):
        return f"`{msgspec.json.encode(default).decode()}`"
    return "`{}`"
