"""An index of the members of tar and zip archives: written once, then mapped into memory.

The index identifies members and folders by a 64-bit hash of their path: ten million members take 450 MB on
disk and almost no memory of a process. If two members have the same name, the first one is used.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.sources.bytes_at import open_archive
from lladav.errors import UserError
from lladav.storage import location, version
from lladav.storage.local_cache import local_copy

FOLDER, EMBEDDED, FRAMES = -1, -2, -3
"""Values of ``MediaLocation.archive`` that are no archive: a file in the media folder, bytes in the record, a
folder of frames."""

INDEX_VERSION = 2
"""Increased when the index of the same archives changes."""

INDEX_COLUMNS = ("key", "folder", "member")
_ZIP_HEADER = struct.Struct("<26xHH")


class MediaLocation(NamedTuple):
    """Where the bytes of an image or video are.

    ``archive`` is the number of the archive, ``FOLDER`` or ``EMBEDDED``; ``offset`` and ``size`` are bytes.
    For ``FRAMES``, ``offset`` is the folder's first row in the index's list of folders and ``size`` its
    number of files. The manifest has a column for each field.
    """

    archive: int
    offset: int
    size: int
    deflated: bool


def member_key(name: str) -> int | None:
    """The hash that identifies a member; None for a path that leads out of the archive."""
    path = posixpath.normpath(name).lstrip("/")
    if path.split("/")[0] == "..":
        return None
    return int.from_bytes(hashlib.blake2b(_name_bytes(path), digest_size=8).digest(), "little")


def _name_bytes(name: str) -> bytes:
    """The bytes of a name, which may be invalid Unicode both in archives and in records."""
    return name.encode("utf-8", "surrogatepass")


def index_name(archives: Sequence[str]) -> str:
    """The file name of the index of these archives; it changes with their content."""
    text = json.dumps([INDEX_VERSION, *((path, *version(location(path))) for path in archives)])
    return f"media-{hashlib.sha256(text.encode()).hexdigest()[:16]}.arrow"


def write_index(archives: Sequence[str], file: Path, mapper: Callable[..., Iterable[pa.Table]] = map) -> None:
    """Write an Arrow file with the members of all archives, sorted by key; ``mapper`` may run in parallel.

    The columns ``folder`` and ``member`` are sorted by folder and file name instead: the key of the folder
    and the row of the member.
    """
    tables = mapper(_members, archives, range(len(archives)))
    table = pa.concat_tables(tables).combine_chunks()
    _, first = np.unique(table["key"].to_numpy(), return_index=True)
    table = table.take(pa.array(first, pa.int64()))
    order = pc.sort_indices(  # pyright: ignore[reportAttributeAccessIssue] -- defined when pyarrow is imported
        table, [("folder", "ascending"), ("name", "ascending")]
    )
    table = table.set_column(table.schema.get_field_index("folder"), "folder", table["folder"].take(order))
    table = table.drop_columns("name").append_column("member", order)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def find_member(index: str, name: str) -> MediaLocation | None:
    """The location of the member with this path; None if there is no such member."""
    opened, key = _open_index(index), member_key(name)
    if key is None:
        return None
    row = int(np.searchsorted(opened.keys, np.uint64(key)))
    return opened.location(row) if row < len(opened.keys) and int(opened.keys[row]) == key else None


def find_folder(index: str, name: str) -> MediaLocation | None:
    """The location of the folder with this path; None if it has no files."""
    folders, key = _open_index(index).folders, member_key(name)
    if key is None:
        return None
    first, end = (int(np.searchsorted(folders, np.uint64(key), side)) for side in ("left", "right"))
    return MediaLocation(FRAMES, first, end - first, False) if first < end else None


def folder_members(index: str, folder: MediaLocation) -> list[MediaLocation]:
    """The locations of the files in a folder, ordered by file name."""
    opened = _open_index(index)
    rows = opened.members[folder.offset : folder.offset + folder.size]
    return [opened.location(int(row)) for row in rows]


class _Index(NamedTuple):
    """The columns of an index, mapped into memory."""

    keys: np.ndarray
    folders: np.ndarray
    members: np.ndarray
    locations: list[pa.ChunkedArray]

    def location(self, row: int) -> MediaLocation:
        return MediaLocation(*(column[row].as_py() for column in self.locations))


@lru_cache(16)
def _open_index(index: str) -> _Index:
    table = pa.ipc.open_file(pa.memory_map(str(local_copy(index)))).read_all()
    keys, folders, members = (
        table[name].to_numpy() if len(table) else np.zeros(0, np.uint64) for name in INDEX_COLUMNS
    )
    return _Index(keys, folders, members, [table[name] for name in MediaLocation._fields])


def _members(archive: str, number: int) -> pa.Table:
    try:
        rows = list(_zip_members(archive) if archive.endswith(".zip") else _tar_members(archive))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged archive ({error}); download it again") from None
    names, offsets, sizes, deflated = zip(*rows, strict=True) if rows else ((),) * 4
    return pa.table(
        {
            "key": pa.array([member_key(name) or 0 for name in names], pa.uint64()),
            "folder": pa.array([_folder_key(name) for name in names], pa.uint64()),
            "name": pa.array([_name_bytes(posixpath.basename(name)) for name in names], pa.binary()),
            "archive": pa.array([number] * len(names), pa.int32()),
            "offset": pa.array(offsets, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "deflated": pa.array(deflated, pa.bool_()),
        }
    )


def _folder_key(name: str) -> int:
    """The hash that identifies the folder of a member; 0 for hidden files, which are never frames."""
    folder, file = posixpath.split(name)
    return 0 if file.startswith(".") else member_key(folder) or 0


def _tar_members(archive: str) -> Iterable[tuple[str, int, int, bool]]:
    with open_archive(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue] -- tarfile would keep every header
            if member.isreg():
                yield member.name, member.offset_data, member.size, False


def _zip_members(archive: str) -> Iterable[tuple[str, int, int, bool]]:
    with open_archive(archive) as stream, zipfile.ZipFile(stream) as content:
        for member in content.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                problem = f"{member.filename} uses a compression other than deflate"
                raise UserError(f"{archive}: {problem}; zip it again with deflate")
            if not member.is_dir():
                # Only the local header says where the content starts, not the central directory.
                stream.seek(member.header_offset)
                name, extra = _ZIP_HEADER.unpack(stream.read(_ZIP_HEADER.size))
                start = member.header_offset + _ZIP_HEADER.size + name + extra
                deflated = member.compress_type == zipfile.ZIP_DEFLATED
                yield member.filename, start, member.compress_size, deflated
