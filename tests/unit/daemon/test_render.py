"""`mira-stream render`: exactly what the daemon would send for a line of a file, or why it would send nothing."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest
import zstandard

from mira_stream.core.errors import Refusal
from mira_stream.daemon.render import Shown, render_record

LINES = [
    b'{"messages":[{"role":"user","content":"first <|im_end|>"}]}',
    b"",
    b"not json",
    b'{"messages":[{"role":"user","content":"fourth"}],"who":"codex"}',
]


def _render(file: Path, ordinal: int = 0, *, config: Path | None = None, group: str = "agent/A") -> Shown:
    return asyncio.run(render_record(file, ordinal, group=group, config=config))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four lines, the last one without its end."""
    path = tmp_path / "traces" / "some [odd] name.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\n".join(LINES))
    return path


def test_a_record_is_shown_as_it_would_be_sent(file: Path) -> None:
    """The text for people holds what the body holds; the line about it says what was changed."""
    shown = _render(file)
    messages = json.loads(shown.body)["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert all(message["content"] in shown.text for message in messages)
    assert "first <\u200b|im_end|>" in messages[1]["content"]
    assert "shape openai_messages" in shown.summary
    assert "special tokens neutralised 1" in shown.summary
    assert "fourth" in _render(file, 3).text


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_compressed_file_is_read_like_any_other(tmp_path: Path, pack: object) -> None:
    """The codec is known by its bytes, whatever the name says."""
    path = tmp_path / "packed.bin"
    path.write_bytes(pack(b"\n".join(LINES)))  # type: ignore[operator]
    assert "fourth" in _render(path, 3).text


@pytest.mark.parametrize(
    ("ordinal", "says"), [(1, "not sent: blank"), (2, "not sent: invalid_json"), (4, "has 4 lines")]
)
def test_a_record_that_is_not_sent_says_why(file: Path, ordinal: int, says: str) -> None:
    """With the same reason that its row would have."""
    with pytest.raises(Refusal, match=says):
        _render(file, ordinal)


def test_a_damaged_file_says_how_far_it_can_be_read(tmp_path: Path) -> None:
    """The lines before the damage can be shown."""
    path = tmp_path / "torn.jsonl.zst"
    frames = zstandard.compress(LINES[0] + b"\n") + zstandard.compress(LINES[3] + b"\n")[:-5]
    path.write_bytes(frames)
    assert "first" in _render(path, 0).text
    with pytest.raises(Refusal, match=r"ends badly after \d+ lines: truncated"):
        _render(path, 5)


def test_a_file_that_is_not_there_or_never_read_is_said_so(tmp_path: Path) -> None:
    """Missing, empty, or with a name that the daemon ignores."""
    with pytest.raises(Refusal, match="there is no file"):
        _render(tmp_path / "none.jsonl")
    for name, data in (("empty.jsonl", b""), ("_hidden.jsonl", LINES[0]), ("x.jsonl.tmp", LINES[0])):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(Refusal, match=r"no line|has 0 lines"):
            _render(path)


def test_a_configuration_decides_on_pool_and_prompt(tmp_path: Path, file: Path) -> None:
    """Its template, its naming of sources, its request."""
    template = tmp_path / "user.txt"
    template.write_text("Judge: {record}")
    config = tmp_path / "mira.toml"
    config.write_text(
        f"""
[source]
uri = '/lake'
name_from = 'field:who'
[sink]
uri = '/scores'
[request]
temperature = 0.1
[prompt]
user_template_file = '{template}'
[[pool]]
group = 'agent/A'
replicas = ['http://one']
sources = ['codex']
"""
    )
    shown = _render(file, 3, config=config)
    assert json.loads(shown.body)["temperature"] == 0.1
    assert json.loads(shown.body)["messages"][1]["content"].startswith("Judge: ")
    with pytest.raises(Refusal, match="missing_field"):
        _render(file, 0, config=config)
