"""Where manifests and indexes of archives are kept, and how they appear there: whole or not at all.

They lie beside the data, so that stages and runs share them. Those of data in an object store lie with the
runs, for a bucket of data is often read-only. A folder in an object store is written locally and uploaded.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.storage import (
    local_path,
    location,
    make_folder,
    remove_folder,
    upload,
    upload_file,
    write_durably,
)

FOLDER = ".manifests"


def folder_of(config: Config) -> UPath:
    """The folder of manifests, which every process that reads samples must see."""
    root = location(config.data.root)
    return (root if local_path(root) else location(config.train.storage)) / FOLDER


class PartialFolder:
    """A manifest in the making: ``path`` to write to, and what other processes see as ``shared``."""

    def __init__(self, path: Path, shared: UPath) -> None:
        self.path, self.shared = path, shared

    def share(self) -> None:
        """Let other processes see what is written so far."""
        if not local_path(self.shared):
            upload(self.path, self.shared)

    def publish(self, folder: UPath, last: str, text: str) -> None:
        """Let the manifest appear as ``folder``, with the file ``last``, which says that it is complete.

        Another process that made the same one may have been first.
        """
        if local := local_path(folder):
            (self.path / last).write_text(text, encoding="utf-8")
            try:
                self.path.rename(local)
            except OSError:
                if not local.is_dir():
                    raise
            return
        upload(self.path, folder)
        write_durably(folder / last, text)


@contextmanager
def partial_folder(folder: UPath) -> Iterator[PartialFolder]:
    """A folder that is removed at the end unless it is published."""
    local, shared = local_path(folder), folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        make_folder(folder.parent)
        path = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=local.parent if local else None))
    except OSError as error:
        raise UserError(
            f"{folder.parent}: the manifest cannot be written there ({error.strerror}); make it writable"
        ) from None
    try:
        yield PartialFolder(path, UPath(path) if local else shared)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if not local:
            remove_folder(shared)


def write_whole(file: UPath, write: Callable[[Path], None]) -> None:
    """Let a file appear that ``write`` writes to the path it is given."""
    local = local_path(file)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=local.parent if local else None) as folder:
        partial = Path(folder) / file.name
        write(partial)
        if local:
            partial.replace(local)
        else:
            upload_file(partial, file)
