"""Certificates are verified: a server that nobody vouches for learns neither key nor record."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mira_stream.core.errors import Refusal, Transient, TransientKind
from mira_stream.replica.settings import ReplicaSettings
from mira_stream.replica.vllm import VllmReplica, open_session

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


def self_signed(file: Path, *, host: str = "127.0.0.1", until: dt.datetime = NOW + DAY) -> Path:
    """A certificate and its key, for one address, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a replica")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 9 * DAY)
        .not_valid_after(until)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(certificate.public_bytes(pem) + secret)
    return file


def asked(
    certificate: Path, ca_file: Path | None, story: Callable[[VllmReplica], Awaitable[None]]
) -> list[str]:
    """Play `story` with a replica behind `certificate`; the paths that it was asked for."""
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.json_response({"data": [{"id": "m", "max_model_len": 4096}]})

    async def play() -> None:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]
        settings = ReplicaSettings(ca_file=str(ca_file) if ca_file else None)
        try:
            async with open_session(settings) as session:
                await story(
                    VllmReplica(f"https://127.0.0.1:{port}", session, api_key="key", settings=settings)
                )
        finally:
            await runner.cleanup()

    asyncio.run(play())
    return paths


def refused(words: str) -> Callable[[VllmReplica], Awaitable[None]]:
    """Whatever is asked of it, the replica is not reached, and the error says so in these words."""

    async def story(replica: VllmReplica) -> None:
        for request in (replica.models(), replica.ask(b"{}", timeout_seconds=10), replica.load()):
            with pytest.raises(Transient, match=words) as error:
                await request
            assert error.value.kind is TransientKind.REFUSED

    return story


def test_a_self_signed_replica_is_refused(tmp_path: Path) -> None:
    """Before a request is sent; the error says why, and which key would allow it."""
    certificate = self_signed(tmp_path / "one.pem")
    assert (
        asked(certificate, None, refused(r"certificate was not accepted: self.signed.*\[replica\] ca_file"))
        == []
    )


def test_the_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    """Also where its authority is known."""
    certificate = self_signed(tmp_path / "one.pem", host="10.9.8.7")
    assert asked(certificate, certificate, refused("certificate was not accepted: IP address mismatch")) == []


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """Also where its authority is known."""
    certificate = self_signed(tmp_path / "one.pem", until=NOW - DAY)
    assert (
        asked(certificate, certificate, refused("certificate was not accepted: certificate has expired"))
        == []
    )


def test_ca_file_names_further_authorities(tmp_path: Path) -> None:
    """With it a lab's own authority is as good as the system's."""
    certificate = self_signed(tmp_path / "one.pem")

    async def story(replica: VllmReplica) -> None:
        (model,) = await replica.models()
        assert model.model == "m"

    assert asked(certificate, certificate, story) == ["/v1/models"]


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("no PEM", "it holds no certificate")])
def test_a_ca_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None, why: str) -> None:
    """With its name; never read as trust in everything."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content, "utf-8")

    async def run() -> None:
        with pytest.raises(Refusal, match=rf"ca_file .*ca\.pem cannot be read: {why}"):
            open_session(ReplicaSettings(ca_file=str(file)))

    asyncio.run(run())
