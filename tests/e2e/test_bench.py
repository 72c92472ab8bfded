"""`mira-stream bench` as people call it: against simulated replicas, with a corpus of their own, and refused."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from random import Random

import pytest

from mira_stream.audit.bench.report import PLOT_FILE, REPORT_FILE
from mira_stream.audit.bench.sample import SampleLimits
from mira_stream.cli_bench import BenchRequest, run_bench
from mira_stream.cli_corpus import Corpus, config_for, pool_of
from mira_stream.core.errors import Refusal
from tests.e2e.harness import CLI, NOWHERE, cli, conversation, environment, started

CAPACITY = 131_072
# A small cache, filled by few requests, and no shared prefix in it: what it holds is then known.
SMALL = ("--set", f"kv_capacity_tokens={CAPACITY}", "--set", "prefix_cache=off")
QUICK = ("--time-scale", "0.01", "--seconds", "60", *SMALL)


def corpus(folder: Path, words: int = 6_000) -> Path:
    """Records of different lengths."""
    file = folder / "records.jsonl"
    sizes = [words // 4, words // 2, words, words * 3 // 2]
    file.write_bytes(b"".join(conversation("lorem ipsum " * size) for size in sizes * 4))
    return file


@pytest.mark.slow
def test_the_knee_and_the_capacity_of_simulated_replicas_are_found(tmp_path: Path) -> None:
    """The KV capacity within 5 %, the knee where the cache is full, our own admission there with a thin queue, every
    request answered; report and plot in a folder."""
    out = tmp_path / "out"
    ended = cli(
        "bench", "--sim", "1", *QUICK, "--concurrency", "1,4,8,16", "--corpus", str(corpus(tmp_path)), "--records",
        "1000", "--out", str(out), "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    report = json.loads(ended.stdout)
    verdict, measured = report["verdict"], report["measured"]
    assert verdict["capacity_tokens"] == pytest.approx(CAPACITY, rel=0.05)
    assert verdict["engine_tokens"] == CAPACITY
    assert verdict["knee"]["concurrency"] in (4, 8, 16)
    assert verdict["limited_by"].startswith("KV cache")
    # At 100 times real time each look and each millisecond of the network count 100-fold: not its best.
    assert verdict["own_share"] > 0.6
    assert measured["own"]["waiting"] < measured["sweep"][-1]["waiting"]
    assert measured["mix"]["prefill_tokens_per_second"] == pytest.approx(25_000, rel=0.3)
    assert measured["failures"] == []
    assert report["effort"]["gpu_hours"] > 0
    assert json.loads((out / REPORT_FILE).read_text("utf-8")) == report
    assert (out / PLOT_FILE).read_text("utf-8").startswith("<?xml")


def test_people_get_a_table_a_chart_and_settings(tmp_path: Path) -> None:
    """Against a live replica, without --json: what is sent and how long it takes on stderr, the findings on stdout;
    requests that failed are counted by reason, and make it exit 1."""
    sim = ("sim", "--port", "0", "--time-scale", "0.01", "--fault", "500@20-22")
    with started(*sim, stream="stdout") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        ended = cli(
            "bench", "--replica", url, "--time-scale", "0.01", "--seconds", "20", "--concurrency", "2,4", "--corpus",
            str(corpus(tmp_path, 500)), "--target", "3",
        )  # fmt: skip
    assert ended.code == 1
    said = ("about", "ctrl-C", "records")
    shown = ("knee ▸", "mira-stream ▸", "Goodput", "kv_tokens", "requests_max", "prefill", "target", "reach")
    assert [word for word in said if word not in ended.stderr] == [], ended.stderr
    assert [word for word in shown if word not in ended.stdout] == [], ended.stdout
    assert "failed: 3 × server (500)" in ended.stdout


def refused(*arguments: str) -> str:
    """What a refused bench says; nothing goes to stdout."""
    ended = cli("bench", *arguments)
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_an_absent_replica_is_refused() -> None:
    """Exit 2, and what to do."""
    assert "is it up" in refused("--replica", NOWHERE)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (BenchRequest(), "--sim 1"),
        (BenchRequest(sim=1, replicas=(NOWHERE,)), "leave out --replica"),
        (BenchRequest(sim_settings=("seed=1",), replicas=(NOWHERE,)), "add --sim 1"),
        (BenchRequest(config=Path("x.toml"), replicas=(NOWHERE,)), "leave out --replica"),
        (BenchRequest(replicas=(NOWHERE,), concurrency="many"), "1,2,4,8"),
        (BenchRequest(replicas=(NOWHERE,), group="agent/none"), "groups.toml"),
    ],
)
def test_contradictions_are_refused(request_: BenchRequest, word: str) -> None:
    """What cannot be meant is refused before anything is started, with what to do."""
    with pytest.raises(Refusal) as refusal:
        asyncio.run(run_bench(request_))
    assert word in refusal.value.hint


def test_a_corpus_without_records_is_refused(tmp_path: Path) -> None:
    """Nothing there, nothing that is read, nothing that can be sent: what was found, and no traceback."""
    file = tmp_path / "empty.jsonl"
    file.write_bytes(b'{"messages": []}\n')
    (tmp_path / "folder").mkdir()
    config = config_for(None, group=None)
    plan = pool_of(config, None)
    for uri, word in (("none", "no corpus"), ("empty.jsonl", "no record to send"), ("folder", "no object")):
        corpus = Corpus(config=config, plan=plan, uri=str(tmp_path / uri))
        with pytest.raises(Refusal, match=word):
            corpus.bodies(asyncio.run(corpus.sample(SampleLimits(), Random(1), lambda _: None)), Random(1))


def test_a_replica_of_another_model_is_refused() -> None:
    """The model that it serves is named, and how to say that it is right."""
    with started("sim", "--port", "0", "--model", "another", stream="stdout") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        said = refused("--replica", url)
    assert "serves another" in said
    assert "--model" in said


def test_an_interrupt_ends_it_with_the_points_so_far(tmp_path: Path) -> None:
    """The first ctrl-C: the report with what was measured, exit 1."""
    command = (*CLI, "bench", "--sim", "1", *QUICK, "--corpus", str(corpus(tmp_path, 500)), "--json")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as bench:
        assert bench.stderr is not None
        assert bench.stdout is not None
        for line in bench.stderr:
            if "in flight per replica:" in line:
                break
        bench.send_signal(signal.SIGINT)
        report = json.loads(bench.stdout.read())
    assert bench.returncode == 1
    assert report["measured"]["interrupted"]
    assert report["measured"]["own"] is None
    assert report["measured"]["sweep"]
