"""Images by https URL, from hosts that the settings name and from nowhere else.

A server that fetches what strangers ask for can be turned against its own network. So the name is resolved
once, every address must be a public one, and the connection goes to the addresses that were checked.
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
CHUNK = 2**16
LONGEST_URL = 8192
Address = IPv4Address | IPv6Address

PLAIN_URL = re.compile(
    r"https://(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::443)?(?:[/?][!-~]*)?", re.ASCII | re.IGNORECASE
)
"""The only URLs that are read. Users, other ports, brackets, trailing dots and letters outside ASCII have no
place in it, so no two parsers can disagree about the host.
"""

NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII | re.IGNORECASE)
"""A last label that makes a host an IPv4 address to some parser: 127.1, 2130706433, 0x7f000001."""

UNICAST = IPv6Network("2000::/3")
"""The part of IPv6 from which public addresses are given out."""

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that a network translates to the IPv4 address in their last four bytes."""

SPECIAL: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("2001::/23"),
    IPv6Network("2002::/16"),
    IPv6Network("3fff::/20"),
)
"""IANA's special-purpose networks (protocols, 6to4, Teredo, documentation) that some releases of Python call
global.
"""


class Endpoint(NamedTuple):
    """Where a name leads: what ``getaddrinfo`` says of it."""

    address: Address
    port: int


Resolve = Callable[[str, int], Awaitable[Sequence[Endpoint]]]


def is_public(address: Address) -> bool:
    """Whether an address is unicast on the public internet; what IPv6 wraps is judged by what is inside."""
    inner = _wrapped(address)
    if inner is not None:
        return is_public(inner)
    if address.version == 6 and address not in UNICAST:
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or any(address in network for network in SPECIAL)
    )


def _wrapped(address: Address) -> IPv4Address | None:
    if not isinstance(address, IPv6Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped


async def resolve_name(host: str, port: int) -> list[Endpoint]:
    """Addresses of a host by the system's resolver; raises ``OSError`` for one that has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Endpoint(ip_address(place[0]), int(place[1])) for *_, place in found]


class Fetcher:
    """Fetches small files by https, or says why it does not."""

    def __init__(
        self,
        settings: FetchSettings,
        max_bytes: int,
        *,
        resolve: Resolve = resolve_name,
        context: ssl.SSLContext | None = None,
        permitted: Callable[[Address], bool] = is_public,
    ) -> None:
        """The keywords are for tests, which fetch from their own machine: ``permitted`` decides about
        addresses, ``context`` replaces the trusted certificates.
        """
        self._hosts = {host.lower() for host in settings.hosts}
        self._seconds, self._max_bytes = settings.seconds, max_bytes
        self._resolve, self._permitted = resolve, permitted
        self._context = True if context is None else context

    async def fetch(self, url: str, param: str) -> bytes:
        """The file at a URL.

        Raises ``ApiError`` 400, ``fetch_refused`` for what this server will not do and ``fetch_failed`` for
        what the other side did not.
        """
        host = self._host(url, param)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._download(URL(url, encoded=True), await self._checked(host, param), param)
        except TimeoutError:
            raise _failed(param, f"{host} took longer than {self._seconds:g} s") from None
        except aiohttp.ClientSSLError:
            raise _failed(param, f"{host} has no valid certificate, or cannot speak TLS") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise _failed(param, f"{host} broke the connection or the protocol") from None

    def _host(self, url: str, param: str) -> str:
        match = PLAIN_URL.fullmatch(url) if len(url) <= LONGEST_URL else None
        if match is None:
            raise _refused(
                param,
                f"not a plain https URL (no user, no port but 443, ASCII only, {LONGEST_URL} characters)",
            )
        host = match["host"].lower()
        if NUMBER.fullmatch(host.rpartition(".")[2]):
            raise _refused(param, "addresses are not fetched from, only named hosts")
        if host not in self._hosts:
            raise _refused(param, "this host is not among those that images are fetched from")
        return host

    async def _checked(self, host: str, param: str) -> Sequence[Endpoint]:
        try:
            endpoints = await self._resolve(host, HTTPS)
        except (OSError, UnicodeError):
            endpoints = []
        if not endpoints:
            raise _failed(param, f"{host} has no address")
        if not all(self._permitted(endpoint.address) for endpoint in endpoints):
            raise _refused(param, f"{host} leads to an address that is not public")
        return endpoints

    async def _download(self, url: URL, endpoints: Sequence[Endpoint], param: str) -> bytes:
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(endpoints), ssl=self._context, use_dns_cache=False, force_close=True
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
            raise _refused(param, "the host compresses what it sends")
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large(param)

    async def _body(self, stream: aiohttp.StreamReader, param: str) -> bytes:
        body = bytearray()
        async for chunk in stream.iter_chunked(CHUNK):
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large(param)
        return bytes(body)

    def _too_large(self, param: str) -> ApiError:
        return _refused(param, f"the file is larger than {self._max_bytes} bytes")


class _Pinned(AbstractResolver):
    """Answers with the endpoints that were checked: a name resolved anew may lead elsewhere."""

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
        """There is nothing to release."""


def _refused(param: str, reason: str) -> ApiError:
    return _error("fetch_refused", param, reason)


def _failed(param: str, reason: str) -> ApiError:
    return _error("fetch_failed", param, reason)


def _error(code: str, param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param}: {reason}; send the image as a data URI", code=code, param=param)
