"""A daemon whose ledger and sink have seen ten million records: how soon after a restart the first record is sent."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import obstore
from obstore.store import S3Store

from bench.macro.instant_replica import instant_replica
from bench.macro.long_run import Observed, helper, observed
from bench.macro.million_objects import CREDENTIALS, PREFIX, write_config
from mira_stream.core.segment import ObjectLines, ObjectRange, Trailer
from mira_stream.daemon.config import load_config
from mira_stream.daemon.lake import layout_of
from mira_stream.sink.format import segment_key, trailer_frame
from mira_stream.sink.layout import LAYOUT_KEY
from tests.fakes.listing_server import BUCKET, SOURCE, version_of

_PARTITION = f"source={SOURCE}/shard=00"
_ROWS_OF_SEGMENT = 10_000
_LOOK_SECONDS = 0.2
_CASES = {
    "first_dispatch_of_a_new_object_behind_all_seconds": "zz/new.jsonl",
    "first_dispatch_of_a_new_object_before_the_last_seconds": f"{SOURCE}/part-{{number:08d}}.new.jsonl",
    "first_dispatch_of_a_known_object_seconds": f"{SOURCE}/part-{{number:08d}}.new.jsonl",
}
"""In that order: the last one finds what the one before has left unread."""


def measure(*, records: int = 10_000_000, objects: int = 100_000) -> dict[str, object]:
    """Seconds from the start of the process. Without a ledger: until all chains are rebuilt from the sink's trailers
    and everything is listed. With it: until the first record is sent, of an object that is new and the last by its
    name, of one that only a listing of everything finds, at its end, and of one that the ledger knows as unread after a kill."""
    with ExitStack() as stack:
        lab = _Lab(Path(stack.enter_context(tempfile.TemporaryDirectory())), records, objects)
        lab.replica = stack.enter_context(instant_replica())
        lab.write_sink()
        figures: dict[str, object] = {"records": records, "objects": objects}
        with lab.daemon() as daemon:
            _until_listed(daemon)
            figures["rebuilt_and_listed_seconds"] = round(daemon.age, 2)
            _end(daemon)
        figures["ledger_mb"] = round(lab.ledger.stat().st_size / 2**20, 1)
        figures["bare_listing_seconds"] = round(_list_alone(objects), 2)
        for case, key in _CASES.items():
            with lab.daemon(key.format(number=objects - 2)) as daemon:
                figures[case] = round(daemon.until_dispatched(), 2)
                figures[f"rss_mb after {case}"] = round(daemon.rss_mb())
        return figures


class _Lab:
    """The folders of one measurement."""

    def __init__(self, root: Path, records: int, objects: int) -> None:
        self.replica = ""
        self.ledger = root / "ledger" / "ledger.sqlite3"
        self._root = root
        self._records = records
        self._objects = objects

    def write_sink(self) -> None:
        """Segments without their rows: only the names and trailers are read at a start."""
        config = load_config(write_config(self._root, "http://127.0.0.1:1", self.replica))
        layout = self._root / "scores" / LAYOUT_KEY
        layout.parent.mkdir(parents=True)
        layout.write_bytes(msgspec.json.encode(layout_of(config, f"s3://{BUCKET}/{PREFIX.rstrip('/')}")))
        per_object = self._records // self._objects
        per_segment = max(1, _ROWS_OF_SEGMENT // per_object)
        for seq, first in enumerate(range(0, self._objects, per_segment)):
            versions = [version_of(n) for n in range(first, min(self._objects, first + per_segment))]
            trailer = Trailer(
                _PARTITION,
                seq,
                f"{seq:032x}",
                tuple(ObjectRange(uri, etag, 0, ((0, per_object),)) for uri, etag in versions),
                tuple(ObjectLines(uri, etag, per_object) for uri, etag in versions),
            )
            path = self._root / "scores" / segment_key(_PARTITION, seq)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(trailer_frame(trailer))

    @contextmanager
    def daemon(self, *extra: str) -> Iterator[Observed]:
        """One that follows the objects and those named in `extra`, on the ledger that is there."""
        wanted = [part for key in extra for part in ("--extra", key)]
        with helper("tests.fakes.listing_server", "--objects", str(self._objects), *wanted) as endpoint:
            config = write_config(self._root, endpoint, self.replica)
            with observed(config, extra=CREDENTIALS) as daemon:
                yield daemon


def _list_alone(objects: int) -> float:
    """Seconds in which the client of the store lists them and does nothing else: no daemon finds all of them sooner."""
    with helper("tests.fakes.listing_server", "--objects", str(objects)) as endpoint:
        store = S3Store(
            BUCKET,
            config={
                "endpoint": endpoint,
                "region": CREDENTIALS["AWS_REGION"],
                "access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
                "secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            },
            client_options={"allow_http": True},
        )
        began = time.monotonic()
        found = sum(len(page) for page in obstore.list(store, chunk_size=1000))
        assert found == objects, found
        return time.monotonic() - began


def _until_listed(daemon: Observed) -> None:
    while not daemon.status() or not daemon.metric("mira_stream_source_listing_seconds"):
        time.sleep(_LOOK_SECONDS)


def _end(daemon: Observed) -> None:
    daemon.process.terminate()
    daemon.process.wait(60)
