"""Without API keys, requests come from this machine and from no page of another site."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.auth.loopback import check_loopback
from serve.errors import ApiError

PEERS = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]
HOSTS = ["localhost", "localhost:8000", "LocalHost:1", "127.0.0.1", "127.1.2.3:65535", "[::1]", "[::1]:8000"]
OTHER_PEERS = [
    "10.0.0.1",
    "192.168.1.2",
    "0.0.0.0",
    "::",
    "::ffff:10.0.0.1",
    "fe80::1",
    "2001:db8::1",
    "",
    None,
    "localhost",
]
OTHER_HOSTS = [
    "example.org", "localhost.example.org", "127.0.0.1.nip.io", "127.0.0.1.", "10.0.0.1:8000", "0.0.0.0:8000",
    "[::ffff:10.0.0.1]", "[::]", "[fe80::1]:80", "::1", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1",
    "localhost@example.org", "example.org@localhost", "localhost:8000:80", "localhost/", "localhost:", "",
    "localhost:x", "evil.localhost.org", "localhost ", "\uff11\uff12\uff17.0.0.1", "[localhost", None,
]  # fmt: skip


def refusal(peer: str | None, host: str | None, origin: str | None) -> ApiError | None:
    try:
        check_loopback(peer, host, origin)
    except ApiError as error:
        return error
    return None


def admitted(peer: str | None, host: str | None, origin: str | None = None) -> bool:
    error = refusal(peer, host, origin)
    if error is not None:
        assert (error.status, error.code) == (403, "not_loopback")
        assert error.body["error"]["type"] == "permission_error"
        assert "auth=keys" in error.message
    return error is None


@given(st.sampled_from(PEERS), st.sampled_from(HOSTS), st.none() | st.sampled_from(HOSTS))
def test_this_machine_is_admitted(peer: str, host: str, site: str | None) -> None:
    assert admitted(peer, host, site and f"http://{site}")


@given(st.sampled_from(OTHER_PEERS), st.sampled_from(HOSTS))
def test_other_machines_are_refused(peer: str | None, host: str) -> None:
    assert not admitted(peer, host)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_other_host_names_are_refused_even_if_they_resolve_to_loopback(host: str | None) -> None:
    assert not admitted("127.0.0.1", host)


@pytest.mark.parametrize("host", [host for host in OTHER_HOSTS if host is not None])
def test_pages_of_other_sites_are_refused(host: str) -> None:
    assert not admitted("127.0.0.1", "127.0.0.1:8000", f"https://{host}")


@pytest.mark.parametrize("origin", ["null", "", "localhost", "file://", "ftp://localhost", "http://localhost/a/b",
                                    "http://localhost http://example.org"])  # fmt: skip
def test_other_origins_are_refused(origin: str) -> None:
    assert not admitted("127.0.0.1", "127.0.0.1:8000", origin)


@given(st.ip_addresses())
def test_an_address_is_admitted_if_it_is_loopback(address: Any) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    loopback = (getattr(address, "ipv4_mapped", None) or address).is_loopback
    assert admitted(str(address), "localhost") == loopback
    assert admitted("127.0.0.1", host) == loopback


@given(st.text(max_size=30))
def test_any_header_is_refused_without_an_exception(text: str) -> None:
    assert not admitted("127.0.0.1", f"{text}x")
    assert not admitted("127.0.0.1", "localhost", f"{text}x")
