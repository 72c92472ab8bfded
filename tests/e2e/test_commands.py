"""The other commands, as scripts and people call them: what they print, and how they exit."""

import gzip
import json
import re
from importlib import resources
from pathlib import Path

import pytest

from tests.e2e.harness import NOWHERE, Ended, Lab, Row, cli, conversation, replicas

TASK = "Sort the imports of the parser."


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lake of one object, whose second line says nothing."""
    lab = Lab(tmp_path)
    lines = conversation(TASK) + b'{"messages": []}\n' + conversation("Last.")
    lab.land("known/a.jsonl.gz", gzip.compress(lines))
    lab.configure([NOWHERE])
    return lab


def assert_refused(ended: Ended, *words: str) -> None:
    """Exit 2, all of `words` on stderr, nothing on stdout, no traceback."""
    assert ended.code == 2, ended
    assert ended.stdout == ""
    assert [word for word in words if word not in ended.stderr] == [], ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--help", ("run", "check", "render", "verify", "sim", "demo", "anchors")),
        ("sim --help", ("--port", "--time-scale", "--damage-share", "--fault", "--set")),
        ("--version", ("mira-stream",)),
    ],
)
def test_help_goes_to_stdout(command: str, words: tuple[str, ...]) -> None:
    """Asked-for help is data: on stdout, with exit 0."""
    ended = cli(*command.split())
    assert (ended.code, ended.stderr) == (0, "")
    assert [word for word in words if word not in ended.stdout] == []


def test_misuse_is_refused(lab: Lab) -> None:
    """A command line that cannot be understood, and a file that is not there, exit 2 and say why."""
    assert_refused(cli("run"), "--config")
    assert_refused(cli("run", "--config", str(lab.folder / "none.toml")), "none.toml", "--config")
    assert_refused(cli("sim", "--fault", "nonsense@1"), "there is no fault 'nonsense'", "500@10-12")


def test_render_shows_one_record(lab: Lab) -> None:
    """As text: both messages with the record in them, and a line about it on stderr; as JSON: the body."""
    file = str(lab.lake / "known" / "a.jsonl.gz")
    shown, body = cli("render", file), cli("render", file, "-n", "2", "--config", str(lab.config), "--json")
    assert (shown.code, body.code) == (0, 0)
    assert re.findall(r"^──── (\w+) ────$", shown.stdout, re.MULTILINE) == ["system", "user"]
    assert f"=== user ===\n{TASK}\n" in shown.stdout
    assert re.search(r"shape openai_messages · about \d+ prompt tokens .* truncated 0", shown.stderr)
    request = json.loads(body.stdout)
    assert request["model"] == "whw06/MIRA-Agent-Group1"
    assert request["max_tokens"] == 2048
    assert "Last." in request["messages"][1]["content"]


def test_render_says_why_there_is_nothing_to_show(lab: Lab) -> None:
    """A record that would not be sent is refused with its reason, a line that is not there with how many there are."""
    file = str(lab.lake / "known" / "a.jsonl.gz")
    assert_refused(cli("render", file, "--ordinal", "1"), "not sent: no_text")
    assert_refused(cli("render", file, "--ordinal", "9"), "has 3 lines, none with the ordinal 9")


def test_check_offline_needs_no_replica(lab: Lab) -> None:
    """While replicas load, config, rubric and ledger can be checked; nothing is written to lake or sink."""
    ended = lab.command("check", "--offline")
    assert ended.code == 0, ended
    assert ended.stdout.splitlines()[-1] == "all is well"
    assert "uncalibrated" in ended.stdout
    assert NOWHERE not in ended.stdout
    assert not lab.scores.exists()


def test_check_for_scripts(lab: Lab) -> None:
    """`--json` gives each finding; exit 1 and a hint where a replica is not there, exit 0 once it is."""
    ended = lab.command("check", "--json")
    assert ended.code == 1, ended
    findings: list[Row] = json.loads(ended.stdout)["findings"]
    failed = [finding for finding in findings if finding["verdict"] == "failed"]
    assert [finding["what"] for finding in failed] == [f"replica {NOWHERE}"]
    assert failed[0]["hint"]
    with replicas() as urls:
        lab.configure(urls)
        ended = lab.command("check", "--json")
    assert ended.code == 0, ended
    verdicts = {finding["what"]: finding["verdict"] for finding in json.loads(ended.stdout)["findings"]}
    assert {verdicts[f"replica {url}"] for url in urls} == {"ok"}
    assert verdicts["stores"] == verdicts["ledger"] == verdicts["rubric of agent/A"] == "ok"


def test_anchors_of_another_layout_are_taken_over(lab: Lab) -> None:
    """Our own rubric, told in another layout and imported, is the same rubric; what is there is not overwritten."""
    ours = resources.files("mira_stream.anchor_data").joinpath("agent", "group_A_dim_anchors.jsonl")
    theirs = [
        {
            "id": anchor["slot"],
            "dimension": {"title": anchor["name"], "n": anchor["cluster_size"]},
            "about": anchor["description"],
            "examples": [{"mark": one["score"], "why": one["text"]} for one in anchor["references"]],
        }
        for anchor in map(json.loads, ours.read_text("utf-8").splitlines())
    ]
    file, out = lab.folder / "theirs.json", lab.folder / "imported"
    file.write_text(json.dumps(theirs), "utf-8")
    pairs = ["slot=id", "name=dimension.title", "cluster_size=dimension.n", "description=about"]
    pairs += ["references=examples", "references.score=mark", "references.text=why"]
    command = ("anchors", "import", str(file), "--group", "agent/A", "--out", str(out))
    maps = tuple(part for pair in pairs for part in ("--map", pair))
    ended = cli(*command, *maps)
    assert ended.code == 0, ended
    fingerprint = re.search(r"15 slots, fingerprint ([0-9a-f]{32})", ended.stdout)
    assert fingerprint
    before = lab.command("check", "--offline").stdout
    lab.configure([NOWHERE], anchors={"path": str(out)})
    assert lab.command("check", "--offline").stdout == before
    assert fingerprint.group(1) in before
    assert_refused(cli(*command, *maps), "exists already")


def test_verify_tells_what_is_pending_and_what_is_wrong(lab: Lab) -> None:
    """Rows to come are no error unless it is strict; a segment under a wrong name, or gone, always is."""
    pending = lab.command("verify")
    assert (pending.code, pending.stdout.splitlines()[-1].partition(";")[2]) == (0, " 3 pending")
    with replicas(count=1) as urls:
        lab.configure(urls, sink={"roll_records": 1})
        assert lab.run_once().code == 0
    assert lab.command("verify", "--strict", "--ledger").code == 0
    first, second, third = (lab.scores / name for name, _ in lab.segments())
    twin = third.with_name("00000003.jsonl.zst")
    twin.write_bytes(third.read_bytes())
    wrong = lab.command("verify")
    assert (wrong.code, wrong.stdout.splitlines()[-1]) == (1, "FAILED   corrupt 1")
    twin.unlink()
    second.unlink()
    assert json.loads(lab.command("verify", "--json").stdout)["found"] == {"gap": 1, "lost": 1}
    first.unlink()
    third.unlink()
    assert lab.command("verify").code == 0, (
        "without the ledger nothing tells a chain that is gone from one to come"
    )
    gone = lab.command("verify", "--ledger")
    assert gone.code == 1
    assert "gap" in gone.stdout


def test_verify_of_a_part_and_in_parts(lab: Lab) -> None:
    """One partition alone; a state that is of something else is refused, and a finished audit leaves none."""
    with replicas(count=1) as urls:
        lab.land("more/b.jsonl", conversation("One more."))
        lab.configure(urls)
        assert lab.run_once().code == 0
    part = lab.command("verify", "--strict", "--json", "--partition", "source=more/shard=00")
    assert part.code == 0, part
    found: Row = json.loads(part.stdout)
    assert (found["partitions"], found["rows"], found["source_lines"]) == (1, 1, 1)
    assert_refused(
        lab.command("verify", "--partition", "source=none/shard=00"), "no partition", "source=more"
    )
    state = lab.folder / "audit.state"
    assert lab.command("verify", "--strict", "--state", str(state)).code == 0
    assert not state.exists()
    state.write_bytes(b"something else")
    assert_refused(lab.command("verify", "--state", str(state)), "cannot be understood", "remove it")
    lab.configure([NOWHERE], source={"name_from": "field:origin"})
    assert_refused(
        lab.command("verify", "--partition", "source=more/shard=00"), "name their source themselves"
    )
