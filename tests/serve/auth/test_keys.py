"""API keys: who is identified, how a key is made, and the command that makes it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve.auth.keys import PREFIX, Authenticator, entry, hash_of, main, new_key
from serve.errors import ApiError
from serve.settings import KeySettings, load

KEYS = {name: new_key() for name in ("ada", "grace", "alan")}
AUTHENTICATOR = Authenticator([KeySettings(name=name, sha256=hash_of(key)) for name, key in KEYS.items()])


def refused(authorization: str | None, authenticator: Authenticator = AUTHENTICATOR) -> ApiError:
    with pytest.raises(ApiError) as error:
        authenticator.identify(authorization)
    assert (error.value.status, error.value.code) == (401, "invalid_api_key")
    assert error.value.body["error"]["type"] == "authentication_error"
    return error.value


class TestIdentify:
    @pytest.mark.parametrize("name", KEYS)
    def test_a_key_identifies_its_holder(self, name: str) -> None:
        assert AUTHENTICATOR.identify(f"Bearer {KEYS[name]}").name == name

    @pytest.mark.parametrize("form", ["bearer {}", "BEARER  {}", "Bearer {} "])
    def test_the_scheme_is_case_insensitive(self, form: str) -> None:
        assert AUTHENTICATOR.identify(form.format(KEYS["ada"])).name == "ada"

    @pytest.mark.parametrize(
        "header",
        [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", pytest.param(KEYS["ada"], id="a key")],
    )
    def test_other_schemes_are_refused(self, header: str | None) -> None:
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

    def test_the_hash_of_a_key_is_refused(self) -> None:
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
            AUTHENTICATOR.identify(f"Bearer {KEYS[name]}")
        assert [a for a, _ in compared] == [hash_of(key) for key in KEYS.values()]

    def test_without_keys_every_key_is_refused(self) -> None:
        refused(f"Bearer {KEYS['ada']}", Authenticator([]))


class TestNewKeys:
    def test_a_key_is_new_each_time(self) -> None:
        keys = {new_key() for _ in range(100)}
        assert len(keys) == 100
        assert all(key.startswith("sk-lladav-") and len(key) == len(PREFIX) + 43 for key in keys)

    @given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
    def test_the_entry_admits_its_key(self, name: str) -> None:
        key = new_key()
        settings = load({"model": "m", "auth": "keys", "keys": yaml.safe_load(entry(name, key))})
        assert settings.keys[0].sha256 == hashlib.sha256(key.encode()).hexdigest()
        assert Authenticator(settings.keys).identify(f"Bearer {key}").name == name
        assert key not in entry(name, key)

    def test_the_command_prints_the_key_once_and_its_entry(self, root: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [sys.executable, "-m", "serve.keys", "Ada: of London"]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        key, _, rest = done.stdout.partition("\n")
        assert key not in rest
        assert yaml.safe_load(rest) == [{"name": "Ada: of London", "sha256": hash_of(key)}]

    @pytest.mark.parametrize("arguments", [[], ["a", "b"], [" "], ["--name"]])
    def test_the_command_needs_a_name(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert capsys.readouterr().err == "error: whose key? write python -m serve.keys NAME\n"
