"""Object stores that run on Node: Azurite plays Azure, and s3rver an S3 that ignores conditions."""

import hmac
import os
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.harness import free_port, until

BIN = Path(__file__).parents[2] / "build" / "node" / "node_modules" / ".bin"
AZURE_ACCOUNT = "nobody"
AZURE_KEY = b64encode(b"nothing that is secret").decode()
S3RVER_KEY = "S3RVER"
"""Its one user's name and secret."""


def script(name: str) -> str:
    """The path of an installed server; the test fails if it is not there."""
    path = BIN / name
    if not path.exists():
        pytest.fail(
            f"{name} is not installed: `make node` (it needs nodejs and npm of ops/system-packages.txt)"
        )
    return str(path)


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """The address of an Azure blob service with one account, whose data go to `folder`."""
    port = free_port()
    listen = ("--blobHost", "127.0.0.1", "--blobPort", str(port))
    quiet = ("--silent", "--disableTelemetry", "--skipApiVersionCheck")
    command = (script("azurite-blob"), *listen, *quiet, "--location", str(folder))
    with environment({"AZURITE_ACCOUNTS": f"{AZURE_ACCOUNT}:{AZURE_KEY}"}), _running(*command, port=port):
        yield f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"


def make_container(address: str, name: str) -> None:
    """Make a container, by the one signed request that the product's client has no call for."""
    place = urlsplit(f"{address}/{name}")
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    told = "".join(f"{header}:{value}\n" for header, value in headers.items())
    text = f"PUT{12 * chr(10)}{told}/{AZURE_ACCOUNT}{place.path}\nrestype:container"
    digest = hmac.digest(b64decode(AZURE_KEY), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{b64encode(digest).decode()}"
    connection = HTTPConnection(place.netloc, timeout=10)
    try:
        connection.request("PUT", f"{place.path}?restype=container", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
    finally:
        connection.close()


@contextmanager
def s3rver(folder: Path, bucket: str) -> Iterator[str]:
    """The address of an s3rver with one bucket; it knows the key `S3RVER` with the secret `S3RVER`."""
    port = free_port()
    listen = ("--address", "127.0.0.1", "--port", str(port), "--silent")
    bucket_option = ("--configure-bucket", bucket)
    with _running(script("s3rver"), "--directory", str(folder), *listen, *bucket_option, port=port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """With these variables meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(name, value)
        yield


@contextmanager
def _running(*command: str, port: int) -> Iterator[None]:
    log = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=log, stdout=log, stderr=log, env=dict(os.environ)) as process:
        try:
            _wait_for(port, process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until(lambda: process.poll() is not None or _answers(port), f"{process.args!r} answers")
    assert process.poll() is None, f"{process.args!r} has ended"


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True
