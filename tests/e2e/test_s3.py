"""The same job on an S3 server, source and sink: nothing is lost, and a store that breaks its word is refused."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.e2e.buckets import Bucket
from tests.e2e.daemon import running
from tests.e2e.harness import NOWHERE, Row, cli, conversation, replicas
from tests.e2e.overwriting import EAGER, assert_overwritten, big
from tests.e2e.proxy import proxy
from tests.e2e.simulators import Simulator
from tests.fakes.s3_server import S3Lake, s3_lake


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Lake]:
    """One server for all tests; the environment has credentials for it."""
    with s3_lake() as lake:
        yield lake


@pytest.fixture
def bucket(tmp_path: Path, s3: S3Lake) -> Bucket:
    """A new bucket."""
    return Bucket(tmp_path, s3)


def records(name: str, count: int) -> bytes:
    """Lines that can be scored."""
    return b"".join(conversation(f"Fix {name} number {number}.") for number in range(count))


def ends(rows: list[Row]) -> Counter[str]:
    """How many records ended how."""
    return Counter(row["reason"] or row["outcome"] for row in rows)


def test_a_bucket_is_scored_and_audited(bucket: Bucket) -> None:
    """Plain, zstd and gzip objects, one of them torn, and odd keys, from one prefix into another; once."""
    zst, gz = zstandard.compress(records("zst", 5)), gzip.compress(records("gz", 5))
    bucket.land("plain/a.jsonl", records("plain", 5))
    bucket.land("plain/ö = %41+&?.jsonl.zst", zst)
    bucket.land("packed/a.jsonl.gz", gz)
    bucket.land("packed/torn.jsonl.zst", zst + zst[:-3])
    bucket.land("packed/README.md", b"not an object\n")
    with replicas(count=1) as urls:
        bucket.configure_s3(urls)
        rows = bucket.scored()
        assert ends(rows) == {"scored": 20, "truncated": 1}
        assert bucket.scored() == rows


def test_following_a_bucket(bucket: Bucket) -> None:
    """Objects that land while the daemon runs, in any order of keys, are scored; the second start does nothing again."""
    with Simulator(bucket.folder / "requests.log").start() as sim:
        bucket.configure_s3(
            [sim.url], source={"full_list_seconds": 0.3}, sink={"roll_seconds": 0.1}, log={"level": "info"}
        )
        with running(bucket) as daemon:
            daemon.until(lambda status: status["state"] == "running", "it runs")
            for count, key in enumerate(("m/m.jsonl", "z/z.jsonl", "a/a.jsonl"), 1):
                bucket.land(key, records(key, 2))
                daemon.until_scored(2 * count)
            assert daemon.terminate() == 0
        bucket.land("b/b.jsonl", records("b", 2))
        rows = bucket.scored()
        assert ends(rows) == {"scored": 8}
        assert len(sim.requests()) == 8


def test_an_object_overwritten_while_it_is_read(bucket: Bucket) -> None:
    """What was read of the first version is scored, a dead letter says where it ended, the second is refused in a row."""
    bucket.land("known/big.jsonl", big("first"))
    bucket.land("known/other.jsonl", records("other", 3))
    with Simulator(bucket.folder / "requests.log") as sim:
        bucket.configure_s3([sim.future_url], admission=EAGER, log={"level": "info"})
        with running(bucket, "--once") as daemon:
            daemon.until_read_ahead_is_full()
            bucket.land("known/big.jsonl", big("second"))
            sim.start()
            assert daemon.wait() == 0
        assert_overwritten(bucket, "known/big.jsonl", others=3)


@pytest.mark.parametrize(
    ("end", "header", "words"),
    [
        ("sink", "If-None-Match", ("ignores create-if-absent", "→ exactly-once needs it")),
        (
            "source",
            "If-Match",
            ("ignores If-Match", "→ an object overwritten while it is read would be mixed"),
        ),
    ],
)
def test_a_store_that_ignores_conditions(
    bucket: Bucket, end: str, header: str, words: tuple[str, str]
) -> None:
    """A store that would replace a segment, or mix two versions of an object, is refused before anything is scored."""
    bucket.land("known/a.jsonl", records("a", 3))
    with proxy(bucket.s3.settings.endpoint or "", leave_out=[header]) as (endpoint, _):
        bucket.configure_s3([NOWHERE], endpoints={end: endpoint})
        run, check = bucket.run_once(), bucket.command("check")
    assert run.code == 2, run
    assert [word for word in words if word not in run.stderr] == [], run.stderr
    assert check.code == 1, check
    assert re.search(rf"^failed +stores: .*{words[0]}", check.stdout, re.MULTILINE), check.stdout
    assert bucket.rows() == []


def test_dead_letters_of_a_bucket_are_replayed(bucket: Bucket) -> None:
    """Each under `If-Match`: those of an object that was overwritten, or is gone, are refused; the others end anew."""
    for name in ("keeps", "changes", "goes"):
        bucket.land(f"{name}/a.jsonl", records(name, 2))
    known = ({"sources": ["nothing"]},)
    with replicas(count=1) as urls:
        bucket.configure_s3(urls, pools=known)
        assert ends(bucket.scored()) == {"no_pool": 6}
        bucket.configure_s3(urls)
        bucket.land("changes/a.jsonl", records("changed", 3))
        bucket.s3.client.delete_object(Bucket=bucket.name, Key="raw/goes/a.jsonl")
        asked = cli("dead-letters", "replay", "--all", "--json", "--config", str(bucket.config))
        assert asked.code == 1, asked
        found: Row = json.loads(asked.stdout)
        assert (found["records"], found["refused"]) == (2, {"gone": 2, "overwritten": 2})
        assert bucket.run_once().code == 0
        assert bucket.run_once().code == 0
    rows = bucket.rows()
    assert ends([row for row in rows if row["generation"] == 1]) == {"scored": 2}
    assert Counter(row["record_id"] for row in rows).most_common()[2][1] == 1
    assert bucket.audit()["replayed_rows"] == 2
