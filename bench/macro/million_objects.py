"""A prefix of a million objects: when the first record is sent, and what memory the listing takes."""

import tempfile
import time
from pathlib import Path
from typing import Any

from bench.macro.instant_replica import instant_replica
from bench.macro.long_run import Observed, helper, observed
from tests.fakes.listing_server import BUCKET, PREFIX

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_REGION": "us-east-1"}
_CONFIG = """\
[source]
uri = "s3://{bucket}/{prefix}"
list_seconds = 3600
[source.store]
endpoint = "{endpoint}"
region = "us-east-1"
allow_http = true
[sink]
uri = "{root}/scores"
[ledger]
path = "{root}/ledger/ledger.sqlite3"
[http]
listen = "127.0.0.1:0"
[[pool]]
group = "agent/A"
sources = ["*"]
replicas = ["{replica}/held/1000000"]
"""
_LOOK_SECONDS = 0.25
_PARTS = 10


def measure(*, objects: int = 1_000_000) -> dict[str, object]:
    """The replica never answers, so that the listing goes on to its end beside full places. Seconds and MB."""
    with (
        tempfile.TemporaryDirectory() as folder,
        instant_replica() as replica,
        helper("tests.fakes.listing_server", "--objects", str(objects)) as endpoint,
    ):
        root = Path(folder)
        config = write_config(root, endpoint, replica)
        with observed(config, extra=CREDENTIALS) as daemon:
            first = daemon.until_dispatched()
            listed_then = daemon.metric("mira_stream_source_objects_discovered_total")
            memory = _listed(daemon, objects)
            figures: dict[str, Any] = {
                "objects": objects,
                "first_dispatch_seconds": round(first, 2),
                "objects_listed_by_then": int(listed_then),
                "listing_seconds": round(daemon.metric("mira_stream_source_listing_seconds"), 1),
                "rss_mb_by_tenths_of_the_listing": memory,
                "ledger_mb": round((root / "ledger" / "ledger.sqlite3").stat().st_size / 2**20),
                "cpu_seconds": round(daemon.cpu_seconds(), 1),
            }
    return figures


def write_config(root: Path, endpoint: str, replica: str) -> Path:
    """The configuration of a daemon that scores the bucket at `endpoint` and never gets an answer."""
    config = root / "mira.toml"
    prefix = PREFIX.rstrip("/")
    text = _CONFIG.format(bucket=BUCKET, prefix=prefix, endpoint=endpoint, root=root, replica=replica)
    config.write_text(text, "utf-8")
    return config


def _listed(daemon: Observed, objects: int) -> list[int]:
    """Resident MB at each tenth of the listing."""
    memory: list[int] = []
    while len(memory) < _PARTS:
        found = daemon.metric("mira_stream_source_objects_discovered_total")
        while len(memory) < _PARTS and found >= objects * (len(memory) + 1) / _PARTS:
            memory.append(round(daemon.rss_mb()))
        time.sleep(_LOOK_SECONDS)
    while not daemon.metric("mira_stream_source_listing_seconds"):
        time.sleep(_LOOK_SECONDS)
    return memory
