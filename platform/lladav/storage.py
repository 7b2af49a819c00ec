"""Locations of data, weights and runs: a local path, or a URI in an object store.

``location`` turns either into a ``UPath``. ``str`` of one keeps the scheme, and ``location`` accepts it
again; ``pathlib.Path`` of one loses it. Credentials and endpoints come from the environment
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``GOOGLE_APPLICATION_CREDENTIALS`` ...), never from a URI.

A file appears whole or not at all for a reader: local writes go to a temporary name first; object stores
publish a file when its upload is complete. Every function raises ``OSError`` with number and
text where the storage refuses, whatever the client of the object store raises.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from os import fsync
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upath import UPath

from lladav.errors import UserError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""Schemes of object stores, and the optional dependency group that each needs."""

AnyPath = Path | UPath
"""A location, or a path of this machine that never went through ``location``."""

_CLIENT_MODULES = ("aiohttp", "botocore", "gcsfs", "google", "s3fs")
"""Packages whose errors mean that an object store cannot be reached or refuses a request."""
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "updated")
"""Details in which an object store says that a file has changed."""
_WITHOUT_RIGHTS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Errors that a retry cannot fix."""


def location(text: str | Path | UPath) -> UPath:
    """The location that a path or a URI names, absolute.

    Raises ``UserError`` for a scheme that is not supported, and where its package is not installed.
    """
    scheme = _scheme(str(text))
    if not scheme:
        return UPath(Path(str(text)).absolute())
    if scheme == "file":
        return UPath(UPath(text).path)
    _refuse_unsupported(str(text), scheme)
    try:
        return UPath(str(text).rstrip("/"), use_listings_cache=False)
    except ImportError:
        extra = EXTRAS[scheme]
        raise UserError(f"{text}: {scheme}:// needs a package; run: pip install 'lladav[{extra}]'") from None


def absolute(text: str) -> str:
    """The same location as text that means the same in every working folder."""
    return str(location(text))


def local_path(place: UPath) -> Path | None:
    """The location as a path on this machine; None for an object store."""
    return Path(place) if isinstance(place, Path) else None


def is_uri(text: str) -> bool:
    """Whether text names something in an object store."""
    return _scheme(text) in EXTRAS


def _scheme(text: str) -> str:
    return text.partition("://")[0] if "://" in text else ""


def _refuse_unsupported(text: str, scheme: str) -> None:
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


def exists(place: AnyPath) -> bool:
    """Whether a file or folder exists."""
    with access(place):
        return place.exists()


def is_folder(place: UPath) -> bool:
    """Whether a folder exists."""
    with access(place):
        return place.is_dir()


def subfolders(folder: UPath) -> list[str]:
    """Sorted names of the folders in a folder; empty where it does not exist."""
    return _names(folder, "directory")


def files_in(folder: AnyPath) -> list[str]:
    """Sorted names of the files directly in a folder; empty where it does not exist."""
    return _names(UPath(folder), "file")


def _names(folder: UPath, kind: str) -> list[str]:
    try:
        with access(folder):
            entries = folder.fs.ls(folder.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind)


def file_sizes(folder: UPath) -> dict[str, int]:
    """Bytes of every file under a folder, by relative path: one listing."""
    return {name: info["size"] for name, info in file_infos(folder).items()}


def file_infos(folder: UPath) -> dict[str, dict[str, Any]]:
    """The object store's or file system's details of every file under a folder, by relative path."""
    root = folder.path.rstrip("/")
    with access(folder):
        found: Any = folder.fs.find(root, detail=True)
    return {path[len(root) + 1 :]: info for path, info in found.items() if path != root}


def file_info(file: UPath) -> dict[str, Any]:
    """The same details of one file."""
    with access(file):
        return file.fs.info(file.path)


def make_folder(folder: UPath) -> None:
    """Create a local folder; object stores have none, and a missing bucket must not be created by a typo."""
    if local := local_path(folder):
        local.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: UPath) -> None:
    """Remove a folder and everything in it.

    Object by object: the clients' recursive calls take ``*`` and ``[`` in a name for a pattern.
    """
    if local := local_path(folder):
        shutil.rmtree(local)
        return
    for name in file_sizes(folder):
        remove_file(folder / name)


def remove_file(file: UPath) -> None:
    """Remove a file."""
    with access(file):
        file.fs.rm_file(file.path)


def read_text(file: AnyPath) -> str:
    """The text of a file in UTF-8; of an object that is being replaced, the old or the new one."""
    if isinstance(file, Path):
        return file.read_text(encoding="utf-8")
    with access(file):
        content: Any = file.fs.cat_file(file.path)
    return content.decode()


def version(place: AnyPath) -> tuple[int, str | int]:
    """Bytes of a file, and what changes with its content: its time, or what its object store says.

    Of a folder in an object store, which has neither, nothing.
    """
    if isinstance(place, Path):
        status = place.stat()
        return status.st_size, status.st_mtime_ns
    info = file_info(place)
    return info.get("size") or 0, fingerprint(info)


def fingerprint(info: dict[str, Any]) -> str:
    """What changes when the content of an object changes, from its details."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def glob(root: UPath, pattern: str) -> list[UPath]:
    """Sorted files and folders of an object store that match a pattern, which starts at ``root``."""
    with access(root):
        found: Any = root.fs.glob(f"{escape(root.path.rstrip('/'))}/{pattern}")
    return sorted(location(f"{root.protocol}://{path}") for path in found)


def file_size(file: AnyPath) -> int:
    """Bytes of a file."""
    with access(file):
        return file.stat().st_size


def read_into(file: AnyPath, start: int, buffer: memoryview) -> int:
    """Fill a buffer with the bytes from ``start`` on; how many there were."""
    if isinstance(file, Path):
        with file.open("rb", buffering=0) as stream:
            return os.preadv(stream.fileno(), [buffer], start)
    with access(file):
        content: Any = file.fs.cat_file(file.path, start=start, end=start + len(buffer))
    buffer[: len(content)] = content
    return len(content)


def write_durably(file: UPath, text: str) -> None:
    """Write a file whole; when this returns, it survives a power failure."""
    local = local_path(file)
    if local is None:
        with access(file):
            file.fs.pipe_file(file.path, text.encode())
        return
    partial = local.with_name(f"{local.name}.{os.getpid()}.part")
    with partial.open("wb") as stream:
        stream.write(text.encode())
        stream.flush()
        fsync(stream.fileno())
    partial.replace(local)
    sync_folder(local.parent)


def create(file: UPath, text: str) -> bool:
    """Create an object unless it exists; whether this call created it, of all that try at once."""
    try:
        with access(file):
            file.fs.pipe_file(file.path, text.encode(), mode="create")
    except FileExistsError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a local folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(descriptor)


def sync_files(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Make the files under a local folder whose relative path is ``wanted``, and all its folders, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and wanted(path.relative_to(folder).as_posix()):
            with path.open("rb") as stream:
                fsync(stream.fileno())
    for each in [folder.parent, folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync_folder(each)


def upload(folder: Path, target: UPath) -> None:
    """Copy the files of a local folder to an object store.

    Raises ``OSError`` where the listing afterwards does not show each of them with its size.
    """
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    if not sizes:
        return
    with access(target):
        target.fs.put([str(folder / name) for name in sizes], [(target / name).path for name in sizes])
    stored = file_sizes(target)
    wrong = next((name for name, size in sizes.items() if stored.get(name) != size), None)
    if wrong:
        found = f"has {stored[wrong]} bytes" if wrong in stored else "is missing"
        raise OSError(
            errno.EIO, f"{wrong} {found} after its upload, expected {sizes[wrong]} bytes", str(target)
        )


def upload_file(file: Path, target: UPath) -> None:
    """Copy a local file to an object store."""
    with access(target):
        target.fs.put_file(str(file), target.path)


def download(source: UPath, folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Copy the files under an object store's folder whose relative path is ``wanted`` to a local folder."""
    names = [name for name in file_sizes(source) if wanted(name)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if names:
        with access(source):
            source.fs.get([(source / name).path for name in names], [str(folder / name) for name in names])


@contextmanager
def reporting(what: str, fix: str) -> Iterator[None]:
    """Turn an error of a file system or an object store into one line: ``what``, the cause, the ``fix``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror or error}); {fix}") from error


@contextmanager
def access(place: AnyPath) -> Iterator[None]:
    """Turn whatever the client of an object store raises into an ``OSError`` with number and text."""
    try:
        yield
    except Exception as error:
        if isinstance(place, Path) or not _is_refusal(error):
            raise
        raise OSError(*_number_and_text(error), str(place)) from error


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENT_MODULES


def _number_and_text(error: Exception) -> tuple[int, str]:
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT, "no such file, folder or bucket"
    if isinstance(error, PermissionError) or type(error).__name__ in _WITHOUT_RIGHTS:
        return errno.EACCES, "access denied" if isinstance(error, PermissionError) else str(error)
    if isinstance(error, FileExistsError):
        return errno.EEXIST, "exists already"
    number = error.errno if isinstance(error, OSError) else None
    return number or errno.EIO, (str(error) or type(error).__name__).splitlines()[0]
