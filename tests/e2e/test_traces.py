"""The main job on real input: every record of the real traces, through two replicas, while it is watched."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from mira_stream.telemetry.registry import REGISTRY
from tests.e2e.daemon import Daemon, Scrape, running, scrape
from tests.e2e.harness import Lab, Row, replicas

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
SHAPES = {
    "claude_cli": "claude_code",
    "gemini_cli": "gemini_cli",
    "inspect_ai": "inspect",
    "pi_cli": "pi",
    "reason_tool_use": "content_blocks",
    "sharegpt_toolcall": "sharegpt",
    "swe_agent": "swe_agent",
    "taubench": "openai_messages",
    "toolbench": "toolbench",
}
"""The shape of each source; all others, `nemo_gym_*`, hold rollouts of the Responses API."""
SCRAPE_SECONDS = 0.05
CONTEXT_TOKENS, REPLY_TOKENS = 65_536, 2_048
NOT_HERE = {
    "mira_stream_config_reloads_total",
    "mira_stream_pool_reasks_total",
    "mira_stream_pool_miscounted_records_total",
    "mira_stream_pool_retries_total",
    "mira_stream_pool_wasted_tokens_total",
    "mira_stream_prepare_unknown_shape_records_total",
    "mira_stream_replica_faults_total",
}
"""Labelled counters of what does not happen in a run without trouble."""

pytestmark = pytest.mark.skipif(
    not TRACES.is_dir(), reason=f"REAL TRACES ARE ABSENT ({TRACES}): nothing real was scored end to end"
)


class Told(NamedTuple):
    """What is known after the run: how it ended, its rows as `verify` confirmed them, all scrapes meanwhile."""

    code: int
    events: list[Row]
    rows: list[Row]
    scrapes: list[Scrape]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One `run --once` over all traces where they are, scraped from its start to its end."""
    lab = Lab(tmp_path_factory.mktemp("traces"))
    with replicas() as urls:
        lab.configure(urls, source={"uri": str(TRACES)}, log={"level": "info"})
        with running(lab, "--once") as daemon:
            scrapes = list(scraped(daemon))
            code = daemon.wait()
            return Told(code, daemon.events(), lab.audited(), scrapes)


def scraped(daemon: Daemon) -> Iterator[Scrape]:
    """Scrapes as long as the daemon answers."""
    while not daemon.ended:
        try:
            yield scrape(daemon)
        except OSError:
            return
        time.sleep(SCRAPE_SECONDS)  # the pace of a scraper; nothing waits for it


def lines() -> dict[tuple[str, int], int]:
    """All records that there are: (object, ordinal) → bytes, as the corpus' own list says."""
    rows = [row.split("\t") for row in (TRACES / "MANIFEST.tsv").read_text("utf-8").splitlines()[1:]]
    return {(row[0], int(row[1]) - 1): int(row[2]) for row in rows}


def place(row: Row) -> tuple[str, int]:
    """Where a row's record is in the corpus."""
    return "/".join(Path(row["object"]).parts[-2:]), row["ordinal"]


def test_every_real_trace_is_scored_once(told: Told) -> None:
    """`run --once` exits 0, and the sink holds each record of the corpus, scored, once, and nothing else."""
    assert told.code == 0
    assert Counter(map(place, told.rows)) == Counter(dict.fromkeys(lines(), 1))
    assert len({(row["record_id"], row["generation"]) for row in told.rows}) == len(told.rows)
    assert {(row["outcome"], row["generation"]) for row in told.rows} == {("scored", 0)}


def test_the_daemon_counts_what_the_sink_holds(told: Told) -> None:
    """Its last words are the identity, and its outcomes are those of the rows."""
    last = told.events[-1]
    assert last["event"] == "ended"
    ends = Counter(row["outcome"] for row in told.rows)
    kinds = ("scored", "dead_lettered", "skipped")
    assert last["read"] == sum(last[kind] for kind in kinds) == len(told.rows)
    assert [last[kind] for kind in kinds] == [ends[kind] for kind in kinds]
    assert last["in_pipeline"] == 0


def test_every_real_trace_has_its_source_and_shape(told: Told) -> None:
    """The source is the first folder of the key; the shape is known; all shapes of the corpus occur."""
    found = {(row["source"], row["shape"]) for row in told.rows}
    folders = {name.split("/")[0] for name, _ in lines()}
    assert found == {(folder, SHAPES.get(folder, "responses")) for folder in folders}


def test_only_long_traces_are_cut(told: Told) -> None:
    """What fits is sent whole, what does not is cut to fit, and no real trace holds a special token."""
    sizes = lines()
    cut = [row for row in told.rows if row["truncated_tokens"]]
    assert len(told.rows) / 100 < len(cut) < len(told.rows) / 10
    assert min(sizes[place(row)] for row in cut) > CONTEXT_TOKENS
    assert all(row["truncated_tokens"] < sizes[place(row)] for row in cut)
    assert all(row["prompt_tokens"] + REPLY_TOKENS <= CONTEXT_TOKENS for row in told.rows)
    assert {row["neutralised_tokens"] for row in told.rows} == {0}


def test_both_replicas_work(told: Told) -> None:
    """Neither of two equal replicas has less than a third of the records."""
    shares = Counter(row["replica"] for row in told.rows)
    assert len(shares) == 2
    assert min(shares.values()) > len(told.rows) / 3


def test_the_identity_holds_in_every_scrape(told: Told) -> None:
    """In each snapshot read = ended + in the pipeline, to the record; and what is counted never falls."""
    assert len(told.scrapes) > 10
    assert len({one.read for one in told.scrapes}) > 3
    assert [(one.read, one.accounted) for one in told.scrapes if one.read != one.accounted] == []
    assert all(before.read <= after.read for before, after in pairwise(told.scrapes))


def test_every_declared_metric_is_served_and_no_other(told: Told) -> None:
    """The names in `/metrics` are those of the registry, and in a run without trouble all but trouble has a value."""
    served = {name: samples for name, samples in told.scrapes[-1].samples.items() if "mira_stream" in name}
    assert set(served) == set(REGISTRY)
    assert {name for name, samples in served.items() if not samples} == NOT_HERE
