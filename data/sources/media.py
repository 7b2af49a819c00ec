"""Images and videos of a source: located by name during the scan, then read from their location.

Locating a file in an archive needs the index of the archives; reading it needs only its location.
"""

from __future__ import annotations

import io
import os
import posixpath
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, NoReturn

from data.records.record import BadSample, Medium, Reason, StoredFile
from data.sources.archives import (
    EMBEDDED,
    FOLDER,
    FRAMES,
    MediaLocation,
    find_folder,
    find_member,
    folder_members,
)
from data.sources.bytes_at import inflated_at, stream_at
from data.sources.locations import SourceFiles
from lladav import storage
from lladav.inputs.clips import frame_files
from lladav.storage import AnyPath, is_uri


class MediaStore:
    """The media of one source; ``index`` is the file of ``archives.write_index`` if the source has archives.

    A medium is an element of ``Record.media``.
    """

    def __init__(self, source: SourceFiles, index: str | None = None) -> None:
        self._source = source
        self._index = index

    def locate(self, medium: Medium, is_video: bool = False) -> MediaLocation:
        """The location of an image or video; a video may be a folder of frames.

        Raises ``BadSample`` if the file is missing or empty.
        """
        if isinstance(medium, bytes):
            found = MediaLocation(EMBEDDED, 0, len(medium), False)
        elif isinstance(medium, StoredFile):
            found = MediaLocation(EMBEDDED, medium.offset, medium.size, False)
        else:
            found = self._locate_file(medium) or (self._locate_folder(medium) if is_video else None)
        if found is None:
            self._raise_missing(display_name(medium))
        if found.size == 0:
            raise BadSample(Reason.empty_file, f"{display_name(medium)} has no content")
        return found

    def read(self, medium: Medium, location: MediaLocation) -> bytes:
        """The bytes of a file; raises ``BadSample`` if it has disappeared since it was located."""
        if isinstance(medium, bytes):
            return medium
        try:
            with self.stream(medium, location) as stream:
                content = stream.read()
        except FileNotFoundError:
            self._raise_missing(display_name(medium))
        if location.archive >= 0 and not location.deflated and len(content) < location.size:
            raise BadSample(Reason.bad_image, f"{display_name(medium)} lies beyond the end of its archive")
        return content

    def stream(self, medium: Medium, location: MediaLocation) -> BinaryIO:
        """A seekable stream over a file; a file that is not deflated is read only as far as needed."""
        if isinstance(medium, bytes):
            return io.BytesIO(medium)
        if isinstance(medium, StoredFile):
            return stream_at(medium.path, medium.offset, medium.size)
        if location.archive == FOLDER:
            return self._open(medium, location)
        archive = self._source.archives[location.archive]
        if not location.deflated:
            return stream_at(archive, location.offset, location.size)
        try:
            return inflated_at(archive, location.offset, location.size)
        except zlib.error as error:
            raise BadSample(Reason.bad_image, f"{medium}: {error}") from None

    def frames(self, name: str, location: MediaLocation) -> list[Callable[[], BinaryIO]]:
        """Functions that open the files of a folder of frames, ordered by file name."""
        if self._source.folder is not None:
            path = self._path(name)
            if isinstance(path, Path) and not path.is_dir():
                self._raise_missing(name)
            return _frame_openers(path)
        return [partial(self.stream, name, member) for member in folder_members(self._index or "", location)]

    def _locate_file(self, name: str) -> MediaLocation | None:
        if self._source.folder is None:
            return find_member(self._index, name) if self._index else None
        path = self._path(name)
        if isinstance(path, Path):
            # One call for each file of the scan: is_file() and exists() would be two more.
            with suppress(OSError):  # missing, or its name is too long, or a folder may not be entered
                status = path.stat()
                return MediaLocation(FOLDER, 0, status.st_size, False) if S_ISREG(status.st_mode) else None
            return None
        with suppress(FileNotFoundError):
            return MediaLocation(FOLDER, 0, storage.file_size(path), False)
        return None

    def _locate_folder(self, name: str) -> MediaLocation | None:
        if self._source.folder is None:
            return find_folder(self._index, name) if self._index else None
        path = self._path(name)
        if isinstance(path, Path) and not os.path.isdir(path):  # noqa: PTH112 -- is_dir() raises for long names
            return None
        frames = len(_frame_openers(path))
        return MediaLocation(FRAMES, 0, frames, False) if frames or isinstance(path, Path) else None

    def _path(self, name: str) -> AnyPath:
        """The path of a file or folder within the media folder.

        It need not exist. Raises ``BadSample`` for a path that leads out of the media folder.
        """
        return _path_in(self._source.folder or "", name) or self._raise_missing(name)

    def _open(self, name: str, location: MediaLocation) -> BinaryIO:
        path = self._path(name)
        if not isinstance(path, Path):
            return stream_at(str(path), 0, location.size)
        try:
            return path.open("rb")
        except FileNotFoundError:
            self._raise_missing(name)
        except OSError as error:
            raise BadSample(Reason.missing_file, f"{name}: {error.strerror}") from None

    def _raise_missing(self, name: str) -> NoReturn:
        source = self._source
        where = source.folder or ", ".join(source.archives[:2]) or f"source {source.name}, which has no media"
        raise BadSample(Reason.missing_file, f"{name} is not in {where}")


@lru_cache(16)  # a file is located, and then opened
def _path_in(folder: str, name: str) -> AnyPath | None:
    """The path of a file or folder within ``folder``; None for a path that leads out of it."""
    path = posixpath.normpath(_relative(folder, name))
    if path.split("/")[0] == "..":
        return None
    if is_uri(folder):
        return storage.location(folder) / path.lstrip("/")
    return Path(folder, path.lstrip("/"))


def _frame_openers(folder: AnyPath) -> list[Callable[[], BinaryIO]]:
    """Functions that open the files directly in a folder, hidden ones left out, ordered by file name."""
    if isinstance(folder, Path):
        return [partial(path.open, "rb") for path in frame_files(folder)]
    sizes = {name: size for name, size in storage.file_sizes(folder).items() if not name.startswith(".")}
    return [partial(stream_at, str(folder / n), 0, sizes[n]) for n in sorted(sizes) if "/" not in n]


def _relative(folder: str, name: str) -> str:
    """A path relative to ``folder`` if it is an absolute path into it, directly or through symbolic links."""
    if not name.startswith("/"):
        return name
    as_written = posixpath.normpath(name), folder
    for path, root in (as_written, [os.path.realpath(path) for path in (name, folder)]):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return name


def display_name(medium: Medium) -> str:
    """The name of an image or video for messages."""
    if isinstance(medium, StoredFile):
        return medium.name
    return "the embedded image" if isinstance(medium, bytes) else medium
