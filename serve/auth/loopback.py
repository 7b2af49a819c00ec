"""Without API keys, only this machine may use the server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from serve.errors import ApiError

HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^:/@\[\]]+))(?::[0-9]{1,5})?", re.IGNORECASE)
ORIGIN = re.compile(r"https?://(?P<host>[^/]+)", re.IGNORECASE)


def check_loopback(
    client: str | None, host: str | None, origin: str | None = None, allowed: Collection[str] = ()
) -> None:
    """Raise ``ApiError`` 403 unless a request comes from this machine and from no page of another site.

    ``client`` is the address of the peer, ``host`` and ``origin`` are headers, and pages of the ``allowed``
    origins may ask. A browser on this machine may
    send requests for a page from elsewhere. ``Host`` reveals a page whose own name resolves to loopback (DNS
    rebinding), ``Origin`` a page of another site.
    """
    if not _is_loopback(client or ""):
        raise _forbidden("only this machine may ask")
    if not _names_loopback(host or ""):
        raise _forbidden("Host has to name this machine, as in http://127.0.0.1 or http://localhost")
    if origin is not None and origin not in allowed:
        site = ORIGIN.fullmatch(origin)
        if site is None or not _names_loopback(site["host"]):
            raise _forbidden("pages of other sites may not ask")


def _names_loopback(host: str) -> bool:
    """Whether a ``Host`` header is ``localhost`` or a loopback address, with any port."""
    parts = HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts["v6"] or parts["name"]
    return name.lower() == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _forbidden(reason: str) -> ApiError:
    fix = "for others, set auth=keys and add keys, which python -m serve.keys makes"
    return ApiError(403, f"auth is off: {reason}; {fix}", code="not_loopback")
