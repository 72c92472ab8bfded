"""The client under measure: one `--once` run of the daemon in a process of its own, and what it cost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

_CONFIG = """\
[source]
uri = "{root}/lake"
grow_settle_seconds = 0
[sink]
uri = "{root}/scores"
[ledger]
path = "{root}/ledger/ledger.sqlite3"
[http]
listen = "127.0.0.1:0"
[log]
level = "warning"
[admission]
kv_tokens = 400_000_000
batched_tokens_max = 400_000_000
requests_max = {in_flight}
prefill_tokens_per_second = 1e9
[[pool]]
group = "agent/A"
sources = ["*"]
replicas = ["{url}"]
context_tokens = {context_tokens}
"""

# VmHWM and not ru_maxrss: that one is inherited from the process that started this one.
_MEASURED = """
import json, resource
from pathlib import Path
from mira_stream.cli import main

def spent(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime

try:
    main()
except SystemExit as end:
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM")).split()[1]
    cpu = {"own": spent(resource.RUSAGE_SELF), "helpers": spent(resource.RUSAGE_CHILDREN)}
    print(json.dumps({**cpu, "peak_rss_mb": int(peak) / 1024, "code": end.code or 0}))
"""


class Cost(msgspec.Struct, frozen=True):
    """User + system seconds of the process and of its helpers (which count), and its highest resident memory."""

    own: float
    helpers: float
    peak_rss_mb: float
    code: int


def write_config(
    root: Path, url: str, *, in_flight: int = 64, tokenizer: Path | None = None, context_tokens: int = 65_536
) -> Path:
    """The configuration of a client that scores `root`/lake; it sends as much at once as it may."""
    text = _CONFIG.format(root=root, url=url, in_flight=in_flight, context_tokens=context_tokens)
    path = root / "mira.toml"
    path.write_text(text + (f'tokenizer = "{tokenizer}"\n' if tokenizer else ""), "utf-8")
    return path


def run_client(config: Path) -> Cost:
    """Score everything, from a fresh ledger."""
    for name in ("scores", "ledger"):
        shutil.rmtree(config.parent / name, ignore_errors=True)
    command = [sys.executable, "-c", _MEASURED, "run", "--once", "--config", str(config)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cost = msgspec.convert(json.loads(told.splitlines()[-1]), Cost)
    assert cost.code == 0, told
    return cost
