"""Real vLLM servers on this machine's CPU, with the tiny model: started, killed, ended and started again in place."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.harness import free_port, until

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / "build" / "vllm-venv" / "bin" / "vllm"
MODEL = ROOT / "build" / "vllm-model"
NAME = "tiny"
KEY = "sk-of-the-tests"
CONTEXT_TOKENS = 8192
BLOCK_TOKENS = 128
"""Of vLLM on a CPU; on GPUs it is 16."""
START_SECONDS = 240.0
END_SECONDS = 60.0
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Else the first request for logprobs takes a quarter of a minute.
    "TORCHDYNAMO_DISABLE": "1",
}


class Answer(NamedTuple):
    """What came back: `json` is None where the body is none."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Server:
    """One `vllm serve`, always at the same address. `blocks` bounds its KV cache, `flags` are more of its own."""

    def __init__(self, folder: Path, name: str, *flags: str, blocks: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.blocks = blocks
        self._log = folder / f"{name}.log"
        self._cache = folder / "cache"
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def kv_tokens(self) -> int:
        """What its cache holds."""
        return self.blocks * BLOCK_TOKENS

    @property
    def model_limit(self) -> int:
        """Longest prompt and reply together."""
        return CONTEXT_TOKENS

    def begin(self) -> None:
        """Start it; it answers half a minute later."""
        command = [str(COMMAND), "serve", str(MODEL), "--served-model-name", NAME]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager"]
        command += ["--max-model-len", str(CONTEXT_TOKENS), "--num-gpu-blocks-override", str(self.blocks)]
        env = os.environ | _ENVIRONMENT | {"VLLM_CACHE_ROOT": str(self._cache)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._flags], stdout=log, stderr=log, env=env, start_new_session=True
            )

    def until_ready(self) -> "Server":
        """Wait until it answers."""
        until(self._answers, f"{self.url} answers; it says: {self._log}", seconds=START_SECONDS)
        return self

    def start(self) -> "Server":
        """Start it and wait until it answers."""
        self.begin()
        return self.until_ready()

    def kill(self) -> None:
        """All its processes at once, as when the machine goes."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(END_SECONDS)

    def terminate(self) -> None:
        """SIGTERM to the server, as systemd sends it; does not wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(END_SECONDS)

    def send(
        self,
        path: str,
        body: object = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = KEY,
        seconds: float = 120.0,
    ) -> Answer:
        """One request; a body that is no text goes out as JSON."""
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        all_headers = {"Content-Type": "application/json"} if data is not None else {}
        all_headers |= {"Authorization": f"Bearer {key}"} if key else {}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(
                method or ("GET" if data is None else "POST"), path, data, all_headers | dict(headers or {})
            )
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read().decode())
        finally:
            connection.close()

    def chat(self, text: str = "Rate this.", **fields: object) -> Answer:
        """One chat completion."""
        body = {"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
        return self.send("/v1/chat/completions", body | fields)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        page = self.send("/metrics").text
        found = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        assert found, f"{name} is not in /metrics"
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"vLLM did not start: {self._log.read_text('utf-8')[-3000:]}"
        try:
            return self.send("/health").status == 200
        except (OSError, HTTPException):
            return False


@contextmanager
def gone_after(*servers: Server) -> Iterator[tuple[Server, ...]]:
    """Start servers side by side; none of their processes is left after the block."""
    try:
        for server in servers:
            server.begin()
        for server in servers:
            server.until_ready()
        yield servers
    finally:
        for server in servers:
            server.kill()
