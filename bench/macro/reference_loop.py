"""FROZEN. The least a client can do per record, against which the product is measured. Never changed with the product.

zstd → find newlines → msgspec `Raw` → orjson → aiohttp with ready bytes → regex → zstd; 64 requests at a time, no
ledger, no admission, no retry, no rendering: the record's own JSON is the text that is asked about.

Run as a process of its own: `python -m bench.macro.reference_loop URL MODEL OUT FILE…`; prints one JSON line.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import orjson
import uvloop
import zstandard

CONCURRENCY = 64
_LINE = re.compile(r"^\[(A\d+)\][^\n]*?: (\d+(?:\.\d+)?)/10 — ([^\n]*)$", re.MULTILINE)


class _Record(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()


def lines(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes())
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            yield data[start:end]
            start = end + 1


def body(line: bytes, model: str) -> bytes:
    msgspec.json.decode(line, type=_Record)
    return orjson.dumps(
        {
            "model": model,
            "messages": [
                {"role": "system", "content": "Grade the record."},
                {"role": "user", "content": line.decode("utf-8", "replace")},
            ],
            "temperature": 0.7,
            "top_p": 0.95,
            "max_tokens": 2048,
        }
    )


async def main(url: str, model: str, out: Path, files: list[Path]) -> dict[str, float]:
    source = lines(files)
    rows: list[bytes] = []
    count = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

        async def worker() -> None:
            nonlocal count
            for line in source:
                headers = {"Content-Type": "application/json"}
                async with session.post(
                    f"{url}/v1/chat/completions", data=body(line, model), headers=headers
                ) as response:
                    answer = orjson.loads(await response.read())
                text = answer["choices"][0]["message"]["content"]
                scores = {slot: (float(score), why) for slot, score, why in _LINE.findall(text)}
                rows.append(orjson.dumps({"scores": scores, "reply": text, "usage": answer["usage"]}))
                count += 1

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())
        out.write_bytes(zstandard.ZstdCompressor(level=3).compress(b"\n".join(rows)))
        wall = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"records": count, "cpu_seconds": usage.ru_utime + usage.ru_stime, "wall_seconds": wall}


if __name__ == "__main__":
    uvloop.install()
    result = asyncio.run(
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
    )
    print(json.dumps(result))
