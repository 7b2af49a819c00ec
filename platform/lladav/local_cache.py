"""Local copies of what lies in an object store: weights, tokenizers and records.

A copy is keyed by its URI and by names, sizes and versions of the files there, so a changed object gets a new
copy. It appears whole or not at all. One process of a machine downloads while the others wait for it.
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
from lladav.storage import download, file_info, file_infos, fingerprint, local_path, location, reporting

VARIABLE = "LLADAV_CACHE"
"""Environment variable that names the folder of the copies."""


def cache_folder() -> Path:
    """The folder of the copies on this machine."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("lladav"))


def local_copy(text: str | Path | UPath) -> Path:
    """The file or folder as a local path: itself where it is local, else a copy, downloaded if it is missing.

    A local path need not exist. Raises ``UserError`` where a URI names nothing, cannot be read, or does not
    fit on the disk.
    """
    place = location(text)
    if local := local_path(place):
        return local
    with reporting(f"{place}: cannot be read", "check the URI, the credentials and AWS_ENDPOINT_URL"):
        infos = file_infos(place)
        if infos:
            return _copied(place, infos)
        return _copied(place.parent, {place.name: file_info(place)}) / place.name


def _copied(folder: UPath, infos: dict[str, dict[str, Any]]) -> Path:
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
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    download(folder, partial, infos.__contains__)
    partial.rename(copy)


def _key(folder: UPath, infos: dict[str, dict[str, Any]]) -> str:
    files = [(name, info["size"], fingerprint(info)) for name, info in sorted(infos.items())]
    return hashlib.sha256(json.dumps([str(folder), files]).encode()).hexdigest()[:16]
