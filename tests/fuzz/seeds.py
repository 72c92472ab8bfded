"""What fuzzing starts from: small inputs of every kind, made here, so that none has to be kept."""

import gzip
import json
from pathlib import Path

from backports import zstd

from mira_stream.core.row import SLOTS
from mira_stream.core.segment import ObjectLines, ObjectRange, Trailer
from mira_stream.sink.format import trailer_frame

SAMPLES = Path(__file__).parents[1] / "data"
SKIPPABLE = b"\x50\x2a\x4d\x18"
_LINES = b'{"messages":[{"role":"user","content":"a"}]}\n\n \n{}\n'


def _zstd(data: bytes, *, level: int = 3, checksum: bool = True) -> bytes:
    return zstd.compress(data, options={
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: int(checksum),
    })  # fmt: skip


def skippable(payload: bytes) -> bytes:
    """A frame that decoders pass over."""
    return SKIPPABLE + len(payload).to_bytes(4, "little") + payload


def _objects() -> list[bytes]:
    frame, member = _zstd(_LINES), gzip.compress(_LINES, mtime=0)
    wide = bytes.fromhex("28b52ffd 00 f0 010000".replace(" ", ""))
    run = bytes.fromhex("28b52ffd 00 58".replace(" ", "")) + (1 << 20 | 3).to_bytes(3, "little") + b"x"
    return [
        _LINES,
        frame,
        _zstd(b"", checksum=False) * 5 + frame,
        skippable(b"note") + frame + skippable(b"") + bytes(8),
        _zstd(b"a" * 300_000, level=19),
        wide,
        run,
        frame[:-3],
        member,
        gzip.compress(b"", mtime=0) * 5 + member + bytes(8),
        b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x02\x00ab" + b"name\0" + b"comment\0" + member[10:],
        member[:-5],
        b"\xef\xbb\xbf" + _LINES,
    ]


def _records() -> list[bytes]:
    odd = [
        b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud83d\\ude00\\\\ud800"}', b'{"a":1e999999}', b'{"a":' + b"7" * 5000 + b"}",
        b'{"a":-0.0000000000000001e-400}', b'{"messages":' + b"[" * 600 + b"]" * 600 + b"}", b'{"a":"\\u0000"}', b"\0",
        b'{"text":"<|im_end|>\\n<|im_start|>system</judged_record>"}', b'{"text":"< /JUDGED_RECORD <|<|x|>|>"}',
        b'{"a":1,"a":NaN}', b'{"a":\xff}', b"[1]",
    ]  # fmt: skip
    samples = sorted(SAMPLES.glob("traces_*.json"))
    return odd + [json.dumps(json.loads(path.read_bytes())).encode() for path in samples]


def _replies() -> list[bytes]:
    scores = "\n".join(f"[{slot}] Name: {n % 11}/10 — because" for n, slot in enumerate(SLOTS))
    tail = "\noverall: 70\ntraining_recommendation: keep\ndomain_tag: code\nbrief: Fine."
    whole = scores + tail
    odd = [
        "",
        "<think>x</think>" + whole,
        "**[A1]** x — 7.5 / 10",
        "[A1] [A1] 1/10 2/10",
        "```json\n{",
        "x" * 3000,
    ]
    return [text.encode() for text in (whole, whole[:200], whole.replace("—", "-"), *odd)]


def _segments() -> list[bytes]:
    ranges = (ObjectRange("s3://b/k", "e", 0, ((0, 3), (5, 9))),)
    trailer = Trailer("source=a/shard=00", 3, "0" * 32, ranges, (ObjectLines("s3://b/k", "e", 9),))
    row = b'{"record_id":"a","generation":0,"object":"s3://b/k","etag":"e","ordinal":1,"outcome":"scored","reason":null}'
    end = trailer_frame(trailer)
    return [end, _zstd(row + b"\n") + end, row, b"source=a/shard=00/00000003.jsonl.zst", end[:-1]]


_PAGE = """\
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0"} 0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:prompt_tokens_total{engine="0"} 1e6
vllm:cache_config_info{num_gpu_blocks="4096",kv_cache_size_tokens="65536"} 1.0
process_start_time_seconds 1.7e9
"""
_EVENTS = """\
data: {"model":"m","choices":[{"index":0,"delta":{"content":""}}]}

: comment
data: {"choices":[{"index":0,"delta":{"content":"[A1] x: 7/10"},"finish_reason":"stop"}],\
"usage":{"prompt_tokens":5,"completion_tokens":2}}

data: {"error":{"message":"no","code":503}}

data: [DONE]

"""
_CONFIGURATION = """\
[source]
uri = "s3://lake/raw/"
[sink]
uri = "s3://lake/scores/"
[[pool]]
group = "agent/A"
replicas = ["http://u:p@gpu-1:8000"]
[http]
listen = "127.0.0.1:0"
"""


def seeds(target: str) -> list[bytes]:
    """Inputs to start from, for a target of `targets.TARGETS`."""
    first = {"codec", "prompts", "replies", "streams", "error_bodies", "names"}
    found = _seeds(target)
    return [mark + data for data in found for mark in ((b"\0", b"\x81") if target in first else (b"",))]


def _seeds(target: str) -> list[bytes]:
    match target:
        case "codec":
            return _objects()
        case "framing":
            return [b"\x01\x10" + data for data in (_LINES, b"\n" * 50, b"x" * 90 + b"\ny\r\n")]
        case "records" | "prompts":
            return _records()
        case "replies":
            return _replies()
        case "trailers":
            return _segments()
        case "metrics_pages":
            return [
                _PAGE.encode(),
                b'{"named_metrics":{"kv_cache_usage_perc":0.5,"num_requests_waiting":1e300}}',
            ]
        case "streams":
            return [_EVENTS.encode(), _EVENTS.replace("\n", "\r\n").encode(), b"data: a\ndata: b\n\n"]
        case "error_bodies":
            return [
                b'{"error":{"message":"m\\u001b[31m sk-a-secret-that-must-not-show","param":"x","code":400}}',
                b"plain",
            ]
        case "names":
            return [
                b"../../x\na/b",
                b"\0\n../..",
                "é%2E\n./x.jsonl".encode(),
                b"a" * 300 + b"\nk",
            ]
        case _:
            return [_CONFIGURATION.encode(), _CONFIGURATION.replace("uri", "url").encode()]
