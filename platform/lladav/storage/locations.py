"""Locations: a path on this machine, or a URI in an object store.

``str`` of a ``UPath`` keeps the scheme, and ``location`` accepts it again. ``pathlib.Path`` of a ``UPath``
loses the scheme: use ``local_path``.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from upath import UPath

from lladav.errors import UserError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""The supported schemes of object stores, and the optional dependency group that each needs."""

AnyPath = Path | UPath
"""A location, or a local path that was not made by ``location``."""


def location(text: str | Path | UPath) -> UPath:
    """Return the absolute location that a path or a URI names.

    Raises ``UserError`` for an unsupported scheme, a missing package, and a URI with credentials or options.
    """
    scheme = _scheme(str(text))
    if not scheme:
        return UPath(Path(str(text)).absolute())
    if scheme == "file":
        return UPath(UPath(text).path)
    _check_uri(str(text), scheme)
    try:
        # Other processes write to the same folders, so a cached listing would be stale.
        return UPath(str(text).rstrip("/"), use_listings_cache=False)
    except ImportError:
        extra = EXTRAS[scheme]
        raise UserError(f"{text}: {scheme}:// needs a package; run: pip install 'lladav[{extra}]'") from None


def absolute(text: str) -> str:
    """Return the location as text that does not depend on the working directory."""
    return str(location(text))


def local_path(path: UPath) -> Path | None:
    """Return the location as a path on this machine, or None if it is in an object store."""
    return Path(path) if isinstance(path, Path) else None


def is_uri(text: str) -> bool:
    """Whether ``text`` is the URI of an object store."""
    return _scheme(text) in EXTRAS


def _scheme(text: str) -> str:
    return text.partition("://")[0] if "://" in text else ""


def _check_uri(text: str, scheme: str) -> None:
    if scheme not in EXTRAS:
        raise UserError(f"{text}: {scheme}:// is not supported; use s3://, gs:// or a local path")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise UserError(
            f"{scheme}://...@{parts.hostname}: holds credentials; set them in the environment instead"
        )
    if parts.query:
        raise UserError(
            f"{text}: a URI takes no options; set AWS_ENDPOINT_URL or AWS_DEFAULT_REGION in the environment"
        )
