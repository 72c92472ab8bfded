"""Segments are read by what people read JSONL.zst with: every row, every column, every character."""

import io
import json
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.json
import pytest
import zstandard

from mira_stream.core.outcome import Reason
from mira_stream.core.row import SLOTS, PublishedRow
from mira_stream.sink.format import encode_segment
from tests.fakes.segments import A, plan, row

ROWS = [
    row(A, n, brief=f'行 {n} — «naïve» \U0001f600 \\ " \u2028 \x00', reply=None)
    if n % 3
    else row(A, n, reason=Reason.MALFORMED_REPLY, reply="[A1] " + "é" * 200)
    for n in range(3000)
]
COLUMNS = [field.name for field in msgspec.structs.fields(PublishedRow)]


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published file of 3,000 rows."""
    path = tmp_path_factory.mktemp("sink") / "00000000.jsonl.zst"
    path.write_bytes(encode_segment(plan(ROWS, lines=[(A, len(ROWS))]), level=3))
    return path


def _check(objects: list[dict[str, object]]) -> None:
    assert len(objects) == len(ROWS)
    for got, wanted in zip(objects, ROWS, strict=True):
        assert sorted(got) == sorted(COLUMNS)
        assert (got["ordinal"], got["brief"], got["reply"]) == (wanted.ordinal, wanted.brief, wanted.reply)
        assert (got["outcome"], got["reason"]) == (wanted.outcome, wanted.reason)
        scores = got["scores"]
        assert isinstance(scores, dict)
        assert list(scores) == list(SLOTS)
        assert scores["A1"] == wanted.scores.A1


def test_zstandard_in_one_shot(segment: Path) -> None:
    """One call returns all rows: the frame says its content size, and what follows it is skippable."""
    _check([json.loads(line) for line in zstandard.decompress(segment.read_bytes()).split(b"\n")[:-1]])


def test_zstandard_streaming(segment: Path) -> None:
    """A stream reader returns all rows, with and without reading across frames."""
    for across in (False, True):
        with zstandard.ZstdDecompressor().stream_reader(
            io.BytesIO(segment.read_bytes()), read_across_frames=across
        ) as stream:
            _check([json.loads(line) for line in stream.read().split(b"\n")[:-1]])


def test_zstandard_as_a_text_file(segment: Path) -> None:
    """`zstandard.open` yields the rows line by line."""
    with zstandard.open(segment, "rt", encoding="utf-8", newline="\n") as lines:
        _check([json.loads(line) for line in lines])


def test_readers_of_many_frames(segment: Path) -> None:
    """A reader that goes on over frames, like zstdcat and Python's own zstd, skips the trailer."""
    zstd = pytest.importorskip("backports.zstd")
    _check([json.loads(line) for line in zstd.decompress(segment.read_bytes()).split(b"\n")[:-1]])
    with zstd.open(segment, "rt", encoding="utf-8", newline="\n") as lines:
        _check([json.loads(line) for line in lines])


def test_two_segments_in_one_file_still_read(segment: Path) -> None:
    """`cat a.jsonl.zst b.jsonl.zst` is a valid stream for readers of many frames."""
    zstd = pytest.importorskip("backports.zstd")
    twice = zstd.decompress(segment.read_bytes() * 2)
    assert twice.count(b"\n") == 2 * len(ROWS)


def test_pyarrow(segment: Path) -> None:
    """pyarrow's JSON reader over its own zstd stream."""
    with pa.CompressedInputStream(pa.OSFile(str(segment)), "zstd") as stream:
        table = pyarrow.json.read_json(stream, read_options=pyarrow.json.ReadOptions(block_size=4 << 20))
    _check(table.to_pylist())


def test_polars(segment: Path) -> None:
    """Polars reads the file eagerly from bytes and lazily from a path, typed by its columns."""
    _check(pl.read_ndjson(segment.read_bytes(), infer_schema_length=None).to_dicts())
    _check(pl.scan_ndjson(segment, infer_schema_length=None).collect().to_dicts())


def test_duckdb(segment: Path) -> None:
    """DuckDB reads the file by its name alone, and a glob over the sink."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "select * replace (scored_at::varchar as scored_at) "
            "from read_json(?, format='newline_delimited', sample_size=-1) order by ordinal",
            [str(segment.parent / "*.jsonl.zst")],
        )
        names = [column[0] for column in found.description]
        _check([dict(zip(names, values, strict=True)) for values in found.fetchall()])
        counted = connection.execute(f"select count(*), sum(scores.A1) from '{segment}'").fetchone()
    assert counted == (len(ROWS), 7.5 * sum(1 for r in ROWS if r.reason is None))
