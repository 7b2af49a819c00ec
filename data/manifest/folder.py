"""The folder of manifests and archive indexes, and the atomic creation of a manifest in it.

The folder is next to the data, so that stages and runs share it. If the data are in an object store, it is
next to the runs: a bucket of data is often read-only. Manifests are written locally, then renamed or
uploaded.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.storage import local_path, location, make_folder, remove_folder, upload, write_durably

FOLDER = ".manifests"


def manifests_folder(config: Config) -> UPath:
    """The folder of manifests; every process that reads samples needs access to it."""
    root = location(config.data.root)
    return (root if local_path(root) else location(config.train.storage)) / FOLDER


class PartialFolder:
    """An unfinished manifest: write to the local folder ``path``; other processes read from ``shared``."""

    def __init__(self, path: Path, shared: UPath) -> None:
        self.path, self.shared = path, shared

    def share(self) -> None:
        """Make the files written so far visible to other processes."""
        if not local_path(self.shared):
            upload(self.path, self.shared)

    def publish(self, folder: UPath, last: str, text: str) -> None:
        """Move the manifest to ``folder`` and write the file ``last``, whose presence marks it as complete.

        Does nothing if another process has published the same manifest.
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
    """A temporary folder for the manifest ``folder``; removed on exit unless it is published."""
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
