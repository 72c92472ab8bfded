"""The configuration: one frozen tree; what is unknown, misspelt or badly typed is refused in words that help."""

from pathlib import Path

import msgspec
import pytest

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import Config, description_of, load_config, parse_config

SMALLEST = """
[source]
uri = "s3://lake/raw/"
[sink]
uri = "s3://lake/scores/"
[[pool]]
group = "agent/A"
replicas = ["http://gpu-1:8000", "http://gpu-2:8000"]
"""


def _refusal(text: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse_config(text, "mira.toml")
    return refused.value


def test_the_smallest_useful_file_is_enough() -> None:
    """Everything else has a default that serves."""
    config = parse_config(SMALLEST, "mira.toml")
    assert config.pool[0].replicas == ("http://gpu-1:8000", "http://gpu-2:8000")
    assert config.request.temperature == 0.7
    assert config.http.listen.startswith("127.0.0.1:")
    with pytest.raises(AttributeError):
        config.source.uri = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("more", "path", "hint"),
    [
        ("[sorce]\n", "sorce", "did you mean source?"),
        ("[sink2]\nuri = 1\n", "sink2", "did you mean sink?"),
        ("[request]\ntemprature = 1\n", "request.temprature", "did you mean temperature?"),
        ("replica = []\n", "pool.replica", "did you mean replicas?"),
        ("[source.store]\nendpont = 'x'\n", "source.store.endpont", "did you mean endpoint?"),
        ("[http]\nzzz = 1\n", "http.zzz", "known here: listen, token_env"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(more: str, path: str, hint: str) -> None:
    """At any depth; a key that is near to none is answered with all that are known there."""
    refused = _refusal(SMALLEST + more)
    assert str(refused) == f"mira.toml: unknown key {path}"
    assert refused.hint == hint


@pytest.mark.parametrize(
    ("more", "problem", "hint"),
    [
        (
            "[service]\ndrain_seconds = '2m'\n",
            "service.drain_seconds",
            "a plain number of seconds, without quotes",
        ),
        ("[ledger]\ncache_bytes = '64 MiB'\n", "ledger.cache_bytes", "a plain number of bytes"),
        ("[request]\nmax_tokens = '2k'\n", "request.max_tokens", "a plain number of tokens"),
        ("[admission]\nrequests_max = 'many'\n", "admission.requests_max", "a plain number, without quotes"),
        ("[request]\nmax_tokens = 1.5\n", "request.max_tokens: Expected `int`, got `float`", "Longest reply"),
        ("[request]\ntemperature = 3\n", "request.temperature", "Sampling temperature"),
        ("[log]\nlevel = 'loud'\n", "log.level: Invalid enum value 'loud'", "Least severity"),
        ("[http]\nlisten = '9464'\n", "http.listen", "host:port"),
        ("sources = 'claude_cli'\n", "pool[0].sources", "Source names this pool scores"),
        ("http = 'x'\n", "pool", ""),
    ],
)
def test_a_value_of_the_wrong_type_or_unit_is_explained(more: str, problem: str, hint: str) -> None:
    """Where it is, what is wrong with it, and what the key means."""
    refused = _refusal(SMALLEST + more)
    assert problem in str(refused)
    assert str(refused).startswith("mira.toml: ")
    assert hint in refused.hint


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "source is missing", "add [source]"),
        ("[source]\nuri = '/a'\n[sink]\nuri = '/b'\n", "pool is missing", "add [[pool]]"),
        (
            SMALLEST.replace('uri = "s3://lake/scores/"', ""),
            "sink.uri is missing",
            "Where segments are published",
        ),
        (SMALLEST.replace("replicas =", "model ="), "pool[0]", ""),
        (SMALLEST.replace("[[pool]]", "[pool]"), "pool: Expected `array`, got `object`", "[[pool]]"),
        ("source = '/a'\n", "source: Expected `object`, got `str`", "[source]"),
        (
            SMALLEST.replace('["http://gpu-1:8000", "http://gpu-2:8000"]', "[]"),
            "pool[0].replicas",
            "Base URLs",
        ),
        (SMALLEST.replace('"agent/A"', '""'), "pool[0].group", "Group id"),
    ],
)
def test_a_missing_or_misplaced_section_is_named_as_it_is_written(text: str, says: str, hint: str) -> None:
    """The person sees the brackets that the file needs."""
    refused = _refusal(text)
    assert says in str(refused)
    assert hint in refused.hint


def test_a_file_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    """The line of the error is told; a missing or binary file is no traceback."""
    assert "line 1" in str(_refusal("uri = s3://lake"))
    with pytest.raises(Refusal, match=r"cannot read \S+none.toml: No such file or directory$"):
        load_config(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refusal, match="cannot read"):
        load_config(binary)
    whole = tmp_path / "mira.toml"
    whole.write_text(SMALLEST)
    assert load_config(whole) == parse_config(SMALLEST, "x")


def test_free_tables_are_not_looked_into() -> None:
    """`chat_template_kwargs` goes to the model's template as it is."""
    config = parse_config(SMALLEST + "[request.chat_template_kwargs]\nenable_thinking = false\n", "x")
    assert config.request.chat_template_kwargs == {"enable_thinking": False}


def test_a_whole_number_does_for_a_fraction() -> None:
    """`roll_seconds = 60` is no type error."""
    text = SMALLEST.replace('uri = "s3://lake/scores/"', 'uri = "/s"\nroll_seconds = 60')
    assert parse_config(text, "x").sink.roll_seconds == 60.0


def _leaves(kind: type[msgspec.Struct], where: str = "") -> list[str]:
    paths = []
    for field in msgspec.structs.fields(kind):
        path = f"{where}.{field.encode_name}".lstrip(".")
        inner = getattr(field.type, "__origin__", field.type)
        inner = inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None
        paths += _leaves(inner, path) if inner else [path]
    return paths


def test_every_key_says_what_it_means() -> None:
    """The hints, and the generated reference, are made of these sentences."""
    paths = [path for path in _leaves(Config) if path != "pool"]
    assert len(paths) > 40
    assert [path for path in paths if not description_of(path)] == []
    assert description_of("pool.replicas") == description_of("pool[3].replicas") != ""
    assert description_of("no.such.key") == ""
