"""Fetches images by https URL, only from hosts that the settings list.

A server that fetches URLs of its clients can be turned against its own network (SSRF). Therefore the host
name is resolved once, every address has to be public, and the connection uses exactly the checked addresses.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from serve.errors import ApiError
from serve.settings import FetchSettings

HTTPS = 443
OK = 200
CHUNK_BYTES = 2**16
MAX_URL_LENGTH = 8192
Address = IPv4Address | IPv6Address

PLAIN_URL = re.compile(
    r"https://(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::443)?(?:[/?][!-~]*)?", re.ASCII | re.IGNORECASE
)
"""The only accepted form of a URL. Without user names, other ports, brackets, trailing dots and non-ASCII
letters, no two parsers can disagree about the host.
"""

NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII | re.IGNORECASE)
"""A last label with which some parsers read the host as an IPv4 address: 127.1, 2130706433, 0x7f000001."""

UNICAST = IPv6Network("2000::/3")
"""The part of IPv6 that is assigned to public addresses."""

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that are translated to the IPv4 address in their last four bytes."""

SPECIAL_NETWORKS: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("2001::/23"),
    IPv6Network("2002::/16"),
    IPv6Network("3fff::/20"),
)
"""IANA's special-purpose networks (protocol assignments, 6to4, Teredo, documentation) whose ``is_global`` is
true in some Python releases.
"""


class Endpoint(NamedTuple):
    """An address and a port that a host name resolves to."""

    address: Address
    port: int


Resolve = Callable[[str, int], Awaitable[Sequence[Endpoint]]]


def is_public(address: Address) -> bool:
    """Whether an address is unicast on the public internet; for an embedded IPv4 address, whether that is."""
    embedded = _embedded_ipv4(address)
    if embedded is not None:
        return is_public(embedded)
    if address.version == 6 and address not in UNICAST:
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or any(address in network for network in SPECIAL_NETWORKS)
    )


def _embedded_ipv4(address: Address) -> IPv4Address | None:
    if not isinstance(address, IPv6Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped


async def resolve_name(host: str, port: int) -> list[Endpoint]:
    """Resolve a host with the system's resolver; raises ``OSError`` if it has no address."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Endpoint(ip_address(address[0]), int(address[1])) for *_, address in found]


class Fetcher:
    """Fetches small files by https."""

    def __init__(
        self,
        settings: FetchSettings,
        max_bytes: int,
        *,
        resolve: Resolve = resolve_name,
        context: ssl.SSLContext | None = None,
        permitted: Callable[[Address], bool] = is_public,
    ) -> None:
        """The keyword arguments let tests fetch from their own machine: ``permitted`` decides which addresses
        may be used, ``context`` replaces the trusted certificates.
        """
        self._hosts = {host.lower() for host in settings.hosts}
        self._seconds, self._max_bytes = settings.seconds, max_bytes
        self._resolve, self._permitted = resolve, permitted
        self._context = True if context is None else context

    async def fetch(self, url: str, param: str) -> bytes:
        """The file at a URL. ``param`` is the path of the request field with the URL, for error messages.

        Raises ``ApiError`` 400: ``fetch_refused`` if this server does not allow the URL or the response,
        ``fetch_failed`` if the remote host fails.
        """
        host = self._host(url, param)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._download(URL(url, encoded=True), await self._checked(host, param), param)
        except TimeoutError:
            raise _failed(param, f"{host} took longer than {self._seconds:g} s") from None
        except aiohttp.ClientSSLError:
            raise _failed(param, f"{host} has no valid certificate, or TLS failed") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise _failed(param, f"{host} closed the connection or violated the protocol") from None

    def _host(self, url: str, param: str) -> str:
        match = PLAIN_URL.fullmatch(url) if len(url) <= MAX_URL_LENGTH else None
        if match is None:
            raise _refused(
                param,
                f"not a plain https URL (no user name, port 443, ASCII, at most {MAX_URL_LENGTH} characters)",
            )
        host = match["host"].lower()
        if NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
            raise _refused(param, "the host is an IP address; only named hosts are allowed")
        if host not in self._hosts:
            raise _refused(param, "the host is not among the allowed ones")
        return host

    async def _checked(self, host: str, param: str) -> Sequence[Endpoint]:
        try:
            endpoints = await self._resolve(host, HTTPS)
        except (OSError, UnicodeError):
            endpoints = []
        if not endpoints:
            raise _failed(param, f"{host} has no address")
        if not all(self._permitted(endpoint.address) for endpoint in endpoints):
            raise _refused(param, f"{host} resolves to an address that is not public")
        return endpoints

    async def _download(self, url: URL, endpoints: Sequence[Endpoint], param: str) -> bytes:
        connector = aiohttp.TCPConnector(
            resolver=_PinnedResolver(endpoints), ssl=self._context, use_dns_cache=False, force_close=True
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept": "image/*", "Accept-Encoding": "identity"},
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            self._check_head(response, param)
            return await self._body(response.content, param)

    def _check_head(self, response: aiohttp.ClientResponse, param: str) -> None:
        if 300 <= response.status < 400:
            raise _refused(param, "redirects are not followed")
        if response.status != OK:
            raise _failed(param, f"the host answered with status {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _refused(param, "the host compresses the response")
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large(param)

    async def _body(self, stream: aiohttp.StreamReader, param: str) -> bytes:
        body = bytearray()
        async for chunk in stream.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large(param)
        return bytes(body)

    def _too_large(self, param: str) -> ApiError:
        return _refused(param, f"the file is larger than {self._max_bytes} bytes")


class _PinnedResolver(AbstractResolver):
    """Returns the checked endpoints: a second lookup of the name may return other addresses."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del port, family
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address, port in self._endpoints
        ]

    async def close(self) -> None:
        """Nothing to release."""


def _refused(param: str, reason: str) -> ApiError:
    return _error("fetch_refused", param, reason)


def _failed(param: str, reason: str) -> ApiError:
    return _error("fetch_failed", param, reason)


def _error(code: str, param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param}: {reason}; send the image as a data URI", code=code, param=param)
