"""The images and videos of a source: found by name once, then read from their place.

Looking up needs the index of the archives; reading a file needs the place alone.
"""

from __future__ import annotations

import io
import os
import posixpath
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

from data.records.record import BadSample, Reason
from data.sources.archives import (
    EMBEDDED,
    FOLDER,
    FRAMES,
    Place,
    find_folder,
    find_member,
    folder_members,
)
from data.sources.bytes_at import inflated_at, stream_at
from data.sources.locations import SourceFiles
from lladav.inputs.clips import frame_files
from lladav.storage import AnyPath, file_size, file_sizes, is_uri, location


class MediaStore:
    """Media of one source; ``index`` (from ``archives.write_index``) is needed where it has archives."""

    def __init__(self, source: SourceFiles, index: str | None = None) -> None:
        self._source = source
        self._index = index

    def locate(self, medium: str | bytes, is_clip: bool = False) -> Place:
        """Where an image or clip lies; a clip may be a folder of frames.

        Raises ``BadSample`` where it is missing or empty.
        """
        if isinstance(medium, bytes):
            place = Place(EMBEDDED, 0, len(medium), False)
        else:
            place = self._named(medium) or (self._folder(medium) if is_clip else None)
        if place is None:
            self._missing(shown(medium))
        if place.size == 0:
            raise BadSample(Reason.empty_file, f"{shown(medium)} has no content")
        return place

    def read(self, medium: str | bytes, place: Place) -> bytes:
        """The bytes of a file; raises ``BadSample`` where they are not there any more."""
        if isinstance(medium, bytes):
            return medium
        try:
            with self.stream(medium, place) as stream:
                content = stream.read()
        except FileNotFoundError:
            self._missing(medium)
        if place.archive >= 0 and not place.deflated and len(content) < place.size:
            raise BadSample(Reason.bad_image, f"{medium} lies beyond the end of its archive")
        return content

    def stream(self, medium: str | bytes, place: Place) -> BinaryIO:
        """The same as a stream, of which only what is asked for is read."""
        if isinstance(medium, bytes):
            return io.BytesIO(medium)
        if place.archive == FOLDER:
            return self._opened(medium, place)
        archive = self._source.archives[place.archive]
        if not place.deflated:
            return stream_at(archive, place.offset, place.size)
        try:
            return inflated_at(archive, place.offset, place.size)
        except zlib.error as error:
            raise BadSample(Reason.bad_image, f"{medium}: {error}") from None

    def frames(self, name: str, place: Place) -> list[Callable[[], BinaryIO]]:
        """What opens the files of a folder of frames, in the order of their names."""
        if self._source.folder is not None:
            return _frames(self._path(name))
        return [partial(self.stream, name, member) for member in folder_members(self._index or "", place)]

    def _named(self, name: str) -> Place | None:
        if self._source.folder is None:
            return find_member(self._index, name) if self._index else None
        path = self._path(name)
        if isinstance(path, Path):
            return Place(FOLDER, 0, path.stat().st_size, False) if path.is_file() else None
        with suppress(FileNotFoundError):
            return Place(FOLDER, 0, file_size(path), False)
        return None

    def _folder(self, name: str) -> Place | None:
        if self._source.folder is None:
            return find_folder(self._index, name) if self._index else None
        path = self._path(name)
        if isinstance(path, Path) and not path.is_dir():
            return None
        frames = len(_frames(path))
        return Place(FRAMES, 0, frames, False) if frames or isinstance(path, Path) else None

    def _path(self, name: str) -> AnyPath:
        """Where the media folder has this name; raises ``BadSample`` for nothing or a place outside.

        Whether an object store has it is not asked.
        """
        folder = self._source.folder or ""
        path = posixpath.normpath(_within(folder, name))
        if path.split("/")[0] == "..":
            self._missing(name)
        if is_uri(folder):
            return location(folder) / path.lstrip("/")
        found = Path(folder, path.lstrip("/"))
        with suppress(OSError):  # a name that is too long, or a folder that may not be entered
            if found.exists():
                return found
        return self._missing(name)

    def _opened(self, name: str, place: Place) -> BinaryIO:
        path = self._path(name)
        if not isinstance(path, Path):
            return stream_at(str(path), 0, place.size)
        try:
            return path.open("rb")
        except OSError as error:
            raise BadSample(Reason.missing_file, f"{name}: {error.strerror}") from None

    def _missing(self, name: str) -> NoReturn:
        source = self._source
        where = source.folder or ", ".join(source.archives[:2]) or f"source {source.name}, which has no media"
        raise BadSample(Reason.missing_file, f"{name} is not in {where}")


def _frames(folder: AnyPath) -> list[Callable[[], BinaryIO]]:
    """What opens the files directly in a folder, in the order of their names."""
    if isinstance(folder, Path):
        return [partial(path.open, "rb") for path in frame_files(folder)]
    sizes = {name: size for name, size in file_sizes(folder).items() if not name.startswith(".")}
    return [partial(stream_at, str(folder / n), 0, sizes[n]) for n in sorted(sizes) if "/" not in n]


def _within(folder: str, name: str) -> str:
    """An absolute path that lies in the folder, by name or through links, as a path from there."""
    if not name.startswith("/"):
        return name
    as_named = posixpath.normpath(name), folder
    for path, root in (as_named, [os.path.realpath(path) for path in (name, folder)]):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return name


def shown(medium: str | bytes) -> str:
    """A picture's name for a message."""
    return "the embedded picture" if isinstance(medium, bytes) else medium
