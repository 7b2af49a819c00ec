"""Rate and concurrency of an API key. ``RequestLimits`` checks what one request contains."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

from limits import RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from lladav.errors import UserError
from serve.errors import ApiError
from serve.settings import KeySettings

NAMESPACE = "lladav"
"""Prefix of the counts in a storage that other programs may share."""
STORAGE_SECONDS = 2.0
"""Time limit of a call to the storage."""
RETRY_SECONDS = 1.0
"""``Retry-After`` when it is unknown how long the client has to wait."""


class RateLimiter:
    """Limits of API keys; one for each event loop."""

    def __init__(self, model: str, storage: str) -> None:
        """``model`` is the name of the served model, whose requests are counted apart from those of others.

        Raises ``UserError`` if ``storage`` cannot be used.
        """
        self._model = model
        self._limiter = MovingWindowRateLimiter(_storage(storage))
        self._running: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def admit(self, key: KeySettings) -> AsyncIterator[None]:
        """Count a request of the key as running until the block ends; raises ``ApiError`` above a limit.

        Running requests are counted in this process, rates in the storage. A request that is refused for its
        concurrency does not count toward the rate.
        """
        if self._running[key.name] >= key.concurrency:
            message = f"{key.concurrency} requests of this key are running; wait for one to end"
            raise ApiError(429, message, code="concurrency_limit_exceeded", retry_after=RETRY_SECONDS)
        self._running[key.name] += 1
        try:
            await self._check_rate(key)
            yield
        finally:
            self._running[key.name] -= 1

    async def _check_rate(self, key: KeySettings) -> None:
        item = RateLimitItemPerMinute(key.requests_per_minute, namespace=NAMESPACE)
        names = (self._model, key.name)
        try:
            async with asyncio.timeout(STORAGE_SECONDS):
                if await self._limiter.hit(item, *names):
                    return
                reset = (await self._limiter.get_window_stats(item, *names)).reset_time
        except (StorageError, TimeoutError):
            message = "rates cannot be counted now; ask again"
            raise ApiError(503, message, code="rates_unavailable", retry_after=RETRY_SECONDS) from None
        wait = max(0.0, reset - time.time())
        message = f"this key may ask {key.requests_per_minute} times a minute; wait {wait:.0f} s"
        raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)


def _storage(uri: str) -> Storage:
    try:
        storage = storage_from_string(uri, wrap_exceptions=True)
    except ConfigurationError as error:
        raise UserError(f"limits_storage: {' '.join(str(error).split())}") from None
    except ValueError:  # its message may repeat a part of the URI, which may hold a password
        raise UserError("limits_storage: not a URI; write async+redis://HOST:PORT") from None
    assert isinstance(storage, Storage)
    return storage
