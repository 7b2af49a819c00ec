"""API keys: the command that makes one, files of keys, and the check of a request's key.

    python -m serve.keys NAME

makes a key and prints it once, with its entry for ``keys`` in the settings or for the file that ``keys_file``
names. The server stores hashes only. A key has 256 random bits, so a plain SHA-256 cannot be reversed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from hmac import compare_digest
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lladav.config.cli import HELP_FLAGS, one_line_errors
from lladav.errors import UserError
from serve.errors import ApiError
from serve.settings import KeySettings, Section, ServeSettings, key_conflict
from serve.validation_errors import settings_error

PREFIX = "sk-lladav-"
BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)
USAGE = (
    "usage: python -m serve.keys NAME\n\nPrints a new API key once, and its entry for keys: of the settings."
)
HELP = """
# The key is shown only this once; give it to its holder. The server gets the hash below: put the entry under
# keys: of its settings, or into a file of such entries that keys_file names. To mount the file where ingress
# replicas run, make a Kubernetes Secret of it:
# kubectl create secret generic lladav-keys --from-file=keys.yaml
"""


class Authenticator:
    """Finds the API key of a request."""

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        self._keys = keys

    def identify(self, authorization: str | None) -> KeySettings:
        """The key in an ``Authorization`` header; raises ``ApiError`` 401 for a missing or unknown key."""
        if not authorization:
            raise _unauthorized("no API key; send Authorization: Bearer KEY")
        bearer = BEARER.fullmatch(authorization)
        if bearer is None:
            raise _unauthorized("Authorization is not of the form Bearer KEY; send it so")
        digest = hash_of(bearer[1])
        # Every key is compared, in constant time, so that the time to answer reveals nothing.
        found = [key for key in self._keys if compare_digest(key.sha256, digest)]
        if not found:
            raise _unauthorized("the API key is none of this server's; check it, or ask the operator for one")
        return found[0]


class KeyFile(Section):
    """The list in the file that ``keys_file`` names, under a name so that error messages can give paths."""

    keys: list[KeySettings]


def keys_of(settings: ServeSettings) -> list[KeySettings]:
    """The keys of the settings and of ``keys_file``, which is read now; raises ``UserError`` in one line."""
    if settings.keys_file is None:
        return settings.keys
    keys = [*settings.keys, *_read(Path(settings.keys_file))]
    if conflict := key_conflict(keys):
        raise UserError(f"{settings.keys_file}, with keys: {conflict}")
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
    """The parsed file. Messages quote nothing of it: a key may be there in clear by mistake."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{file}: not YAML; write entries as python -m serve.keys NAME prints them") from None


def hash_of(key: str) -> str:
    """The hash of a key, as settings store it."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def new_key() -> str:
    """A random key."""
    return PREFIX + secrets.token_urlsafe(32)


def entry(name: str, key: str) -> str:
    """The YAML entry of a key for the settings."""
    return yaml.safe_dump([{"name": name, "sha256": hash_of(key)}], sort_keys=False, allow_unicode=True)


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def main(arguments: Sequence[str]) -> None:
    """Print a new key and its entry for ``keys``."""
    if HELP_FLAGS & set(arguments):
        print(USAGE)
        return
    with one_line_errors():
        if len(arguments) != 1 or not arguments[0].strip() or arguments[0].startswith("-"):
            raise UserError("whose key? write python -m serve.keys NAME")
        key = new_key()
        print(key)
        print(HELP)
        print(entry(arguments[0], key), end="")
