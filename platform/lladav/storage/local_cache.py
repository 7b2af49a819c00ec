"""Local copies of weights, tokenizers and records that are in an object store.

The key of a copy is its URI with the names, sizes and versions of its files, so a changed object gets a new
copy. One process of a machine downloads while the others wait. A copy is visible only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from shutil import disk_usage
from typing import Any

import platformdirs
from filelock import FileLock
from upath import UPath

from lladav.errors import UserError
from lladav.storage.failures import as_user_error
from lladav.storage.files import download, file_info, file_infos, object_version
from lladav.storage.hub import model_location
from lladav.storage.locations import local_path, location

VARIABLE = "LLADAV_CACHE"
"""Environment variable that sets the folder of the copies."""


def cache_folder() -> Path:
    """Return the folder of the copies on this machine."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("lladav"))


def local_copy(text: str | Path | UPath) -> Path:
    """Return a local path to a file or folder, downloading it first if it is in an object store.

    A local path is returned as it is and need not exist. Raises ``UserError`` if a URI does not exist, cannot
    be read, or does not fit on the disk.
    """
    source = location(text)
    if local := local_path(source):
        return local
    with as_user_error(f"{source}: cannot be read", "check the URI, the credentials and AWS_ENDPOINT_URL"):
        infos = file_infos(source)
        if infos:
            return _cached(source, infos)
        return _cached(source.parent, {source.name: file_info(source)}) / source.name


def local_model(model: str | Path | UPath) -> Path:
    """Return a local path to weights or a tokenizer at a path, a URI or a hub id, as ``local_copy`` does."""
    return local_copy(model_location(model))


def _cached(folder: UPath, infos: dict[str, dict[str, Any]]) -> Path:
    copy = cache_folder() / f"{folder.name}-{_key(folder, infos)}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):
        if not copy.is_dir():
            _download(folder, infos, copy)
    return copy


def _download(folder: UPath, infos: dict[str, dict[str, Any]], copy: Path) -> None:
    needed, free = sum(info["size"] for info in infos.values()), disk_usage(copy.parent).free
    if needed > free:
        raise UserError(
            f"{folder}: its copy needs {needed >> 20} MiB, {copy.parent} has {free >> 20} MiB free; "
            f"set {VARIABLE} to a folder with more space"
        )
    partial = copy.with_name(f"{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    download(folder, partial, infos.__contains__)
    partial.rename(copy)


def _key(folder: UPath, infos: dict[str, dict[str, Any]]) -> str:
    files = [(name, info["size"], object_version(info)) for name, info in sorted(infos.items())]
    return hashlib.sha256(json.dumps([str(folder), files]).encode()).hexdigest()[:16]
