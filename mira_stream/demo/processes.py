"""The demo's processes: started as this command line, logged to a file, ended by their own id."""

import asyncio
import re
import sys
from pathlib import Path
from types import TracebackType

from mira_stream.core.errors import Refusal

_URL = re.compile(r"http://[0-9.:\[\]]+:\d+")
_POLL_SECONDS = 0.05


class Process:
    """A running `mira-stream <command>`; its output, both streams, is in `log`."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path, command: str) -> None:
        self._child = child
        self._log = log
        self._command = command

    @property
    def pid(self) -> int:
        return self._child.pid

    async def first_url(self, *, seconds: float = 20.0) -> str:
        """The first address it logs: where it listens. Raises Refusal if it ends or stays silent."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if found := _URL.search(self._log.read_text("utf-8")):
                        return found.group()
                    if self._child.returncode is not None:
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            pass
        raise Refusal(f"mira-stream {self._command} did not start", f"its output is in {self._log}")

    def terminate(self) -> None:
        """Ask it to end, as systemd would."""
        if self._child.returncode is None:
            self._child.terminate()

    async def wait(self, *, seconds: float) -> int:
        """Its exit code; it is killed if it does not end in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._child.wait()
        except TimeoutError:
            self._child.kill()
            return await self._child.wait()


class started:  # noqa: N801 - reads as the context manager it is
    """`async with started("sim", …, log=…) as process`: ended on the way out, whatever happens."""

    def __init__(self, command: str, *arguments: str, log: Path) -> None:
        self._command = command
        self._arguments = arguments
        self._log = log
        self._process: Process | None = None

    async def __aenter__(self) -> Process:
        code = "from mira_stream.cli import main; main()"
        with self._log.open("wb") as log:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, self._command, *self._arguments, stdout=log, stderr=log
            )
        self._process = Process(child, self._log, self._command)
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        await self._process.wait(seconds=5)
