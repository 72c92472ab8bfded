"""`mira-stream plan` as people call it: a corpus of known size, its tables and files, the same twice, and refused."""

import json
import signal
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from mira_stream import cli_plan
from mira_stream.audit.plan.report import PLOT_FILE, REPORT_FILE, UNKNOWN
from mira_stream.cli import app
from tests.e2e.harness import cli, conversation

QUICK = (
    "--layout", "2xtp1", "--context", "16384", "--batched-tokens", "131072",
    "--set", "kv_tokens=150000", "--set", "modelled_replicas=1", "--set", "output_tokens=100",
    "--set", "prefill_tokens_per_second=20000", "--set", "memory_bandwidth_gb=3000",
)  # fmt: skip


def lake(folder: Path) -> Path:
    """40 records in four objects of two sources, one line that is none, and one record over a context of 16,384."""
    for number in range(4):
        path = folder / ("claude_cli" if number % 2 else "agent_codex") / f"{number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [conversation(f"{number} {at}", "word " * (500 + 200 * at)) for at in range(10)]
        if number == 3:
            lines[0] = conversation("long", "word " * 40_000)
            lines.append(b"{not json\n")
        path.write_bytes(b"".join(lines))
    return folder


def test_a_plan_for_scripts_and_in_files(tmp_path: Path) -> None:
    """All of a small corpus is counted, exactly; the same command says the same; files hold what stdout has."""
    arguments = ("plan", "--corpus", str(lake(tmp_path / "lake")), *QUICK, "--json")
    out = tmp_path / "out"
    ended = cli(*arguments, "--out", str(out))
    assert ended.code == 0, ended.stderr
    plan = json.loads(ended.stdout)
    corpus = plan["corpus"]
    assert corpus["exact"]
    assert corpus["records"] == {"value": 40.0, "low": 40.0, "high": 40.0}
    assert corpus["lines"]["value"] == 41
    assert [round(41 * share) for share in corpus["unscorable"].values()] == [1]
    assert corpus["over"][0]["share"]["value"] == pytest.approx(1 / 40)
    assert {one["source"] for one in corpus["sources"]} == {"agent_codex", "claude_cli"}
    assert plan["outcomes"][0]["gpu_hours"]["value"] > 0
    assert plan["unknown"] == list(UNKNOWN)
    origins = {one["name"]: one["origin"] for one in plan["assumptions"]}
    assert (origins["kv_tokens"], origins["weights_gb"]) == ("given", "card")
    assert json.loads((out / REPORT_FILE).read_text("utf-8")) == plan
    assert (out / PLOT_FILE).read_text("utf-8").startswith("<?xml")
    assert cli(*arguments).stdout == ended.stdout


def test_a_sample_says_how_sure_it_is(tmp_path: Path) -> None:
    """Of two of four objects and 20 lines: an interval, a warning, tables, a chart, what is not known."""
    ended = cli("plan", "--corpus", str(lake(tmp_path)), *QUICK, "--objects", "2", "--records", "20")
    assert ended.code == 0, ended.stderr
    shown = (
        "objects by chance",
        "only 20 records",
        "best ▸",
        "Records up to a length",
        "kv_tokens",
        "GPU-hours",
    )
    assert [word for word in (*shown, *UNKNOWN) if word not in ended.stdout] == [], ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("no corpus", "--corpus")),
        (("--corpus", "none"), ("no corpus none", "JSONL")),
        (("--corpus", "EMPTY"), ("no object", ".jsonl")),
        (("--corpus", "BAD"), ("no record that can be scored: 1", "render")),
        (("--corpus", "BAD", "--layout", "8"), ("not a layout", "8xtp1")),
        (("--corpus", "BAD", "--gpu", "b300"), ("no GPU", "h200")),
        (("--corpus", "BAD", "--set", "speed=1"), ("no assumption speed", "weights_gb")),
        (("--corpus", "BAD", "--context", "2048"), ("no room", "at least")),
        (("--corpus", "BAD", "--batched-tokens", "1"), ("no batch limit", "131072")),
        (("--corpus", "BAD", "--group", "agent/none"), ("agent/none", "groups.toml")),
    ],
)
def test_what_cannot_be_planned_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, str]
) -> None:
    """Exit 2, what is wrong and what to do, nothing on stdout."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n', "utf-8")
    places = {"EMPTY": str(tmp_path / "empty"), "BAD": str(tmp_path / "bad.jsonl")}
    ended = cli("plan", *(places.get(word, word) for word in arguments))
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert "Traceback" not in ended.stderr
    assert [word for word in words if word not in ended.stderr] == [], ended.stderr


def test_layouts_that_do_not_fit_are_refused_or_noted(tmp_path: Path) -> None:
    """On GPUs of 80 GB the weights leave nothing for TP1: refused if that is all there is."""
    corpus = str(lake(tmp_path))
    ended = cli("plan", "--corpus", corpus, "--gpu", "h100", "--layout", "8xtp1")
    assert (ended.code, ended.stdout) == (2, "")
    assert "GB are left for KV" in ended.stderr


def test_a_first_interrupt_ends_the_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ctrl-C while the model is played ends the command: it is not kept for when an event loop has time."""

    def interrupted(*_: object, **__: object) -> NoReturn:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the play goes on after an interrupt")

    monkeypatch.setattr(cli_plan, "play_all", interrupted)
    ended = CliRunner().invoke(app, ["plan", "--corpus", str(lake(tmp_path)), *QUICK])
    assert ended.exit_code == 130
