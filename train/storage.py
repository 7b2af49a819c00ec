"""Where runs are kept: a folder, or a bucket by URI, behind pyarrow's filesystems.

A file appears whole or not at all for a reader: local writes go to a temporary name first; object stores
publish on close.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from lladav.errors import UserError


@dataclass(frozen=True)
class Place:
    """A folder on a filesystem."""

    system: fs.FileSystem
    path: str

    @classmethod
    def of(cls, location: str) -> Place:
        """The place a path or URI names; a relative path starts at the current folder."""
        if "://" not in location:
            return cls(fs.LocalFileSystem(), str(Path(location).absolute()))
        try:
            return cls(*fs.FileSystem.from_uri(location))
        except (OSError, ValueError) as error:
            raise UserError(f"{location}: not a storage location that can be opened ({error})") from None

    @property
    def local(self) -> Path | None:
        """The folder as a local path, if it is one."""
        return Path(self.path) if isinstance(self.system, fs.LocalFileSystem) else None

    def __truediv__(self, name: str) -> Place:
        return Place(self.system, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path

    def exists(self) -> bool:
        return self.system.get_file_info(self.path).type is not fs.FileType.NotFound

    def folders(self) -> list[str]:
        """Names of the folders in this one."""
        found = self.system.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type is fs.FileType.Directory)

    def create(self) -> None:
        """Make the folder and those above it."""
        self.system.create_dir(self.path, recursive=True)

    def delete(self) -> None:
        """Remove the folder and what it holds."""
        self.system.delete_dir(self.path)

    def delete_file(self) -> None:
        """Remove this file."""
        self.system.delete_file(self.path)

    def read_text(self) -> str:
        """The text of this file."""
        with self.system.open_input_stream(self.path) as stream:
            return stream.read().decode()

    def write_text(self, text: str) -> None:
        """Write this file whole."""
        local = self.local
        target = self if local is None else Place(self.system, f"{self.path}.{os.getpid()}.part")
        with self.system.open_output_stream(target.path) as stream:
            stream.write(text.encode())
        if local is not None:
            self.system.move(target.path, self.path)

    def upload(self, folder: Path) -> None:
        """Copy a local folder's files to this place."""
        fs.copy_files(
            str(folder), self.path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.system
        )

    def download(self, folder: Path) -> None:
        """Copy this place's files into a local folder."""
        fs.copy_files(
            self.path, str(folder), source_filesystem=self.system, destination_filesystem=fs.LocalFileSystem()
        )
