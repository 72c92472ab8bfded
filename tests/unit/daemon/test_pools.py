"""Pools, resolved before any I/O with replicas: who scores what, and everything that is refused; and secrets."""

import os
from pathlib import Path

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import parse_config
from mira_stream.daemon.pools import PoolPlan, known_sources, plan_pools, pool_for
from mira_stream.daemon.secrets import read_secret

HEAD = "[source]\nuri = '/lake'\n[sink]\nuri = '/scores'\n"
POOL = "[[pool]]\ngroup = 'agent/A'\nreplicas = ['http://one:8000']\n"
FOLDER_GROUPS = """
[[group]]
id = "agent/A"
title = "ours"
model = "m/one"
prompt_family = "agent"
anchors = "a.jsonl"
dimensions = 1
context_tokens = 8192
records = "unknown"
sources = ["first"]
sources_complete = true
[[group]]
id = "agent/B"
title = "theirs"
model = "m/two"
prompt_family = "unknown"
anchors = "a.jsonl"
dimensions = 1
context_tokens = "unknown"
records = "unknown"
sources = ["second"]
sources_complete = true
"""
CRITERION = '{"slot":"A1","name":"Clarity","references":[{"score":2,"text":"unclear"}]}\n'


def _plans(text: str) -> tuple[PoolPlan, ...]:
    return plan_pools(parse_config(HEAD + text, "test"))


def _refusal(text: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        _plans(text)
    return refused.value


@pytest.fixture
def anchors(tmp_path: Path) -> str:
    """A folder of anchors with two groups, as a line of config."""
    (tmp_path / "groups.toml").write_text(FOLDER_GROUPS)
    (tmp_path / "a.jsonl").write_text(CRITERION)
    return f"[anchors]\npath = '{tmp_path}'\n"


def test_a_group_brings_its_sources_model_and_length() -> None:
    """What groups.toml knows need not be said."""
    (plan,) = _plans(POOL)
    assert plan.model == "whw06/MIRA-Agent-Group1"
    assert "claude_cli" in plan.sources
    assert plan.prompting.context_tokens == 65_536
    assert plan.prompting.truncate
    assert len(plan.prompting.slots) == 15
    assert plan.api_key is None


def test_a_pool_may_say_otherwise() -> None:
    """Sources, model and length of its own."""
    (plan,) = _plans(POOL + "sources = ['mine']\nmodel = 'm/mine'\ncontext_tokens = 8192\n")
    assert (plan.sources, plan.model) == (frozenset({"mine"}), "m/mine")
    assert plan.prompting.context_tokens == 8192
    assert b'"model":"m/mine"' in plan.prompting.encoder.encode_chat("s", "u")


def test_a_source_belongs_to_the_pool_that_names_it(anchors: str) -> None:
    """`*` is every source that no other pool names; without it the others have no pool."""
    second = (
        "[[pool]]\ngroup = 'agent/B'\nreplicas = ['http://two']\ncontext_tokens = 4096\nsources = ['*']\n"
    )
    plans = _plans(POOL + second + anchors)
    found = {name: pool_for(plans, name) for name in ("first", "second", "anything")}
    assert {name: plan and plan.group for name, plan in found.items()} == {
        "first": "agent/A",
        "second": "agent/B",
        "anything": "agent/B",
    }
    assert pool_for(plans[:1], "anything") is None
    assert known_sources(parse_config(HEAD + POOL + second + anchors, "x"), plans) == {"first", "second"}


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (POOL.replace("agent/A", "agent/Z"), "there is no group agent/Z", "agent/A"),
        (POOL.replace("agent/A", "agent/B"), "anchors of group agent/B are not known", "[anchors] path"),
        (POOL.replace("agent/A", "qa/2"), "prompt family qa_with_think", "agent family"),
        (POOL + "context_tokens = 2048\n", "leaves no room for a record", "lower max_tokens"),
        (POOL + "[request]\nmax_tokens = 65000\n", "max_tokens 65000 leaves no room", "context_tokens"),
        (POOL + POOL.replace("one", "two"), "claimed by two pools", "name each source in one pool's"),
        (
            POOL + POOL.replace("one", "two") + "sources = ['x']\n",
            "two pools score one group",
            "in one [[pool]]",
        ),
        (POOL.replace("one", "one:8000', 'http://one"), "listed twice", "once"),
        (POOL.replace("8000'", "8000', 'http://one:8000/v1/'"), "http://one:8000 is listed twice", "once"),
        (POOL.replace("8000'", "8000', 'http://u:p@one:8000'"), "http://one:8000 is listed twice", "once"),
        (POOL.replace("http://one:8000", "one:8000"), "not an http(s) URL", "http://host:port"),
        (POOL + "[anchors]\npath = '/nowhere/at/all'\n", "is not a folder", "anchor files"),
        (POOL + "[prompt]\nsystem_file = '/nowhere/at/all'\n", "[prompt] system_file: cannot read", "UTF-8"),
        (
            POOL + "api_key_env = 'MIRA_NO_SUCH_SECRET'\n",
            "secret MIRA_NO_SUCH_SECRET is not there",
            "environment",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_starts(text: str, says: str, hint: str) -> None:
    """With the reason, and with what to do."""
    refused = _refusal(text)
    assert says in str(refused)
    assert hint in refused.hint


def test_one_replica_cannot_serve_two_pools(anchors: str) -> None:
    """Two pools would each believe that they have all of its memory."""
    second = "[[pool]]\ngroup = 'agent/B'\nreplicas = ['http://one:8000/']\ncontext_tokens = 4096\n"
    assert "http://one:8000 is listed twice" in str(_refusal(POOL + second + anchors))


def test_a_group_of_unknown_length_needs_one(anchors: str) -> None:
    """It is never guessed."""
    second = "[[pool]]\ngroup = 'agent/B'\nreplicas = ['http://two']\n"
    refused = _refusal(second + anchors)
    assert "context length of group agent/B is not known" in str(refused)
    assert "context_tokens" in refused.hint


def test_prompt_files_replace_our_text_byte_for_byte(tmp_path: Path) -> None:
    """Line ends too; a template without its place for the record is refused."""
    system, user = tmp_path / "system.txt", tmp_path / "user.txt"
    system.write_bytes(b"Be strict.\r\n")
    user.write_bytes(b"A\r\n{record}\r\nZ")
    prompt = f"[prompt]\nsystem_file = '{system}'\nuser_template_file = '{user}'\n"
    (plan,) = _plans(POOL + prompt)
    assert plan.prompting.template.messages("text") == ("Be strict.\r\n", "A\r\ntext\r\nZ")
    user.write_bytes(b"no place")
    assert "{record}" in str(_refusal(POOL + prompt))


# Secrets.


def test_a_secret_comes_from_a_credential_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's file wins; surrounding white space is not part of it."""
    monkeypatch.setenv("MIRA_TEST_KEY", " from-env\n")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert read_secret("MIRA_TEST_KEY") == "from-env"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("MIRA_TEST_KEY") == "from-env"
    (tmp_path / "MIRA_TEST_KEY").write_text("from-file\n")
    assert read_secret("MIRA_TEST_KEY") == "from-file"
    (plan,) = _plans(POOL + "api_key_env = 'MIRA_TEST_KEY'\n")
    assert plan.api_key == "from-file"


@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_a_missing_or_empty_secret_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Better now than as a 401 at night."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("MIRA_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MIRA_TEST_KEY", value)
    with pytest.raises(Refusal, match="secret MIRA_TEST_KEY is not there") as refused:
        read_secret("MIRA_TEST_KEY")
    assert "LoadCredential=MIRA_TEST_KEY" in refused.value.hint


def test_a_credential_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Binary, or not ours to read: said with its path, never with its content."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "MIRA_TEST_KEY").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(Refusal, match="cannot read the secret MIRA_TEST_KEY"):
        read_secret("MIRA_TEST_KEY")
    if os.geteuid() != 0:
        (tmp_path / "MIRA_TEST_KEY").chmod(0)
        with pytest.raises(Refusal, match="cannot read the secret"):
            read_secret("MIRA_TEST_KEY")
