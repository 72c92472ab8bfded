"""The name of a source: from the key, by a pattern, or from the record."""

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.naming import SourceNaming


@pytest.mark.parametrize(
    ("key", "source"),
    [("claude_cli/2026/a.jsonl", "claude_cli"), ("a.jsonl", "."), ("ü b/x", "ü b"), ("./x", ".")],
)
def test_the_first_part_of_the_key_names_the_source(key: str, source: str) -> None:
    """Without a setting it is the first path component, and `.` at the root."""
    naming = SourceNaming.parse("")
    assert naming.of_key(key) == source
    assert naming.field is None


def test_a_pattern_on_the_key_names_the_source() -> None:
    """The group `source` of the pattern, matched from the start; empty where it does not match."""
    naming = SourceNaming.parse(r"key:date=[^/]+/source=(?P<source>[^/]+)/")
    assert naming.of_key("date=2026-11-23/source=pi_cli/a.jsonl") == "pi_cli"
    assert naming.of_key("elsewhere/a.jsonl") == ""
    assert SourceNaming.parse(r"key:(?:x|(?P<source>y))").of_key("x") == ""


def test_a_field_of_the_record_names_the_source() -> None:
    """The dotted path is given to whoever reads records; the key stays the fallback."""
    naming = SourceNaming.parse("field:meta.agent")
    assert naming.field == "meta.agent"
    assert naming.of_key("raw/a.jsonl") == "raw"


@pytest.mark.parametrize(
    "text",
    [
        "first",
        "key:",
        "key:[^/]+/",
        "key:(?P<source>",
        "key:(?P<other>x)",
        r"key:(?P<source>(a+)+)$",
        "field:",
        "field:a..b",
        "field: a",
    ],
)
def test_a_bad_setting_is_refused_with_a_hint(text: str) -> None:
    """Neither form, no group, no pattern, exponential repetition, empty names: each says what to write."""
    with pytest.raises(Refusal, match=r"source\.name_from") as caught:
        SourceNaming.parse(text)
    assert caught.value.hint


def test_a_long_key_costs_bounded_time() -> None:
    """Only the first 1,024 characters are matched."""
    naming = SourceNaming.parse(r"key:.*.*/(?P<source>[^/]+)/end")
    assert naming.of_key("x" * 1_000_000 + "/s/end") == ""
