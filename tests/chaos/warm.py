"""A process that has imported everything and forks commands on demand: a start costs no import, a kill is still real.

Asked on stdin, one JSON line per command; it says on stdout which process runs it, and how each of them ended.
"""

import json
import os
import select
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

PRELOADED = (
    "mira_stream.cli",
    "mira_stream.daemon.config",
    "mira_stream.daemon.run",
    "mira_stream.sim.service",
    "mira_stream.source.remote_store",
)

Asked = dict[str, Any]


def main() -> None:
    """Serve until stdin ends; then nothing that was started lives on."""
    for name in PRELOADED:
        import_module(name)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    pending = b""
    _say({"ready": os.getpid()})
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(running)
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                running.add(_fork(json.loads(line)))
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _say(news: Asked) -> None:
    os.write(1, json.dumps(news).encode() + b"\n")


def _reap(running: set[int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        running.discard(pid)
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _fork(asked: Asked) -> int:
    pid = os.fork()
    if pid == 0:
        _run(asked)
    _say({"started": pid})
    return pid


def _run(asked: Asked) -> None:
    """The command, as its own process would run it; never returns."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 64)
        os.environ.update(asked["env"])
        sys.argv = ["mira-stream", *asked["arguments"]]
        code = _call()
    except BaseException:
        # The end of this process: nobody above could tell.
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _call() -> int:
    try:
        import_module("mira_stream.cli").main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


if __name__ == "__main__":
    main()
