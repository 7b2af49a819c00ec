"""The pictures of a source: found by name once, then read from their place.

Looking up needs the index of the archives; reading needs the place alone.
"""

from __future__ import annotations

import io
import os
import posixpath
import zlib
from pathlib import Path
from typing import BinaryIO, NoReturn

from data.records import BadSample, Reason
from data.sources.archives import EMBEDDED, FOLDER, Place, find_member
from data.sources.bytes_at import inflate, read_at, stream_at
from data.sources.locations import SourceFiles


class MediaStore:
    """Media of one source; ``index`` (from ``archives.write_index``) is needed to ``locate`` alone."""

    def __init__(self, source: SourceFiles, index: str | None = None) -> None:
        self._source = source
        self._index = index

    def locate(self, medium: str | bytes) -> Place:
        """Where a picture lies; raises ``BadSample`` where it is missing or empty."""
        place = Place(EMBEDDED, 0, len(medium), False) if isinstance(medium, bytes) else self._named(medium)
        if place.size == 0:
            raise BadSample(Reason.empty_file, f"{shown(medium)} has no content")
        return place

    def read(self, medium: str | bytes, place: Place) -> bytes:
        """The bytes of a picture; raises ``BadSample`` where they are not there any more."""
        if isinstance(medium, bytes):
            return medium
        if place.archive == FOLDER:
            return self._file(medium).read_bytes()
        content = read_at(self._source.archives[place.archive], place.offset, place.size)
        if len(content) < place.size:
            raise BadSample(Reason.bad_image, f"{medium} lies beyond the end of its archive")
        try:
            return inflate(content) if place.deflated else content
        except zlib.error as error:
            raise BadSample(Reason.bad_image, f"{medium}: {error}") from None

    def stream(self, medium: str | bytes, place: Place) -> BinaryIO:
        """The same as a stream, of which a reader of headers needs only the beginning."""
        if place.archive >= 0 and not place.deflated:
            return stream_at(self._source.archives[place.archive], place.offset, place.size)
        if place.archive == FOLDER:
            return self._file(shown(medium)).open("rb")
        return io.BytesIO(self.read(medium, place))

    def _named(self, name: str) -> Place:
        if self._source.folder is not None:
            return Place(FOLDER, 0, self._file(name).stat().st_size, False)
        place = find_member(self._index, name) if self._index else None
        return place or self._missing(name)

    def _file(self, name: str) -> Path:
        folder = self._source.folder or ""
        path = posixpath.normpath(_within(folder, name))
        file = Path(folder, path.lstrip("/"))
        return file if path.split("/")[0] != ".." and _is_file(file) else self._missing(name)

    def _missing(self, name: str) -> NoReturn:
        source = self._source
        where = source.folder or ", ".join(source.archives[:2]) or f"source {source.name}, which has no media"
        raise BadSample(Reason.missing_file, f"{name} is not in {where}")


def _within(folder: str, name: str) -> str:
    """An absolute path that lies in the folder, by name or through links, as a path from there."""
    if not name.startswith("/"):
        return name
    as_named = posixpath.normpath(name), folder
    for path, root in (as_named, [os.path.realpath(path) for path in (name, folder)]):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False


def shown(medium: str | bytes) -> str:
    """A picture's name for a message."""
    return "the embedded picture" if isinstance(medium, bytes) else medium
