"""The configuration: one TOML file, one frozen tree; anything unknown, misspelt or badly typed is refused."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.aggregate import AggregateSettings
from mira_stream.core.errors import Refusal
from mira_stream.core.request import RequestSettings
from mira_stream.ledger.settings import LedgerSettings
from mira_stream.replica.counter_settings import CounterSettings
from mira_stream.replica.settings import ReplicaSettings
from mira_stream.sink.settings import SinkSettings
from mira_stream.source.settings import SourceSettings
from mira_stream.source.store_settings import StoreSettings


class SourceSection(SourceSettings, frozen=True, kw_only=True):
    """`[source]`: what is followed."""

    store: Annotated[StoreSettings, Meta(description="How to reach the object store of the source.")] = (
        StoreSettings()
    )


class SinkSection(SinkSettings, frozen=True, kw_only=True):
    """`[sink]`: where the scores go."""

    store: Annotated[StoreSettings, Meta(description="How to reach the object store of the sink.")] = (
        StoreSettings()
    )


class PoolSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[[pool]]`: the replicas that score one group."""

    group: Annotated[str, Meta(min_length=1, description="Group id of anchors/groups.toml, such as agent/A.")]
    replicas: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Base URLs of the vLLM servers, http://host:port.")
    ]
    sources: Annotated[
        tuple[str, ...] | None,
        Meta(
            description='Source names this pool scores; default: those groups.toml names; ["*"]: all others.'
        ),
    ] = None
    model: Annotated[
        str | None, Meta(description="Model name the replicas serve; default: the group's in groups.toml.")
    ] = None
    context_tokens: Annotated[
        Annotated[int, Meta(ge=1024)] | None,
        Meta(description="Longest prompt and reply together; default: the group's in groups.toml."),
    ] = None
    tokenizer: Annotated[
        str | None,
        Meta(
            description="The model's tokenizer folder, or its tokenizer.json: prompts are counted exactly; default: "
            "by estimate, and by the replicas near the limit."
        ),
    ] = None
    api_key_env: Annotated[
        str | None,
        Meta(description="Environment variable (or systemd credential) that holds the replicas' API key."),
    ] = None


class PromptSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[prompt]`: text that replaces ours byte for byte."""

    system_file: Annotated[str | None, Meta(description="File whose text is the system message.")] = None
    user_template_file: Annotated[
        str | None, Meta(description="File whose text is the user message, with one {record}.")
    ] = None


class AnchorsSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[anchors]`: the rubrics."""

    path: Annotated[str | None, Meta(description="Folder of anchor files; default: the package's own.")] = (
        None
    )


class RecordSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[record]`: what of a record travels into its row."""

    meta: Annotated[
        tuple[str, ...], Meta(description="Fields of the record (dotted) copied into the row's meta column.")
    ] = ()
    keep_reply: Annotated[bool, Meta(description="Keep the raw reply text in every row.")] = False


class AggregateSection(AggregateSettings, frozen=True, kw_only=True):
    """`[aggregate]`: one number per row, made of its scores as it is written."""

    enabled: Annotated[bool, Meta(description="Fill the columns of the aggregate in every scored row.")] = (
        False
    )
    masks: Annotated[
        tuple[str, ...],
        Meta(
            description="Mask files, as `reliability` writes them, one at most for a rubric; where there is none, all "
            "slots count."
        ),
    ] = ()


class HttpSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[http]`: metrics, health and status."""

    listen: Annotated[
        str,
        Meta(
            pattern=r"^\S+:\d+$",
            description="host:port to serve on; port 0 takes any free one. Other machines than this one need a token.",
        ),
    ] = "127.0.0.1:9464"
    token_env: Annotated[
        str | None,
        Meta(
            description="Environment variable (or systemd credential) that holds the token which every request must "
            "bear; needed unless `listen` is a loopback address."
        ),
    ] = None


class LogSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]`: what goes to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity that is logged.")
    ] = "info"
    format: Annotated[
        Literal["json", "console"], Meta(description="json for machines, console for a terminal.")
    ] = "json"


class ServiceSection(msgspec.Struct, frozen=True, kw_only=True):
    """`[service]`: life and death of the process."""

    drain_seconds: Annotated[
        float, Meta(ge=0, description="Time for requests in flight to end after the first signal.")
    ] = 120.0
    cancel_seconds: Annotated[
        float, Meta(ge=0, description="Time to publish what was received after requests are cancelled.")
    ] = 30.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole tree."""

    source: SourceSection
    sink: SinkSection
    pool: Annotated[tuple[PoolSection, ...], Meta(min_length=1)]
    ledger: LedgerSettings = LedgerSettings()
    admission: AdmissionSettings = AdmissionSettings()
    replica: ReplicaSettings = ReplicaSettings()
    request: RequestSettings = RequestSettings()
    prompt: PromptSection = PromptSection()
    anchors: AnchorsSection = AnchorsSection()
    counter: CounterSettings = CounterSettings()
    record: RecordSection = RecordSection()
    aggregate: AggregateSection = AggregateSection()
    http: HttpSection = HttpSection()
    log: LogSection = LogSection()
    service: ServiceSection = ServiceSection()


def load_config(path: Path) -> Config:
    """Read and check a configuration file. Raises Refusal that names the key and what to do."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise Refusal(
            f"cannot read {path}: {reason}", "give the path of a TOML file with --config"
        ) from error
    return parse_config(text, str(path))


def parse_config(text: str, name: str) -> Config:
    """`load_config` of a text; `name` is the file's, for messages."""
    try:
        data = tomllib.loads(text)
    # A TOMLDecodeError is a ValueError; so is a number too long to read.
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{name} is not TOML: {error}", "look at that line; strings need quotes") from error
    _refuse_unknown_keys(data, Config, name, "")
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise _explained(error, name) from error


def _refuse_unknown_keys(data: object, kind: object, name: str, where: str) -> None:
    struct = _struct_of(kind)
    if isinstance(data, list):
        for item in data:
            _refuse_unknown_keys(item, kind, name, where)
    if struct is None or not isinstance(data, dict):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
            raise Refusal(f"{name}: unknown key {path}", hint)
        _refuse_unknown_keys(value, fields[key], name, path)


def _struct_of(kind: object) -> type[msgspec.Struct] | None:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) is None:
        return None
    return next((found for arg in get_args(kind) if (found := _struct_of(arg)) is not None), None)


def _explained(error: msgspec.ValidationError, name: str) -> Refusal:
    text = str(error)
    match = re.search(r" - at `\$\.?(.*)`$", text)
    path = match.group(1) if match else ""
    problem = text[: match.start()] if match else text
    missing = re.search(r"missing required field `(\w+)`", problem)
    if missing:
        path = ".".join(filter(None, (path, missing.group(1))))
        return Refusal(f"{name}: {path} is missing", description_of(path) or f"add {_spelt(path)}")
    return Refusal(f"{name}: {path}: {problem}", _type_hint(path, problem))


def _type_hint(path: str, problem: str) -> str:
    says = description_of(path)
    if "Expected `object`" in problem or (path == "pool" and "got `object`" in problem):
        return f"write it as a section, {_spelt(path)}, with its keys below"
    unit = next((u for u in ("seconds", "bytes", "tokens", "records", "max") if path.endswith(f"_{u}")), None)
    if unit and "got `str`" in problem:
        plain = "" if unit == "max" else f" of {unit}"
        return f"give a plain number{plain}, without quotes or a unit. {says}".strip()
    return says


def _spelt(path: str) -> str:
    """A section of the file as it is written there."""
    return f"[[{path}]]" if path == "pool" else f"[{path}]"


def description_of(path: str) -> str:
    """What the key at `path` (dotted) means; empty for an unknown path."""
    kind: object = Config
    description = ""
    for part in re.sub(r"\[[^]]*\]", "", path).split("."):
        struct = _struct_of(kind)
        field = (
            None
            if struct is None
            else next((f for f in msgspec.structs.fields(struct) if f.encode_name == part), None)
        )
        if field is None:
            return ""
        kind = field.type
        description = next((m.description or "" for m in get_args(kind) if isinstance(m, Meta)), "")
    return description
