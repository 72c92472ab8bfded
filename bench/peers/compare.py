"""Build + POST + parse against datatrove and openai: CPU per record, on the same prompts, against the same replica.

They want an environment of their own: `python -m venv peers && peers/bin/pip install datatrove openai httpx orjson aiofiles`, and its
interpreter in the environment variable MIRA_STREAM_PEERS_PYTHON.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.corpus import records
from bench.macro.client import write_config
from bench.macro.instant_replica import instant_replica
from mira_stream.core.decode import decode
from mira_stream.core.outcome import Reason
from mira_stream.core.trace import Rendered, render
from mira_stream.daemon.config import load_config
from mira_stream.daemon.pools import plan_pools

VARIABLE = "MIRA_STREAM_PEERS_PYTHON"
_LOOPS = Path(__file__).with_name("loops.py")
_WARM_UP = 64
_PROMPTS = 200
_CHARS = (40_000, 160_000)
_NEEDED = "import datatrove.pipeline.inference.run_inference, openai, httpx, orjson, aiofiles"


def measure(*, runs: int = 5, requests: int = 3000) -> dict[str, object]:
    """µs per record of each, in turn; the cost of starting (so many requests fewer) is taken off. Ratios are taken
    within each run."""
    python = _python()
    with tempfile.TemporaryDirectory() as folder, instant_replica() as url:
        prompts = Path(folder) / "prompts.jsonl"
        size = _write_prompts(prompts, write_config(Path(folder), url))
        figures = [_once(url, prompts, python, requests) for _ in range(runs)]
    ratios = {
        f"{name} to ours": [one[name] / one["ours"] for one in figures] for name in ("datatrove", "openai")
    }
    return {
        "requests": requests,
        "mean_prompt_bytes": size,
        **{f"{name}, µs": _spread([one[name] for one in figures], 0) for name in figures[0]},
        **{name: _spread(values, 2) for name, values in ratios.items()},
    }


def _python() -> str:
    python = os.environ.get(VARIABLE, sys.executable)
    if subprocess.run([python, "-c", _NEEDED], capture_output=True, check=False).returncode:
        sys.exit(
            f"{python} cannot import datatrove and openai, which are measured here.\n"
            "  python -m venv peers && peers/bin/pip install datatrove openai httpx orjson aiofiles\n"
            f"  {VARIABLE}=peers/bin/python python -m bench peers"
        )
    return python


def _write_prompts(path: Path, config: Path) -> int:
    """Prompts of long records, evenly chosen; their mean size."""
    template = plan_pools(load_config(config))[0].prompting.template
    texts = []
    for line in records():
        record = decode(line, first=False)
        rendered = record if isinstance(record, Reason) else render(record)
        if isinstance(rendered, Rendered) and _CHARS[0] <= len(rendered.text) <= _CHARS[1]:
            texts.append(json.dumps(template.messages(rendered.text)))
    chosen = texts[:: max(1, len(texts) // _PROMPTS)]
    path.write_text("\n".join(chosen), "utf-8")
    return sum(map(len, chosen)) // len(chosen)


def _once(url: str, prompts: Path, python: str, requests: int) -> dict[str, float]:
    costs = {}
    for name, interpreter in (("ours", sys.executable), ("datatrove", python), ("openai", python)):
        first = _seconds(interpreter, name, url, prompts, _WARM_UP)
        costs[name] = (
            (_seconds(interpreter, name, url, prompts, requests) - first) / (requests - _WARM_UP) * 1e6
        )
    return costs


def _seconds(python: str, name: str, url: str, prompts: Path, requests: int) -> float:
    command = [python, str(_LOOPS), name, url, str(prompts), "--requests", str(requests)]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    assert told["done"] == requests, told
    return float(told["seconds"])


def _spread(values: list[float], digits: int) -> dict[str, float]:
    named = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in named.items()}
