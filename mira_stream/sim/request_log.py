"""The request log: one JSON line per generation request, so that a test can prove what was sent to whom."""

from hashlib import blake2b
from pathlib import Path
from typing import IO

import msgspec


class RequestEntry(msgspec.Struct, kw_only=True):
    """One request and its end. Hashes are hex; `arrived` is seconds since the epoch.

    `outcome`: `answered`, `refused` (an error answer), `faulted` (a planned fault decided it), `aborted` (the client
    left, or the connection was cut).
    """

    number: int
    arrived: float
    path: str
    body_hash: str = ""
    record_hash: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: int = 0
    outcome: str = "aborted"
    finish_reason: str | None = None
    damage: str | None = None
    fault: str | None = None
    seconds: float = 0.0

    def close(self, status: int, outcome: str) -> None:
        """An answer goes out; what a planned fault decided stays faulted."""
        self.status = status
        if self.outcome != "faulted":
            self.outcome = outcome


class RequestLog:
    """Appends entries to a file, each handed to the operating system at once: a killed server loses none."""

    def __init__(self, path: str | None) -> None:
        self._file: IO[bytes] | None = None if path is None else Path(path).open("ab", buffering=0)  # noqa: SIM115

    @property
    def wanted(self) -> bool:
        """Whether entries are kept at all; hashes need not be made otherwise."""
        return self._file is not None

    def write(self, entry: RequestEntry) -> None:
        """Append one line."""
        if self._file is not None:
            self._file.write(msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def body_hash(body: bytes) -> str:
    """How the log names a request body: blake2b-128, hex."""
    return blake2b(body, digest_size=16).hexdigest()
