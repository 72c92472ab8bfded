"""Answers that are lost, late, doubled or wrong, between daemon and store and between daemon and replica."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.buckets import Bucket
from tests.e2e.harness import Lab, Row, conversation, replicas
from tests.e2e.proxy import Heard, Trouble, Troubles, proxy
from tests.fakes.s3_server import S3Lake, s3_lake

SOURCES = ("one", "two", "three")
RECORDS = 24
"""Records of each source; two of them are a segment."""
QUICK = {
    "breaker_seconds_min": 0.05,
    "breaker_seconds_max": 0.2,
    "decode_tokens_per_second": 10_000.0,
    "prefill_tokens_per_second": 1_000_000.0,
    "scrape_seconds": 0.05,
    "scrape_seconds_min": 0.02,
    "timeout_seconds_min": 0.5,
}
"""Admission that does not wait for a human's sake."""


def said(code: str) -> bytes:
    """The body of an error as S3 words it."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


LOST = (Trouble("request lost", sends=0, answers=0), Trouble("answer lost", answers=0))
DOUBLED = (Trouble("sent twice", sends=2), Trouble("answered twice", answers=2))
REFUSED = tuple(
    Trouble(f"{status} {'landed' if sends else 'for nothing'}", sends=sends, status=status, body=said(code))
    for status, code in (
        (409, "ConditionalRequestConflict"),
        (412, "PreconditionFailed"),
        (500, "InternalError"),
        (503, "SlowDown"),
    )
    for sends in (0, 1)
)
STALLED = (
    Trouble("stalled", sends=0, answers=0, stalls=True),
    Trouble("stalled, landed", answers=0, stalls=True),
)
LATE = Trouble("late", late_seconds=1.5)
"""Answered after the client has given up."""
WRITES = (*LOST, *DOUBLED, *REFUSED, *STALLED, LATE)
READS = (
    *LOST,
    Trouble("answered twice", answers=2),
    Trouble("cut", cut=True),
    Trouble("500", sends=0, status=500, body=said("InternalError")),
    Trouble("503", sends=0, status=503, body=said("SlowDown")),
    Trouble("stalled", sends=0, answers=0, stalls=True),
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Lake]:
    """One server for all tests; the environment has credentials for it."""
    with s3_lake() as lake:
        yield lake


def is_segments_write(heard: Heard) -> bool:
    return heard.method == "PUT" and "/source=" in heard.path.replace("%3D", "=")


def is_segments_read(heard: Heard) -> bool:
    return heard.method in ("GET", "HEAD") and "/source=" in heard.path.replace("%3D", "=")


def land(lab: Lab) -> None:
    for source in SOURCES:
        lines = (conversation(f"Fix {source} number {number}.") for number in range(RECORDS))
        lab.land(f"{source}/a.jsonl", b"".join(lines))


def through(lab: Bucket, urls: list[str], endpoint: str) -> None:
    """Configure the sink behind a proxy, with little patience for a single call."""
    quick = {"request_timeout_seconds": 1.0, "retry_initial_seconds": 0.01, "retry_max_seconds": 0.05}
    lab.configure_s3(urls, endpoints={"sink": endpoint}, sink={"roll_records": 2, **quick})


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_segments_whose_answers_are_lost_are_there_once(tmp_path: Path, s3: S3Lake) -> None:
    """Writes that land unheard, land twice, are refused after they landed, or stall, and reads that fail as much: each
    record is published once, and the daemon never takes its own segment for a rival's."""
    lab = Bucket(tmp_path, s3)
    land(lab)
    writes, reads = Troubles(WRITES, is_segments_write), Troubles(READS, is_segments_read)

    def trouble(heard: Heard) -> Trouble:
        return writes(heard) if heard.method == "PUT" else reads(heard)

    server = s3.settings.endpoint or ""
    with replicas(count=1) as urls, proxy(server, trouble=trouble) as (endpoint, _):
        through(lab, urls, endpoint)
        run = lab.run_once()
    assert run.code == 0, run.stderr
    assert "rival" not in run.stderr
    assert set(writes.given) == {trouble.name for trouble in WRITES} | {"fine"}
    assert len(reads.given) > 3
    through(lab, urls, server)
    assert len(lab.audited()) == len(SOURCES) * RECORDS
    assert len(list(lab.segments())) == len(SOURCES) * RECORDS // 2


def test_a_start_whose_answers_are_lost(tmp_path: Path, s3: S3Lake) -> None:
    """Of the probe and the layout the first answer is lost each time: the client's second try is refused, rightly, and
    that is no finding against the store."""
    lab = Bucket(tmp_path, s3)
    land(lab)
    lost = Troubles([LOST[1]], lambda heard: heard.method == "PUT")
    with replicas(count=1) as urls, proxy(s3.settings.endpoint or "", trouble=lost) as (endpoint, _):
        through(lab, urls, endpoint)
        rows = lab.scored()
    assert len(rows) == len(SOURCES) * RECORDS
    assert lost.given["answer lost"] > len(rows) // 2


def verdicts(rows: list[Row]) -> dict[tuple[str, int], str]:
    """What each record's row says of it, whatever came between."""
    columns = ("outcome", "scores", "overall", "brief")
    return {(row["source"], row["ordinal"]): json.dumps([row[column] for column in columns]) for row in rows}


REPLIES = (
    *LOST,
    *DOUBLED,
    Trouble("cut", cut=True),
    Trouble("500", status=500),
    Trouble("503", sends=0, status=503),
    Trouble("429", sends=0, status=429),
    Trouble("stalled", answers=0, stalls=True),
    LATE,
)


@pytest.mark.slow
def test_replies_that_are_lost_or_doubled_end_at_their_own_record(tmp_path: Path) -> None:
    """A request may be worked on twice, its reply may come twice, late or not at all: each record ends once, with the
    verdict it has without all that, and no reply is taken for another record's."""
    lab, calm = Lab(tmp_path / "troubled"), Lab(tmp_path / "calm")
    troubles = Troubles(REPLIES, lambda heard: heard.path == "/v1/chat/completions", fine=2)
    for each in (lab, calm):
        land(each)
    with (
        replicas(count=2) as urls,
        proxy(urls[0], trouble=troubles) as (one, _),
        proxy(urls[1], trouble=troubles) as (other, _),
    ):
        calm.configure(urls)
        lab.configure([one, other], admission=QUICK)
        expected = verdicts(calm.scored())
        rows = lab.scored()
    assert verdicts(rows) == expected
    assert len(set(expected.values())) > len(expected) // 2
    assert max(row["attempts"] for row in rows) > 1
    assert set(troubles.given) == {trouble.name for trouble in REPLIES} | {"fine"}


def test_refusals_that_no_vllm_sends_blame_no_record(tmp_path: Path) -> None:
    """A 409 or 412 in a replica's name (a gateway's, say) is our configuration's trouble: the pool stops and says so,
    no record ends by it, and what is left is scored when it is gone."""
    lab = Lab(tmp_path)
    land(lab)
    refused = (Trouble("409", sends=0, status=409), Trouble("412", status=412))
    troubles = Troubles(refused, lambda heard: heard.path == "/v1/chat/completions", once=True)
    with replicas(count=1) as urls, proxy(urls[0], trouble=troubles) as (url, _):
        lab.configure([url], admission=QUICK)
        stopped = lab.run_once()
        assert stopped.code == 1, stopped
        assert "no record is blamed" in stopped.stderr
        while lab.run_once().code == 1:
            assert troubles.given["fine"] < 2 * len(refused)
        assert {row["outcome"] for row in lab.audited()} == {"scored"}
    assert {"409", "412"} <= set(troubles.given)
