"""Rate and concurrency of API keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.errors import UserError
from serve.auth.keys import hash_of
from serve.auth.rate_limits import RateLimiter
from serve.errors import ApiError
from serve.settings import KeySettings
from tests.apart import apart

STORAGE = "async+memory://"


def key_of(holder: str = "ada", **limits: Any) -> KeySettings:
    return KeySettings(name=holder, sha256=hash_of(holder), **limits)


def limiter_and_key(**limits: Any) -> tuple[RateLimiter, KeySettings]:
    return RateLimiter("model", STORAGE), key_of(**limits)


def test_the_rate_is_limited() -> None:
    limiter, key = limiter_and_key(requests_per_minute=5)

    async def ask(times: int) -> None:
        for _ in range(times):
            async with limiter.admit(key):
                pass

    async def run() -> ApiError:
        await ask(5)
        with pytest.raises(ApiError) as error:
            await ask(1)
        return error.value

    error = asyncio.run(run())
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert 58 <= int(error.headers["Retry-After"]) <= 60
    assert "5 times a minute" in error.message


def test_the_window_moves() -> None:
    """The reported wait ends when the oldest request leaves the window; then one more request fits."""
    waits = apart(waits_at, (0.0, 20.0, 30.0, 59.0, 60.5, 61.0, 79.0, 80.5))
    assert waits == pytest.approx([None, None, 30.0, 1.0, None, 19.0, 1.0, None])


def test_a_refused_request_does_not_count() -> None:
    limiter, key = limiter_and_key(requests_per_minute=2, concurrency=1)

    async def run() -> list[str | None]:
        async with limiter.admit(key):
            codes = [await code_of(limiter, key) for _ in range(5)]
        return [*codes, await code_of(limiter, key), await code_of(limiter, key)]

    assert asyncio.run(run()) == ["concurrency_limit_exceeded"] * 5 + [None, "rate_limit_exceeded"]


@given(concurrency=st.integers(1, 5), asked=st.integers(0, 9))
def test_the_concurrency_is_limited(concurrency: int, asked: int) -> None:
    limiter, key = limiter_and_key(concurrency=concurrency)

    async def run() -> tuple[list[str | None], str | None]:
        async with AsyncExitStack() as running:
            codes = [await code_of(limiter, key, running) for _ in range(asked)]
        return codes, await code_of(limiter, key)

    codes, after = asyncio.run(run())
    free = min(asked, concurrency)
    assert codes == [None] * free + ["concurrency_limit_exceeded"] * (asked - free)
    assert after is None


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"concurrency": 3}, "concurrency_limit_exceeded"),
        ({"requests_per_minute": 3}, "rate_limit_exceeded"),
    ],
)
def test_simultaneous_requests_are_counted(limits: dict[str, int], code: str) -> None:
    limiter, key = limiter_and_key(**limits)

    async def run() -> list[str | None]:
        async with AsyncExitStack() as running:
            return await asyncio.gather(*(code_of(limiter, key, running) for _ in range(5)))

    codes = asyncio.run(run())
    assert (codes.count(None), codes.count(code)) == (3, 2)


@pytest.mark.parametrize("end", [ValueError, asyncio.CancelledError])
def test_a_request_no_longer_counts_however_it_ends(end: type[BaseException]) -> None:
    limiter, key = limiter_and_key(concurrency=1)

    async def run() -> None:
        for _ in range(3):
            with pytest.raises(end):
                async with limiter.admit(key):
                    raise end

    asyncio.run(run())


def test_keys_are_counted_apart() -> None:
    limiter = RateLimiter("model", STORAGE)
    keys = [key_of(name, requests_per_minute=1, concurrency=1) for name in ("ada", "grace", "alan")]

    async def run() -> list[str | None]:
        async with AsyncExitStack() as running:
            return [await code_of(limiter, key, running) for key in keys]

    assert asyncio.run(run()) == [None] * 3


def test_rates_that_cannot_be_counted_are_503(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, key = limiter_and_key()
    storage: Any = limiter._limiter.storage

    async def run() -> ApiError:
        def lost(_: str) -> None:
            raise ValueError("connection refused by user:password")  # what a memory storage may raise

        monkeypatch.setattr(storage.locks, "default_factory", lambda: lost(""))
        with pytest.raises(ApiError) as error:
            async with limiter.admit(key):
                pass
        return error.value

    error = asyncio.run(run())
    assert (error.status, error.code, error.retry_after) == (503, "rates_unavailable", 1.0)
    assert "password" not in error.message


def test_a_storage_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.auth.rate_limits.STORAGE_SECONDS", 0.05)
    limiter, key = limiter_and_key()

    async def hit(*_: object) -> bool:
        return bool(await asyncio.Event().wait())

    monkeypatch.setattr(limiter._limiter, "hit", hit)

    async def run() -> ApiError:
        with pytest.raises(ApiError) as error:
            async with limiter.admit(key):
                pass
        return error.value

    assert asyncio.run(run()).code == "rates_unavailable"
    assert limiter._running[key.name] == 0


@pytest.mark.parametrize(
    "uri", ["async+nothing://h", "async+redis://user:password@[h", "async+memcached://h:1"]
)
def test_an_unusable_storage_is_refused_at_the_start(uri: str) -> None:
    with pytest.raises(UserError, match="limits_storage: ") as error:
        RateLimiter("model", uri)
    assert "password" not in str(error.value)
    assert "\n" not in str(error.value)


def waits_at(moments: Sequence[float]) -> list[float | None]:
    """The waits of requests at these seconds. It replaces the clock, so call it through ``apart``."""
    start = now = time.time()
    time.time = lambda: now
    limiter, key = limiter_and_key(requests_per_minute=2)

    async def run() -> list[float | None]:
        nonlocal now
        waits = []
        for moment in moments:
            now = start + moment
            waits.append(await wait_of(limiter, key))
        return waits

    return asyncio.run(run())


async def wait_of(limiter: RateLimiter, key: KeySettings) -> float | None:
    """Seconds that the next request has to wait; none if it is admitted."""
    try:
        async with limiter.admit(key):
            return None
    except ApiError as error:
        return error.retry_after


async def code_of(
    limiter: RateLimiter, key: KeySettings, running: AsyncExitStack | None = None
) -> str | None:
    """Code of the error of the next request; one that is admitted runs as long as ``running``."""
    try:
        if running is not None:
            await running.enter_async_context(limiter.admit(key))
        else:
            async with limiter.admit(key):
                pass
    except ApiError as error:
        return error.code
    return None
