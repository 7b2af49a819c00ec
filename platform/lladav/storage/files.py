"""Files and folders, local or in an object store.

A reader sees a whole file or none: local writes go to a temporary name first, and an object store publishes a
file when its upload is complete. If the storage refuses an operation, every function raises ``OSError`` with
number and text, whatever the object store's client raises.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from glob import escape
from os import fsync
from pathlib import Path
from typing import Any

from upath import UPath

from lladav.storage.failures import as_os_error
from lladav.storage.locations import AnyPath, local_path, location

_VERSION_KEYS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "updated")
"""Keys of an object's details that change with its content, the most reliable first."""


def exists(path: AnyPath) -> bool:
    """Whether a file or folder exists."""
    with as_os_error(path):
        return path.exists()


def is_folder(path: UPath) -> bool:
    """Whether a folder exists."""
    with as_os_error(path):
        return path.is_dir()


def subfolders(folder: UPath) -> list[str]:
    """Return the sorted names of the folders in a folder; none if it does not exist."""
    return _names(folder, "directory")


def files_in(folder: AnyPath) -> list[str]:
    """Return the sorted names of the files directly in a folder; none if it does not exist."""
    return _names(UPath(folder), "file")


def _names(folder: UPath, kind: str) -> list[str]:
    if local := local_path(folder):
        # fsspec lists a symbolic link as neither: the cache of the Hugging Face hub has links only.
        is_kind = Path.is_dir if kind == "directory" else Path.is_file
        return sorted(path.name for path in local.iterdir() if is_kind(path)) if local.is_dir() else []
    try:
        with as_os_error(folder):
            entries = folder.fs.ls(folder.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind)


def file_sizes(folder: UPath) -> dict[str, int]:
    """Return the bytes of every file under a folder by relative path, from one listing."""
    return {name: info["size"] for name, info in file_infos(folder).items()}


def file_infos(folder: UPath) -> dict[str, dict[str, Any]]:
    """Return fsspec's details of every file under a folder by relative path."""
    root = folder.path.rstrip("/")
    with as_os_error(folder):
        found: Any = folder.fs.find(root, detail=True)
    return {path[len(root) + 1 :]: info for path, info in found.items() if path != root}


def file_info(file: UPath) -> dict[str, Any]:
    """Return fsspec's details of one file."""
    with as_os_error(file):
        return file.fs.info(file.path)


def make_folder(folder: UPath) -> None:
    """Create a local folder.

    Object stores have no folders, and a typo in the name of a bucket must not create one.
    """
    if local := local_path(folder):
        local.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: UPath) -> None:
    """Remove a folder and everything in it."""
    if local := local_path(folder):
        shutil.rmtree(local)
        return
    # One by one: the clients' recursive calls treat "*" and "[" in a name as a pattern.
    for name in file_sizes(folder):
        remove_file(folder / name)


def remove_file(file: UPath) -> None:
    """Remove a file."""
    with as_os_error(file):
        file.fs.rm_file(file.path)


def read_text(file: AnyPath, errors: str = "strict") -> str:
    """Return the UTF-8 text of a file. While an object is replaced, this is the old or the new text.

    ``errors`` is that of ``bytes.decode``.
    """
    if isinstance(file, Path):
        return file.read_text(encoding="utf-8", errors=errors)
    with as_os_error(file):
        content: Any = file.fs.cat_file(file.path)
    return content.decode(errors=errors)


def version(path: AnyPath) -> tuple[int, str | int]:
    """Return the bytes of a file, and a value that changes with its content.

    That value is the modification time of a local file and ``object_version`` of an object. A folder in an
    object store has neither: the result is ``(0, "")``.
    """
    if isinstance(path, Path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    info = file_info(path)
    return info.get("size") or 0, object_version(info)


def object_version(info: dict[str, Any]) -> str:
    """Return a text that changes with the content of an object, from its details; may be empty."""
    return next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")


def glob(root: UPath, pattern: str) -> list[UPath]:
    """Return the sorted files and folders of an object store that match ``pattern``, relative to ``root``."""
    with as_os_error(root):
        found: Any = root.fs.glob(f"{escape(root.path.rstrip('/'))}/{pattern}")
    return sorted(location(f"{root.protocol}://{path}") for path in found)


def file_size(file: AnyPath) -> int:
    """Return the bytes of a file."""
    with as_os_error(file):
        return file.stat().st_size


def read_into(file: AnyPath, start: int, buffer: memoryview) -> int:
    """Fill ``buffer`` with the bytes from ``start`` on. Returns how many bytes were read."""
    if isinstance(file, Path):
        with file.open("rb", buffering=0) as stream:
            return os.preadv(stream.fileno(), [buffer], start)
    with as_os_error(file):
        content: Any = file.fs.cat_file(file.path, start=start, end=start + len(buffer))
    buffer[: len(content)] = content
    return len(content)


def write_durably(file: UPath, content: str | Callable[[Path], None]) -> None:
    """Create or replace a file. When this returns, the file survives a power failure.

    ``content`` is the text, or a function that writes the file to the local path it is called with.
    """
    local = local_path(file)
    if local is None:
        _write_object(file, content)
        return
    partial = local.with_name(f"{local.name}.{os.getpid()}.part")
    try:
        _write_local(partial, content)
        partial.replace(local)
    finally:
        partial.unlink(missing_ok=True)
    fsync_folder(local.parent)


def _write_local(file: Path, content: str | Callable[[Path], None]) -> None:
    if isinstance(content, str):
        file.write_bytes(content.encode())
    else:
        content(file)
    with file.open("rb") as stream:
        fsync(stream.fileno())


def _write_object(file: UPath, content: str | Callable[[Path], None]) -> None:
    if isinstance(content, str):
        with as_os_error(file):
            file.fs.pipe_file(file.path, content.encode())
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / file.name
        content(local)
        upload_file(local, file)


def create_if_absent(file: UPath, text: str) -> bool:
    """Create an object unless it exists. Of several simultaneous calls, exactly one returns True."""
    try:
        with as_os_error(file):
            file.fs.pipe_file(file.path, text.encode(), mode="create")
    except FileExistsError:
        return False
    return True


def replace_if_unchanged(file: UPath, text: str, expected: str) -> bool:
    """Replace an object whose ``object_version`` is ``expected``; return whether that succeeded.

    On S3, exactly one of several simultaneous calls returns True. gcsfs has no such call: there the object is
    removed and created, and two calls succeed if one of them removes what the other has just created.
    """
    try:
        with as_os_error(file):
            if file.protocol == "s3":
                file.fs.pipe_file(file.path, text.encode(), IfMatch=expected)
                return True
            file.fs.rm_file(file.path)
    except OSError as error:
        if error.errno == errno.EINVAL or isinstance(error, FileNotFoundError):
            return False
        raise
    return create_if_absent(file, text)


def fsync_folder(folder: Path) -> None:
    """Make the names of the files in a local folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not support it
            raise
    finally:
        os.close(descriptor)


def fsync_files(folder: Path, include: Callable[[str], bool] = lambda _: True) -> None:
    """Make all folders and the included files under a local folder survive a power failure.

    ``include`` takes a relative path.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and include(path.relative_to(folder).as_posix()):
            with path.open("rb") as stream:
                fsync(stream.fileno())
    for each in [folder.parent, folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        fsync_folder(each)


def upload(folder: Path, target: UPath) -> None:
    """Copy the files under a local folder to an object store.

    Raises ``OSError`` if a listing afterwards lacks a file or shows another size.
    """
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    if not sizes:
        return
    with as_os_error(target):
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
    with as_os_error(target):
        target.fs.put_file(str(file), target.path)


def download(source: UPath, folder: Path, include: Callable[[str], bool] = lambda _: True) -> None:
    """Copy the included files under an object store's folder to a local folder.

    ``include`` takes a relative path.
    """
    names = [name for name in file_sizes(source) if include(name)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if names:
        with as_os_error(source):
            source.fs.get([(source / name).path for name in names], [str(folder / name) for name in names])
