"""Fetching images: URLs and addresses that are refused, and hosts that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ApiError
from serve.media.fetching import NAT64, Endpoint, Fetcher, is_public
from serve.settings import FetchSettings
from tests.apart import apart
from tests.serve.https import HOST, LIMIT, Authority, Server

URL = f"https://{HOST}/cat.png?token=secret"
PARAM = "messages[0].content[1].image_url.url"
BODY = b"the bytes of an image"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def answer(body: bytes = BODY, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def fetched(server: Server, url: str = URL) -> bytes:
    async def fetch() -> bytes:
        async with server:
            return await server.fetcher().fetch(url, PARAM)

    return asyncio.run(fetch())


def fetch_error(server: Server, url: str = URL) -> ApiError:
    with pytest.raises(ApiError) as caught:
        fetched(server, url)
    return checked(caught.value)


def checked(error: ApiError) -> ApiError:
    """Check what all errors of a fetch have in common."""
    assert error.status == 400
    assert error.param == PARAM
    assert error.message.startswith(PARAM)
    assert "\n" not in error.message
    assert "secret" not in error.message
    return error


async def unresolved(host: str, port: int) -> Sequence[Endpoint]:
    raise AssertionError(f"{host}:{port} was resolved")


def refusal(url: str, *hosts: str) -> ApiError:
    """The error for a URL that is refused before its name is resolved."""
    fetcher = Fetcher(FetchSettings(hosts=list(hosts) or [HOST]), LIMIT, resolve=unresolved)
    with pytest.raises(ApiError) as caught:
        asyncio.run(fetcher.fetch(url, PARAM))
    assert caught.value.code == "fetch_refused"
    return checked(caught.value)


def resolves_to(*addresses: str) -> ApiError:
    """The error for a name that resolves to these addresses."""

    async def resolve(host: str, port: int) -> Sequence[Endpoint]:
        assert host == HOST
        return [Endpoint(ip_address(address), port) for address in addresses]

    with pytest.raises(ApiError) as caught:
        asyncio.run(Fetcher(FetchSettings(hosts=[HOST]), LIMIT, resolve=resolve).fetch(URL, PARAM))
    return checked(caught.value)


@pytest.mark.parametrize(
    "url", [URL, URL.replace(HOST, f"{HOST}:443"), URL.replace(HOST, HOST.upper()), f"HTTPS://{HOST}"]
)
def test_a_listed_host_is_fetched_from(authority: Authority, url: str):
    server = Server(authority, answer())
    assert fetched(server, url) == BODY
    assert server.names == [HOST]


def test_the_request_carries_the_query_and_neither_cookies_nor_encodings(authority: Authority):
    server = Server(authority, answer(BODY, "200 OK", "Set-Cookie: a=b"))

    async def twice() -> None:
        async with server:
            fetcher = server.fetcher()
            await fetcher.fetch(URL, PARAM)
            await fetcher.fetch(URL, PARAM)

    asyncio.run(twice())
    for request in server.requests:
        assert request.startswith(b"GET /cat.png?token=secret HTTP/1.1\r\n")
        assert b"accept-encoding: identity\r\n" in request.lower()
        assert b"cookie" not in request.lower()
        assert b"authorization" not in request.lower()


def test_a_body_without_a_length_is_read_to_its_end(authority: Authority):
    assert fetched(Server(authority, b"HTTP/1.1 200 OK\r\n\r\n", BODY)) == BODY


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/cat.png",
        f"ftp://{HOST}/cat.png",
        "file:///etc/passwd",
        f"//{HOST}/cat.png",
        f"https:/{HOST}/cat.png",
        f"https:\\\\{HOST}\\cat.png",
        f"https://user:secret@{HOST}/cat.png",
        f"https://{HOST}@evil.example/cat.png",
        f"https://evil.example@{HOST}/cat.png",
        f"https://{HOST}:443@evil.example/",
        f"https://{HOST}\\@evil.example/",
        f"https://{HOST}:8443/cat.png",
        f"https://{HOST}:/cat.png",
        f"https://{HOST}:0443/cat.png",
        f"https://{HOST}./cat.png",
        f"https://.{HOST}/cat.png",
        f"https://{HOST}%2e/cat.png",
        "https://images%2eexample/cat.png",
        "https://images\u3002example/cat.png",
        "https://\uff49mages.example/cat.png",
        "https://image\u017f.example/cat.png",
        f"https://{HOST}/c\u00e4t.png",
        f" https://{HOST}/cat.png",
        f"https://{HOST}/cat.png\n",
        f"https://{HOST}/cat.png\r\nHost: evil.example",
        f"https://{HOST}/cat png",
        f"https://{HOST}\x00/cat.png",
        "https://[::1]/cat.png",
        "https:///cat.png",
        "https://",
        "",
    ],
)
def test_anything_but_a_plain_https_url_is_refused(url: str):
    assert "plain https URL" in refusal(url).message


@pytest.mark.parametrize(
    "host", ["evil.example", f"a.{HOST}", f"{HOST}.evil.example", "example", "xn--mages-zsa.example"]
)
def test_a_host_that_is_not_listed_is_refused(host: str):
    assert "not among the allowed" in refusal(f"https://{host}/cat.png?token=secret").message


@pytest.mark.parametrize(
    "host", ["93.184.216.34", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "a.0x"]
)
def test_ip_addresses_are_refused_even_if_they_are_listed(host: str):
    assert "named hosts" in refusal(f"https://{host}/cat.png", host).message


def test_no_host_is_listed_by_default():
    fetcher = Fetcher(FetchSettings(), LIMIT, resolve=unresolved)
    with pytest.raises(ApiError, match="not among"):
        asyncio.run(fetcher.fetch(URL, PARAM))


NOT_PUBLIC = """
    0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.0.8 192.0.0.9 192.0.2.1 192.88.99.1
    192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::808:808 fe80::1 fe80::1%2 fec0::1 fc00::1 fd00:ec2::254 ff02::1 ff0e::1 100::1 5f00::1
    2001::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:100.64.0.1
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::8.8.8.8 64:ff9b::192.0.0.9
""".split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_with_a_private_address_is_refused(address: str):
    assert not is_public(ip_address(address))
    error = resolves_to(address)
    assert error.code == "fetch_refused"
    assert address not in error.message


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_public_addresses_are_permitted(address: str):
    assert is_public(ip_address(address))


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_never_permitted(address: IPv4Address | IPv6Address):
    wraps = isinstance(address, IPv6Address) and (address.ipv4_mapped or address in NAT64)
    assert address.is_global or wraps or not is_public(address)


def test_a_name_with_one_private_address_among_public_ones_is_refused():
    assert resolves_to("8.8.8.8", "10.0.0.1").code == "fetch_refused"


def test_a_name_without_addresses_fails():
    assert resolves_to().code == "fetch_failed"


def test_a_name_that_does_not_resolve_fails():
    fetcher = Fetcher(FetchSettings(hosts=["images.invalid"]), LIMIT)
    with pytest.raises(ApiError, match="has no address") as caught:
        asyncio.run(fetcher.fetch("https://images.invalid/", PARAM))
    assert caught.value.code == "fetch_failed"


def test_a_name_is_resolved_once(authority: Authority):
    server = Server(authority, answer())
    assert fetched(server) == BODY
    assert len(server.names) == 1


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "304 Not Modified", "307 Temporary", "308 P"]
)
def test_redirects_are_refused(authority: Authority, status: str):
    server = Server(authority, answer(b"", status, f"Location: https://{HOST}/other.png"))
    assert fetch_error(server).code == "fetch_refused"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "404 Not Found", "500 Oops"])
def test_other_statuses_fail(authority: Authority, status: str):
    error = fetch_error(Server(authority, answer(b"", status)))
    assert error.code == "fetch_failed"
    assert status[:3] in error.message


def test_a_length_above_the_limit_is_refused_before_the_body_is_sent(authority: Authority):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode()
    error = fetch_error(Server(authority, head, pause=3.0))
    assert error.code == "fetch_refused"
    assert str(LIMIT) in error.message


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_a_body_of_unknown_length_is_counted_while_it_is_read(authority: Authority, size: int):
    server = Server(authority, b"HTTP/1.1 200 OK\r\n\r\n", bytes(size))
    if size == LIMIT:
        assert fetched(server) == bytes(size)
    else:
        assert "larger than" in fetch_error(server).message


def test_an_endless_body_is_aborted(authority: Authority):
    server = Server(
        authority,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"64\r\n" + bytes(100) + b"\r\n"] * 10_000,
    )
    assert "larger than" in fetch_error(server).message


def test_compressed_bodies_are_refused(authority: Authority):
    server = Server(authority, answer(gzip.compress(bytes(10**6)), "200 OK", "Content-Encoding: gzip"))
    error = fetch_error(server)
    assert error.code == "fetch_refused"
    assert "compresses" in error.message


@pytest.mark.parametrize(
    "pieces", [[b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 100], [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 100]]
)
def test_the_time_limit_covers_a_slow_header_and_body(authority: Authority, pieces: list[bytes]):
    server = Server(authority, *pieces, pause=0.1)

    async def fetch() -> None:
        async with server:
            await server.fetcher(seconds=0.4).fetch(URL, PARAM)

    with pytest.raises(ApiError, match=r"longer than 0\.4 s") as caught:
        asyncio.run(asyncio.wait_for(fetch(), 30.0))
    assert checked(caught.value).code == "fetch_failed"


def test_the_time_limit_covers_resolution():
    async def resolve(host: str, port: int) -> Sequence[Endpoint]:
        await asyncio.sleep(60)
        raise AssertionError(host, port)

    fetcher = Fetcher(FetchSettings(hosts=[HOST], seconds=0.1), LIMIT, resolve=resolve)
    with pytest.raises(ApiError, match="longer than"):
        asyncio.run(fetcher.fetch(URL, PARAM))


@pytest.mark.parametrize(
    "sent", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"]
)
def test_a_truncated_or_invalid_response_fails(authority: Authority, sent: bytes):
    assert fetch_error(Server(authority, sent)).code == "fetch_failed"


def test_a_refused_connection_fails(authority: Authority):
    server = Server(authority)

    async def fetch() -> None:
        async with server:
            pass
        await server.fetcher().fetch(URL, PARAM)

    with pytest.raises(ApiError) as caught:
        asyncio.run(fetch())
    assert checked(caught.value).code == "fetch_failed"


def test_an_untrusted_certificate_fails(authority: Authority):
    server = Server(authority, answer())

    async def fetch() -> None:
        async with server:
            await server.fetcher(context=ssl.create_default_context()).fetch(URL, PARAM)

    with pytest.raises(ApiError, match="certificate"):
        asyncio.run(fetch())
    assert server.requests == []


def test_a_certificate_for_another_host_fails(authority: Authority):
    server = Server(authority, answer())

    async def fetch() -> None:
        async with server:
            await server.fetcher("other.example").fetch("https://other.example/", PARAM)

    with pytest.raises(ApiError, match="certificate"):
        asyncio.run(fetch())
    assert server.requests == []


def test_proxies_of_the_environment_are_ignored(authority: Authority):
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    proxies = dict.fromkeys(names, "http://127.0.0.1:9")
    assert apart(fetched, Server(authority, answer()), **proxies) == BODY
