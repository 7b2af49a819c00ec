"""Who may ask: holders of keys, within their rate and concurrency; without keys this machine alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lladav.errors import UserError
from serve.auth.keys import PREFIX, Gate, entry, hash_of, main, new_key
from serve.errors import ApiError
from serve.settings import KeySettings, ServeSettings, load
from tests.apart import apart

KEYS = {name: new_key() for name in ("ada", "grace", "alan")}


def settings_of(storage: str = "async+memory://", **limits: int) -> ServeSettings:
    entries = [{"name": name, "sha256": hash_of(key), **limits} for name, key in KEYS.items()]
    return load({"model": "folder", "auth": "keys", "keys": entries, "limits_storage": storage})


GATE = Gate(settings_of())


def gate_and_key(**limits: int) -> tuple[Gate, KeySettings]:
    settings = settings_of("async+memory://", **limits)
    return Gate(settings), settings.keys[0]


def refused(authorization: str | None, gate: Gate = GATE) -> ApiError:
    with pytest.raises(ApiError) as error:
        gate.identify(authorization)
    assert (error.value.status, error.value.code) == (401, "invalid_api_key")
    assert error.value.body["error"]["type"] == "authentication_error"
    return error.value


class TestIdentify:
    @pytest.mark.parametrize("name", KEYS)
    def test_a_key_is_its_holders(self, name: str) -> None:
        assert GATE.identify(f"Bearer {KEYS[name]}").name == name

    @pytest.mark.parametrize("form", ["bearer {}", "BEARER  {}", "Bearer {} "])
    def test_the_scheme_is_read_as_http_has_it(self, form: str) -> None:
        assert GATE.identify(form.format(KEYS["ada"])).name == "ada"

    @pytest.mark.parametrize(
        "header",
        [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", pytest.param(KEYS["ada"], id="a key")],
    )
    def test_what_is_no_bearer_is_refused(self, header: str | None) -> None:
        assert "Bearer KEY" in refused(header).message

    @given(st.text(st.characters(codec="latin-1"), min_size=1))
    def test_other_keys_are_refused_and_not_repeated(self, text: str) -> None:
        secret = PREFIX + text
        message = refused(f"Bearer {secret}").message
        assert secret not in message
        assert message.isascii()

    @given(st.sampled_from(sorted(KEYS.values())), st.data())
    def test_a_key_with_one_wrong_character_is_refused(self, key: str, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(key) - 1))
        other = data.draw(
            st.characters(codec="ascii", categories=["L", "N"]).filter(lambda c: c != key[place])
        )
        refused(f"Bearer {key[:place]}{other}{key[place + 1 :]}")

    def test_the_hash_of_a_key_is_none(self) -> None:
        refused(f"Bearer {hash_of(KEYS['ada'])}")

    @pytest.mark.parametrize("name", [*KEYS, None])
    def test_every_key_is_compared(self, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        compared: list[tuple[str, str]] = []

        def compare(a: str, b: str) -> bool:
            compared.append((a, b))
            return a == b

        monkeypatch.setattr("serve.auth.keys.compare_digest", compare)
        if name is None:
            refused("Bearer sk-unknown")
        else:
            GATE.identify(f"Bearer {KEYS[name]}")
        assert [a for a, _ in compared] == [hash_of(key) for key in KEYS.values()]

    def test_where_there_are_no_keys_none_fits(self) -> None:
        refused(f"Bearer {KEYS['ada']}", Gate(load({"model": "folder"})))


class TestAdmit:
    def test_a_key_has_so_many_requests_a_minute(self) -> None:
        gate, key = gate_and_key(requests_per_minute=5)

        async def ask(times: int) -> None:
            for _ in range(times):
                async with gate.admit(key):
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

    def test_the_window_moves(self) -> None:
        """The reported wait ends when the oldest request leaves the window; then one more request fits."""
        waits = apart(waits_at, (0.0, 20.0, 30.0, 59.0, 60.5, 61.0, 79.0, 80.5))
        assert waits == pytest.approx([None, None, 30.0, 1.0, None, 19.0, 1.0, None])

    def test_a_refused_request_does_not_count(self) -> None:
        gate, key = gate_and_key(requests_per_minute=2, concurrency=1)

        async def run() -> list[str | None]:
            async with gate.admit(key):
                codes = [await code_of(gate, key) for _ in range(5)]
            return [*codes, await code_of(gate, key), await code_of(gate, key)]

        assert asyncio.run(run()) == ["concurrency_limit_exceeded"] * 5 + [None, "rate_limit_exceeded"]

    @given(concurrency=st.integers(1, 5), asked=st.integers(0, 9))
    def test_a_key_has_so_many_requests_at_a_time(self, concurrency: int, asked: int) -> None:
        gate, key = gate_and_key(concurrency=concurrency)

        async def run() -> tuple[list[str | None], str | None]:
            async with AsyncExitStack() as running:
                codes = [await code_of(gate, key, running) for _ in range(asked)]
            return codes, await code_of(gate, key)

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
    def test_requests_that_come_at_once_are_counted(self, limits: dict[str, int], code: str) -> None:
        gate, key = gate_and_key(**limits)

        async def run() -> list[str | None]:
            async with AsyncExitStack() as running:
                return await asyncio.gather(*(code_of(gate, key, running) for _ in range(5)))

        codes = asyncio.run(run())
        assert (codes.count(None), codes.count(code)) == (3, 2)

    @pytest.mark.parametrize("end", [ValueError, asyncio.CancelledError])
    def test_a_place_is_given_back_however_a_request_ends(self, end: type[BaseException]) -> None:
        gate, key = gate_and_key(concurrency=1)

        async def run() -> None:
            for _ in range(3):
                with pytest.raises(end):
                    async with gate.admit(key):
                        raise end

        asyncio.run(run())

    def test_keys_do_not_share(self) -> None:
        settings = settings_of(requests_per_minute=1, concurrency=1)
        gate = Gate(settings)

        async def run() -> list[str | None]:
            async with AsyncExitStack() as running:
                return [await code_of(gate, key, running) for key in settings.keys]

        assert asyncio.run(run()) == [None] * 3

    def test_rates_that_cannot_be_counted_are_503(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gate, key = gate_and_key()
        storage: Any = gate._limiter.storage

        async def run() -> ApiError:
            def lost(_: str) -> None:
                raise ValueError("connection refused by user:password")  # what a memory storage may raise

            monkeypatch.setattr(storage.locks, "default_factory", lambda: lost(""))
            with pytest.raises(ApiError) as error:
                async with gate.admit(key):
                    pass
            return error.value

        error = asyncio.run(run())
        assert (error.status, error.code, error.retry_after) == (503, "rates_unavailable", 1.0)
        assert "password" not in error.message

    def test_a_storage_that_does_not_answer_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("serve.auth.keys.STORAGE_SECONDS", 0.05)
        gate, key = gate_and_key()

        async def hit(*_: object) -> bool:
            return bool(await asyncio.Event().wait())

        monkeypatch.setattr(gate._limiter, "hit", hit)

        async def run() -> ApiError:
            with pytest.raises(ApiError) as error:
                async with gate.admit(key):
                    pass
            return error.value

        assert asyncio.run(run()).code == "rates_unavailable"
        assert gate._running[key.name] == 0

    @pytest.mark.parametrize(
        "uri", ["async+nothing://h", "async+redis://user:password@[h", "async+memcached://h:1"]
    )
    def test_a_storage_that_cannot_be_is_refused_at_the_start(self, uri: str) -> None:
        with pytest.raises(UserError, match="limits_storage: ") as error:
            Gate(settings_of(uri))
        assert "password" not in str(error.value)
        assert "\n" not in str(error.value)


def waits_at(moments: Sequence[float]) -> list[float | None]:
    """The waits of requests at these seconds, by a clock that it replaces: call it ``apart``."""
    start = now = time.time()
    time.time = lambda: now
    gate, key = gate_and_key(requests_per_minute=2)

    async def run() -> list[float | None]:
        nonlocal now
        waits = []
        for moment in moments:
            now = start + moment
            waits.append(await wait_of(gate, key))
        return waits

    return asyncio.run(run())


async def wait_of(gate: Gate, key: KeySettings) -> float | None:
    """How long the next request is told to wait; none where it is admitted."""
    try:
        async with gate.admit(key):
            return None
    except ApiError as error:
        return error.retry_after


async def code_of(gate: Gate, key: KeySettings, running: AsyncExitStack | None = None) -> str | None:
    """Why the next request is refused; one that is admitted stays as long as ``running``."""
    try:
        if running is not None:
            await running.enter_async_context(gate.admit(key))
        else:
            async with gate.admit(key):
                pass
    except ApiError as error:
        return error.code
    return None


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


def why_not(peer: str | None, host: str | None, origin: str | None) -> ApiError | None:
    try:
        GATE.check_loopback(peer, host, origin)
    except ApiError as error:
        return error
    return None


def let_in(peer: str | None, host: str | None, origin: str | None = None) -> bool:
    error = why_not(peer, host, origin)
    if error is not None:
        assert (error.status, error.code) == (403, "not_loopback")
        assert error.body["error"]["type"] == "permission_error"
        assert "auth=keys" in error.message
    return error is None


class TestLoopback:
    @given(st.sampled_from(PEERS), st.sampled_from(HOSTS), st.none() | st.sampled_from(HOSTS))
    def test_this_machine_may_ask(self, peer: str, host: str, site: str | None) -> None:
        assert let_in(peer, host, site and f"http://{site}")

    @given(st.sampled_from(OTHER_PEERS), st.sampled_from(HOSTS))
    def test_others_may_not(self, peer: str | None, host: str) -> None:
        assert not let_in(peer, host)

    @pytest.mark.parametrize("host", OTHER_HOSTS)
    def test_a_name_of_elsewhere_may_not_though_it_resolves_to_loopback(self, host: str | None) -> None:
        assert not let_in("127.0.0.1", host)

    @pytest.mark.parametrize("host", [host for host in OTHER_HOSTS if host is not None])
    def test_pages_of_elsewhere_may_not(self, host: str) -> None:
        assert not let_in("127.0.0.1", "127.0.0.1:8000", f"https://{host}")

    @pytest.mark.parametrize("origin", ["null", "", "localhost", "file://", "ftp://localhost", "http://localhost/a/b",
                                        "http://localhost http://example.org"])  # fmt: skip
    def test_an_origin_is_a_page_of_loopback_or_none_at_all(self, origin: str) -> None:
        assert not let_in("127.0.0.1", "127.0.0.1:8000", origin)

    @given(st.ip_addresses())
    def test_an_address_is_let_in_if_it_is_loopback(self, address: Any) -> None:
        host = f"[{address}]" if address.version == 6 else str(address)
        loopback = (getattr(address, "ipv4_mapped", None) or address).is_loopback
        assert let_in(str(address), "localhost") == loopback
        assert let_in("127.0.0.1", host) == loopback

    @given(st.text(max_size=30))
    def test_any_header_is_answered(self, text: str) -> None:
        assert not let_in("127.0.0.1", f"{text}x")
        assert not let_in("127.0.0.1", "localhost", f"{text}x")


class TestMaking:
    def test_a_key_is_new_each_time(self) -> None:
        keys = {new_key() for _ in range(100)}
        assert len(keys) == 100
        assert all(key.startswith("sk-lladav-") and len(key) == len(PREFIX) + 43 for key in keys)

    @given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
    def test_the_entry_lets_its_key_in(self, name: str) -> None:
        key = new_key()
        settings = load({"model": "m", "auth": "keys", "keys": yaml.safe_load(entry(name, key))})
        assert settings.keys[0].sha256 == hashlib.sha256(key.encode()).hexdigest()
        assert Gate(settings).identify(f"Bearer {key}").name == name
        assert key not in entry(name, key)

    def test_the_command_prints_the_key_once_and_its_entry(self, root: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [sys.executable, "-m", "serve.auth.keys", "Ada: of London"]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        key, _, rest = done.stdout.partition("\n")
        assert key not in rest
        assert yaml.safe_load(rest) == [{"name": "Ada: of London", "sha256": hash_of(key)}]

    @pytest.mark.parametrize("arguments", [[], ["a", "b"], [" "], ["--name"]])
    def test_the_command_wants_a_name(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert capsys.readouterr().err == "error: whose key? write python -m serve.keys NAME\n"
