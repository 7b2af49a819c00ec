"""One kind of error for all file systems and object stores."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lladav.errors import UserError
from lladav.storage.locations import AnyPath

_CLIENT_PACKAGES = ("aiohttp", "botocore", "gcsfs", "google", "s3fs")
"""Packages whose errors mean that an object store cannot be reached or refuses a request."""
_CREDENTIAL_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Errors that a retry cannot fix."""


@contextmanager
def as_user_error(what: str, fix: str) -> Iterator[None]:
    """Turn an ``OSError`` into a ``UserError`` with the line "``what`` (cause); ``fix``"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror or error}); {fix}") from error


@contextmanager
def as_os_error(path: AnyPath) -> Iterator[None]:
    """Turn every error of an object store's client into an ``OSError`` with number, text and ``path``."""
    try:
        yield
    except Exception as error:
        if isinstance(path, Path) or not _is_from_client(error):
            raise
        raise OSError(*_number_and_text(error), str(path)) from error


def _is_from_client(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENT_PACKAGES


def _number_and_text(error: Exception) -> tuple[int, str]:
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT, "no such file, folder or bucket"
    if isinstance(error, PermissionError):
        return errno.EACCES, "access denied"
    if type(error).__name__ in _CREDENTIAL_ERRORS:
        return errno.EACCES, str(error)
    if isinstance(error, FileExistsError):
        return errno.EEXIST, "exists already"
    number = error.errno if isinstance(error, OSError) else None
    return number or errno.EIO, (str(error) or type(error).__name__).splitlines()[0]
