"""Who may ask, and how much: API keys, their rates, and the loopback rule where there are none.

    python -m serve.keys NAME

makes a key and prints it once, with the entry for ``keys`` of the settings or for the file that ``keys_file``
names. The server keeps hashes alone: a key holds 256 random bits, so that a plain SHA-256 of it cannot be
undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from hmac import compare_digest
from pathlib import Path
from typing import Any

import yaml
from limits import RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from pydantic import ValidationError

from lladav.config.cli import one_line_errors
from lladav.errors import UserError
from serve.errors import ApiError
from serve.settings import KeySettings, Section, ServeSettings, key_conflict
from serve.validation_errors import settings_error

PREFIX = "sk-lladav-"
NAMESPACE = "lladav"
"""Of the counts, in a storage that others may use, too."""
STORAGE_SECONDS = 2.0
"""Within which the storage of rates answers."""
AGAIN_SECONDS = 1.0
"""After which a client may ask again where it cannot be known when there is room."""

USAGE = (
    "usage: python -m serve.keys NAME\n\nPrints a new API key once, and its entry for keys: of the settings."
)

HELP = """
# shown this once; for its holder. The server gets its hash, below keys: of its settings, or in a file of such
# entries that keys_file names. A Kubernetes Secret of it, to be mounted where ingress replicas run:
# kubectl create secret generic lladav-keys --from-file=keys.yaml
"""

BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)
HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^:/@\[\]]+))(?::[0-9]{1,5})?", re.IGNORECASE)
ORIGIN = re.compile(r"https?://(?P<host>[^/]+)", re.IGNORECASE)


class Gate:
    """What a request has to pass; for one event loop. All methods raise ``ApiError``."""

    def __init__(self, settings: ServeSettings) -> None:
        """Raises ``UserError`` where rates cannot be counted as the settings say, or for a file of keys that
        cannot be used."""
        self._model, self._keys = settings.name, keys_of(settings)
        self._limiter = MovingWindowRateLimiter(_storage(settings.limits_storage))
        self._running: Counter[str] = Counter()

    def identify(self, authorization: str | None) -> KeySettings:
        """The key in an ``Authorization`` header; every key is compared, so that time tells nothing."""
        if not authorization:
            raise _unauthorized("no API key; send Authorization: Bearer KEY")
        given = BEARER.fullmatch(authorization)
        if given is None:
            raise _unauthorized("Authorization is not of the form Bearer KEY; send it so")
        digest = hash_of(given[1])
        found = [key for key in self._keys if compare_digest(key.sha256, digest)]
        if not found:
            raise _unauthorized("the API key is none of this server's; check it, or ask the operator for one")
        return found[0]

    @contextlib.asynccontextmanager
    async def admit(self, key: KeySettings) -> AsyncIterator[None]:
        """Hold one of the key's places while a request runs, counted at this process; its rate is counted
        in the storage."""
        if self._running[key.name] >= key.concurrency:
            message = f"{key.concurrency} requests of this key are running; wait for one to end"
            raise ApiError(429, message, code="concurrency_limit_exceeded", retry_after=AGAIN_SECONDS)
        self._running[key.name] += 1
        try:
            await self._count(key)
            yield
        finally:
            self._running[key.name] -= 1

    async def _count(self, key: KeySettings) -> None:
        item = RateLimitItemPerMinute(key.requests_per_minute, namespace=NAMESPACE)
        names = (self._model, key.name)
        try:
            async with asyncio.timeout(STORAGE_SECONDS):
                if await self._limiter.hit(item, *names):
                    return
                reset = (await self._limiter.get_window_stats(item, *names)).reset_time
        except (StorageError, TimeoutError):
            message = "rates cannot be counted now; ask again"
            raise ApiError(503, message, code="rates_unavailable", retry_after=AGAIN_SECONDS) from None
        wait = max(0.0, reset - time.time())
        message = f"this key may ask {key.requests_per_minute} times a minute; wait {wait:.0f} s"
        raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)

    def check_loopback(self, client: str | None, host: str | None, origin: str | None = None) -> None:
        """Let this machine alone pass: ``client`` is the peer's address, the others are headers.

        A web page elsewhere could make a browser here ask: by its own name that resolves to loopback, which
        ``Host`` tells, or across sites, which ``Origin`` tells.
        """
        if not _is_loopback(client or ""):
            raise _forbidden("only this machine may ask")
        if not _names_loopback(host or ""):
            raise _forbidden("Host has to name this machine, as in http://127.0.0.1 or http://localhost")
        if origin is not None and not _is_of_loopback(origin):
            raise _forbidden("pages of other sites may not ask")


class KeyFile(Section):
    """What the file that ``keys_file`` names holds, below a name for messages about it."""

    keys: list[KeySettings]


def keys_of(settings: ServeSettings) -> list[KeySettings]:
    """The keys of the settings and of their file, which is read now; raises ``UserError`` in one line."""
    if settings.keys_file is None:
        return settings.keys
    keys = [*settings.keys, *_read(Path(settings.keys_file))]
    if why := key_conflict(keys):
        raise UserError(f"{settings.keys_file}, with keys: {why}")
    return keys


def _read(file: Path) -> list[KeySettings]:
    entries = _entries(file)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: holds no list of keys; python -m serve.keys NAME prints entries of one")
    values = {"keys": entries}
    try:
        return KeyFile.model_validate(values).keys
    except ValidationError as error:
        raise UserError(f"{file}: {settings_error(error, KeyFile, values)}") from None


def _entries(file: Path) -> Any:
    """Messages repeat nothing of the file: a key in clear may be there by mistake."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{file}: not YAML; write entries as python -m serve.keys NAME prints them") from None


def hash_of(key: str) -> str:
    """What the settings keep of a key."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def new_key() -> str:
    """A key that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(32)


def entry(name: str, key: str) -> str:
    """The YAML that lets a key in."""
    return yaml.safe_dump([{"name": name, "sha256": hash_of(key)}], sort_keys=False, allow_unicode=True)


def _storage(uri: str) -> Storage:
    try:
        storage = storage_from_string(uri, wrap_exceptions=True)
    except ConfigurationError as error:
        raise UserError(f"limits_storage: {' '.join(str(error).split())}") from None
    except ValueError:  # whose message may hold a part of the URI, and that a password
        raise UserError("limits_storage: not a URI; write async+redis://HOST:PORT") from None
    assert isinstance(storage, Storage)
    return storage


def _names_loopback(host: str) -> bool:
    """Whether a ``Host`` header is ``localhost`` or an address of loopback, with any port."""
    parts = HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts["v6"] or parts["name"]
    return name.lower() == "localhost" or _is_loopback(name)


def _is_of_loopback(origin: str) -> bool:
    parts = ORIGIN.fullmatch(origin)
    return parts is not None and _names_loopback(parts["host"])


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def _forbidden(reason: str) -> ApiError:
    fix = "for others, set auth=keys and add keys, which python -m serve.keys makes"
    return ApiError(403, f"auth is off: {reason}; {fix}", code="not_loopback")


def main(arguments: Sequence[str]) -> None:
    """Print a new key and its entry for ``keys``."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    with one_line_errors():
        if len(arguments) != 1 or not arguments[0].strip() or arguments[0].startswith("-"):
            raise UserError("whose key? write python -m serve.keys NAME")
        key = new_key()
        print(key)
        print(HELP)
        print(entry(arguments[0], key), end="")
