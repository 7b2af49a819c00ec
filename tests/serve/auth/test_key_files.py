"""Keys by reference: a file beside those of the settings, read where requests are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from lladav.errors import UserError
from serve.auth.keys import Authenticator, entry, hash_of, keys_of, new_key
from serve.errors import ApiError
from serve.settings import ServeSettings, load

KEYS = {name: new_key() for name in ("ada", "grace", "alan")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As the command prints them, one below the other."""
    file = tmp_path / "keys.yaml"
    file.write_text("".join(entry(name, KEYS[name]) for name in ("ada", "grace")))
    return file


def settings_of(file: Path, *names: str) -> ServeSettings:
    keys = [{"name": name, "sha256": hash_of(KEYS[name])} for name in names]
    return load({"config": "gpu", "model": "folder", "keys": keys, "keys_file": str(file)})


def refused(file: Path, *names: str) -> str:
    """What is said of a file, in one line that begins with its name."""
    with pytest.raises(UserError) as error:
        keys_of(settings_of(file, *names))
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(str(file))
    return said.removeprefix(str(file))


@pytest.mark.parametrize("names", [(), ("alan",)])
def test_its_keys_join_those_of_the_settings(file: Path, names: tuple[str, ...]) -> None:
    keys = Authenticator(keys_of(settings_of(file, *names)))
    for name in ("ada", "grace", *names):
        assert keys.identify(f"Bearer {KEYS[name]}").name == name
    with pytest.raises(ApiError):
        keys.identify("Bearer sk-unknown")


def test_its_entries_have_limits(file: Path) -> None:
    file.write_text(file.read_text() + "  concurrency: 3\n")
    assert Authenticator(keys_of(settings_of(file))).identify(f"Bearer {KEYS['grace']}").concurrency == 3


def test_it_is_read_when_an_ingress_starts(file: Path) -> None:
    settings = settings_of(file)
    file.write_text(entry("alan", KEYS["alan"]))
    assert Authenticator(keys_of(settings)).identify(f"Bearer {KEYS['alan']}").name == "alan"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == ": cannot be read (No such file or directory)"
    assert refused(tmp_path) == ": cannot be read (Is a directory)"


@pytest.mark.parametrize("text", ["", "[]", "keys: []", "a", "1"])
def test_a_file_without_a_list(text: str, file: Path) -> None:
    file.write_text(text)
    assert refused(file).startswith(": holds no list of keys")


@pytest.mark.parametrize("content", [b"- [", b"- {name: 'a'\n", b"\xff\xfe\xff", b"- \x00"])
def test_a_file_that_is_not_yaml(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert refused(file).startswith(": not YAML")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "keys[0]: Input should be a valid dictionary"),
        ("- {name: a}", "keys[0].sha256: needs a value"),
        ("- {name: a, sha25: b}", "keys[0].sha25: unknown setting; did you mean keys[0].sha256?"),
        ("- {name: a, sha256: sk-lladav-secret}", "keys[0].sha256: String should match pattern"),
    ],
)
def test_an_invalid_entry_is_refused(text: str, said: str, file: Path) -> None:
    file.write_text(text)
    assert refused(file).startswith(f": {said}")


@pytest.mark.parametrize("text", ["sk-lladav-secret", "- sk-lladav-secret: [", "- name: sk-lladav-secret"])
def test_a_key_in_clear_is_not_repeated(text: str, file: Path) -> None:
    file.write_text(text)
    assert "sk-lladav-secret" not in refused(file)


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("ada", "new", "names differ from each other; rename one"),
        ("augusta", KEYS["ada"], "two entries are of the same key; make another one"),
    ],
    ids=["names", "keys"],  # fixed ids: keys are random, and pytest-xdist needs equal names in all processes
)
def test_conflicting_keys_are_refused(name: str, key: str, said: str, file: Path) -> None:
    alone = file.read_text()
    file.write_text(alone + entry(name, key))
    assert refused(file) == f", with keys: {said}"
    file.write_text(entry(name, key))
    assert refused(file, "ada") == f", with keys: {said}"
