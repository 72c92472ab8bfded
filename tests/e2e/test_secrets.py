"""Keys and addresses with passwords stay where they were put: no log, metric, status, row, ledger or message has them."""

import base64
import http.server
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.harness import NOWHERE, Lab, Row, cli, conversation, until

API_KEY = "sk-e2e/api+key=that-nobody-may-see"
PASSWORD = "pa:ss word/that+nobody&may=see"
TOKEN = "e2e-token-that-nobody-may-see"
STORE_KEY = "e2e/store+secret-that-nobody-may-see"
STORE_SESSION = "e2e-session-that-nobody-may-see"
_PAIR = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
_PLAIN = (API_KEY, PASSWORD, TOKEN, STORE_KEY, STORE_SESSION, _PAIR)
SECRETS = {
    form.encode()
    for secret in _PLAIN
    for form in (
        secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode(),
    )
}  # fmt: skip
RECORDS = b"".join(conversation(f"Rename module {number} and run the tests.") for number in range(60))

Answer = Callable[[bytes], tuple[int, str, bytes]]
"""What a server says to a completion: status, content type and body, made of the head of the request."""


def _error(status: int, form: str = '{"error":{"message":%s,"code":400}}') -> Answer:
    return lambda head: (status, "application/json", (form % json.dumps(head.decode())).encode())


def _stream(head: bytes) -> tuple[int, str, bytes]:
    said = json.dumps({"error": {"message": head.decode(), "code": 400}})
    return 200, "text/event-stream", f"data: {said}\n\n".encode()


ANSWERS: dict[str, Answer] = {
    "refused": _error(400),
    "refused in plain text": lambda head: (422, "text/plain", b" " * 1500 + head),
    "refused in a list": _error(400, '{"error":[%s]}'),
    "wrong key": _error(401, '{"detail":%s}'),
    "full": _error(503),
    "broken": _error(500),
    "redirected": _error(307),
    "not a completion": lambda head: (200, "application/json", head),
    "an error in a stream": _stream,
}


class Echo(http.server.ThreadingHTTPServer):
    """A server that serves the model and repeats the head of every request in what it answers; `asked` counts them."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked = 0

    def url(self, user: str) -> str:
        """Its address, with credentials."""
        return f"http://{user}127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Echo

    def do_GET(self) -> None:
        models = {"data": [{"id": "whw06/MIRA-Agent-Group1", "max_model_len": 65_536}]}
        if self.path == "/v1/models":
            self._send(200, "application/json", json.dumps(models).encode())
        else:
            self._send(404, "text/plain", self._head())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(*self.server.answer(self._head()))
        self.server.asked += 1

    def _head(self) -> bytes:
        return "".join(f"{name}: {value}\n" for name, value in self.headers.items()).encode()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "http://127.0.0.1:9/?key=elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def echoing(*answers: Answer) -> Iterator[list[Echo]]:
    """A server for each answer."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Echo(answer)) for answer in answers]
        for server in servers:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield servers


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Sixty records; every secret is in the environment."""
    monkeypatch.setenv("E_API_KEY", API_KEY)
    monkeypatch.setenv("E_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", STORE_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", STORE_SESSION)
    lab = Lab(tmp_path)
    lab.land("known/a.jsonl", RECORDS)
    return lab


def assert_nothing_shows(lab: Lab, *said: str) -> None:
    """No file but the configuration has a secret in any spelling, nor has anything that was said; rows neither."""
    contents = {
        str(path): path.read_bytes()
        for path in lab.folder.rglob("*")
        if path.is_file() and path != lab.config
    }
    contents |= {f"said {number}": text.encode() for number, text in enumerate(said)}
    contents["rows"] = json.dumps(lab.rows(), ensure_ascii=False).encode()
    assert [(name, secret) for name, data in contents.items() for secret in SECRETS if secret in data] == []


@pytest.mark.parametrize("credentials", ["key", "password"])
def test_replicas_that_repeat_our_key(lab: Lab, credentials: str) -> None:
    """Whatever they answer, and wherever they repeat the head of the request: nobody is told, in any spelling."""
    user = f"user:{quote(PASSWORD, safe='')}@" if credentials == "password" else ""
    pool = {"api_key_env": "E_API_KEY"} if credentials == "key" else {}
    with echoing(*ANSWERS.values()) as servers:
        urls = [server.url(user) for server in servers]
        lab.configure(urls, pools=[pool], log={"level": "debug"}, http={"token_env": "E_TOKEN"})
        with running(lab) as daemon:
            until(lambda: all(server.asked for server in servers), "every server is asked")
            said = [_get(daemon, path) for path in ("/metrics", "/status.json", "/readyz", "/")]
            assert urls[0].replace(user, "") in said[1]
            daemon.terminate()
        checked = lab.command("check")
        assert (
            "Authorization: *** ***" in checked.stdout
            or "Bearer ***" in checked.stdout
            or "Basic ***" in checked.stdout
        )
    assert_nothing_shows(lab, *said, checked.stdout, checked.stderr)


def test_a_dead_letter_holds_what_the_server_said_without_the_key(lab: Lab) -> None:
    """The row of a record that was refused tells the message, struck through; others are scored there meanwhile."""
    turns = itertools.count()
    with echoing(lambda head: _scored() if next(turns) % 2 == 0 else ANSWERS["refused"](head)) as servers:
        lab.configure(
            [servers[0].url("")], pools=[{"api_key_env": "E_API_KEY"}], admission={"requests_max": 1}
        )
        assert lab.run_once().code == 0
    dead = [row["reply"] for row in lab.audited() if row["reason"] == "refused"]
    assert dead
    assert all("Authorization: Bearer ***" in reply for reply in dead)
    assert_nothing_shows(lab)


def _scored() -> tuple[int, str, bytes]:
    lines = [f"[A{number}] Name: 7/10 — it is so." for number in range(1, 16)]
    text = "\n".join(
        [*lines, "overall: 70", "training_recommendation: keep", "domain_tag: code", "brief: Fine."]
    )
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 2000, "completion_tokens": 300}
    reply = {"model": "whw06/MIRA-Agent-Group1", "choices": [choice], "usage": usage}
    return 200, "application/json", json.dumps(reply).encode()


def _get(daemon: Daemon, path: str) -> str:
    status, text = daemon.get(path, {"Authorization": f"Bearer {TOKEN}"})
    assert status in (200, 503)
    return text


def test_a_store_that_is_not_there(lab: Lab) -> None:
    """Its address and what went wrong are told, its credentials are not, by no command."""
    store = {"endpoint": "http://127.0.0.1:9", "allow_http": True, "region": "r"}
    sections = {"source": {"uri": "s3://lake/raw"}, "source.store": store, "log": {"level": "debug"}}
    lab.configure([NOWHERE], **sections)
    checked = lab.command("check")
    assert "127.0.0.1:9" in checked.stdout
    assert_nothing_shows(lab, checked.stdout, checked.stderr)


@pytest.mark.parametrize(
    ("sections", "pool", "words"),
    [
        ({"http": {"listen": "0.0.0.0:0"}}, {}, "can be reached from other machines, and no token is asked for"),
        ({"http": {"token_env": API_KEY}}, {}, "does not hold the name of a secret"),
        ({}, {"api_key_env": f"{TOKEN}-0123456"}, "does not hold the name of a secret"),
        ({}, {"replicas": [f"ftp://user:{PASSWORD}@x"]}, "is not an http(s) URL"),
        ({"source": {"uri": f"https://user:{PASSWORD}@lake/raw"}}, {}, "no kind of store"),
        ({"source": {"uri": f"s3://user:{PASSWORD}@lake/raw"}}, {}, "no query, fragment or credentials"),
        ({"source.store": {"endpoint": f"http://user:{PASSWORD}@h"}, "source": {"uri": "s3://lake/raw"}}, {}, "credentials"),
        ({"sink.store": {"secret": STORE_KEY}}, {}, "unknown key sink.store.secret"),
    ],
)  # fmt: skip
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(
    lab: Lab, sections: dict[str, Row], pool: Row, words: str
) -> None:
    """In words that say what to change, by `run` as by `check`, which start nothing."""
    lab.configure([NOWHERE], pools=[pool], **sections)
    for ended in (lab.run_once(), lab.command("check", "--offline")):
        assert ended.code == 2
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
        assert_nothing_shows(lab, ended.stdout, ended.stderr)


def test_the_daemon_leaves_no_core_file(lab: Lab) -> None:
    """The limit is zero, and the status can be had only with the token, which the command finds by itself."""
    lab.configure([NOWHERE], http={"token_env": "E_TOKEN"}, log={"level": "info"})
    with running(lab) as daemon:
        assert daemon.get("/status.json")[0] == 401
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text("utf-8")
        (core,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core[0] == "0"
        url = f"http://{daemon.address}"
        assert "asks for a token" in cli("status", "--url", url, "--json").stderr
        shown = cli("status", "--url", url, "--json", "--token-env", "E_TOKEN")
        assert json.loads(shown.stdout)["state"] in ("starting", "running")
    assert_nothing_shows(lab, shown.stdout, shown.stderr)
    assert os.environ["E_TOKEN"] == TOKEN
