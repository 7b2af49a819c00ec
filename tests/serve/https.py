"""A local https server with scripted responses, and its self-signed certificate."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve.media.fetching import Endpoint, Fetcher
from serve.settings import FetchSettings

HOST = "images.example"
LIMIT = 1000


class Authority:
    """A self-signed certificate for ``HOST`` and this machine, with contexts that trust it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "certificate.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.file.write_bytes(secret + certificate(key).public_bytes(serialization.Encoding.PEM))

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.file)
        return context

    @property
    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.file)


def certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


class Server:
    """A local https server with one response, sent as it is, piece by piece."""

    def __init__(self, authority: Authority, *pieces: bytes, pause: float = 0.0) -> None:
        self.authority, self.pieces, self.pause = authority, pieces, pause
        self.requests: list[bytes] = []
        self.names: list[str] = []

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self.authority.server)
        self.endpoint = Endpoint(ip_address("127.0.0.1"), self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.pause)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def resolve(self, host: str, port: int) -> Sequence[Endpoint]:
        assert port == 443
        self.names.append(host)
        return [self.endpoint]

    def fetcher(self, *hosts: str, seconds: float = 5.0, context: ssl.SSLContext | None = None) -> Fetcher:
        return Fetcher(
            FetchSettings(hosts=list(hosts) or [HOST], seconds=seconds),
            LIMIT,
            resolve=self.resolve,
            context=context or self.authority.client,
            permitted=lambda address: address == self.endpoint.address,
        )
