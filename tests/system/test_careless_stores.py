"""A store in use that ignores conditions (s3rver): refused at the start, before anything is scored or published."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from mira_stream.core.errors import Refusal
from mira_stream.sink.probe import probe_sink
from mira_stream.source.probe import probe_source
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings
from tests.e2e.harness import NOWHERE, Lab, conversation
from tests.system.node_servers import S3RVER_KEY, environment, s3rver

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": S3RVER_KEY,
    "AWS_SECRET_ACCESS_KEY": S3RVER_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[str]:
    """The address of a server with the bucket `lake` and one object in it; the environment has credentials."""
    with environment(ENVIRONMENT), s3rver(tmp_path / "s3rver", "lake") as address:
        client = boto3.client("s3", endpoint_url=address)
        client.put_object(Bucket="lake", Key="raw/known/a.jsonl", Body=conversation("Fix it."))
        client.close()
        yield address


def reached(address: str) -> dict[str, object]:
    return {"endpoint": address, "region": "us-east-1", "allow_http": True}


@pytest.mark.parametrize(
    ("end", "words"), [("sink", "ignores create-if-absent"), ("source", "ignores If-Match")]
)
def test_it_is_refused_by_both_commands(tmp_path: Path, careless: str, end: str, words: str) -> None:
    """As a sink and as a source, by `run` with what to do, and by `check`."""
    lab = Lab(tmp_path)
    lab.land("known/a.jsonl", conversation("Fix it."))
    prefix = {"sink": "scores", "source": "raw"}[end]
    lab.configure([NOWHERE], **{end: {"uri": f"s3://lake/{prefix}"}, f"{end}.store": reached(careless)})
    run, check = lab.run_once(), lab.command("check")
    assert run.code == 2, run
    assert words in run.stderr
    assert "→" in run.stderr
    assert check.code == 1
    assert words in check.stdout
    assert list(lab.segments()) == []


def test_its_probes_say_why(careless: str) -> None:
    """Both probes, asked directly: the finding and the advice are those of the start."""
    settings = StoreSettings(endpoint=careless, region="us-east-1", allow_http=True)
    with pytest.raises(Refusal, match="ignores create-if-absent") as refusal:
        asyncio.run(probe_sink(open_store("s3://lake/scores", settings), "one"))
    assert "exactly-once needs it" in refusal.value.hint
    with pytest.raises(Refusal, match="ignores If-Match"):
        asyncio.run(probe_source(open_store("s3://lake/raw", settings)))
