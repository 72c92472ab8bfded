"""What is scored in the benchmarks: real traces where they are at hand, else the demo's."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import zstandard

from mira_stream.demo.lake import lake_objects

REAL = Path(__file__).parents[2] / "shared" / "data" / "traces"


def records() -> list[bytes]:
    """All records, one JSON object each."""
    if REAL.is_dir():
        return list(_real())
    print("REAL TRACES ARE ABSENT: the demo's records are measured instead", file=sys.stderr)
    return list(_generated())


def write_lake(folder: Path, lines: list[bytes], *, copies: int, objects: int) -> int:
    """Write `copies` of all lines over `objects` zstd files of one source; the number of records."""
    target = folder / "claude_cli"
    target.mkdir(parents=True)
    every = [line for _ in range(copies) for line in lines]
    for number in range(objects):
        part = every[number::objects]
        data = b"".join(line + b"\n" for line in part)
        path = target / f"part-{number:05d}.jsonl.zst"
        path.write_bytes(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data))
    return len(every)


def long_record(size: int) -> bytes:
    """One record of about `size` bytes: a session with many turns of tool output."""
    turns: list[dict[str, object]] = [{"role": "user", "content": "Find out why the build is slow."}]
    text = "".join(f"{n:06d} compile src/module_{n % 97}.c -O2 took {n % 13}.{n % 7} s\n" for n in range(40))
    while sum(len(str(turn["content"])) for turn in turns) < size:
        turns.append({"role": "assistant", "content": "Let me look at the next part of the log."})
        turns.append({"role": "tool", "content": text})
    return json.dumps({"messages": turns}).encode()


def _real() -> Iterator[bytes]:
    for file in sorted(REAL.rglob("*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes())
        yield from (line for line in data.split(b"\n") if line.strip())


def _generated() -> Iterator[bytes]:
    for batch in lake_objects(rounds=4, records=50):
        for item in batch:
            if item.key.endswith(".zst") and "batch" in item.key:
                data = zstandard.ZstdDecompressor().decompressobj().decompress(item.data)
                yield from data.splitlines()
