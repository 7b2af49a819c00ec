"""An index of what lies where in tar and zip archives, made once and then mapped into memory.

Members and folders are known by a 64-bit hash of their path: ten million members take 450 MB on disk and next
to nothing in a process. Of two members of one name the first counts.
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
"""In place of an archive's number: a file of its own, bytes inside the record, or a folder of frames."""

FORMAT = 2
"""Raised when an index of the same archives has another content."""

INDEX_COLUMNS = ("key", "folder", "member")
_ZIP_HEADER = struct.Struct("<26xHH")


class Place(NamedTuple):
    """Where an image or video lies: archive's number (or ``FOLDER``, ``EMBEDDED``), first byte, bytes.

    Of a folder of frames (``FRAMES``): its first row in the index's list of folders, and its number of files.
    """

    archive: int
    offset: int
    size: int
    deflated: bool


def member_key(name: str) -> int | None:
    """What a member is looked up by; none for a path that leads outside."""
    path = posixpath.normpath(name).lstrip("/")
    if path.split("/")[0] == "..":
        return None
    return int.from_bytes(hashlib.blake2b(_encoded(path), digest_size=8).digest(), "little")


def _encoded(name: str) -> bytes:
    """A name as bytes, also where it is not valid Unicode, in an archive or in a record."""
    return name.encode("utf-8", "surrogatepass")


def index_name(archives: Sequence[str]) -> str:
    """A file name for the index of these archives as they are now."""
    text = json.dumps([FORMAT, *((path, *version(location(path))) for path in archives)])
    return f"media-{hashlib.sha256(text.encode()).hexdigest()[:16]}.arrow"


def write_index(archives: Sequence[str], file: Path, mapper: Callable[..., Iterable[pa.Table]] = map) -> None:
    """Write the members of all archives, sorted by key, as an Arrow file; ``mapper`` may work in parallel.

    Two more columns list the members by folder and name: the folder's key, and the member's row.
    """
    tables = mapper(_members, archives, range(len(archives)))
    table = pa.concat_tables(tables).combine_chunks()
    _, first = np.unique(table["key"].to_numpy(), return_index=True)
    table = table.take(pa.array(first, pa.int64()))
    order = pc.sort_indices(  # pyright: ignore[reportAttributeAccessIssue] -- made when pyarrow is imported
        table, [("folder", "ascending"), ("name", "ascending")]
    )
    table = table.set_column(table.schema.get_field_index("folder"), "folder", table["folder"].take(order))
    table = table.drop_columns("name").append_column("member", order)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def find_member(index: str, name: str) -> Place | None:
    """Where the index has this path; none if nowhere."""
    opened, key = _opened(index), member_key(name)
    if key is None:
        return None
    row = int(np.searchsorted(opened.keys, np.uint64(key)))
    return opened.place(row) if row < len(opened.keys) and int(opened.keys[row]) == key else None


def find_folder(index: str, name: str) -> Place | None:
    """Where the index lists the files of this folder; none if it has none."""
    folders, key = _opened(index).folders, member_key(name)
    if key is None:
        return None
    first, end = (int(np.searchsorted(folders, np.uint64(key), side)) for side in ("left", "right"))
    return Place(FRAMES, first, end - first, False) if first < end else None


def folder_members(index: str, folder: Place) -> list[Place]:
    """Where the files of a folder lie, in the order of their names."""
    opened = _opened(index)
    rows = opened.members[folder.offset : folder.offset + folder.size]
    return [opened.place(int(row)) for row in rows]


class _Index(NamedTuple):
    """The columns of an index, mapped into memory."""

    keys: np.ndarray
    folders: np.ndarray
    members: np.ndarray
    places: list[pa.ChunkedArray]

    def place(self, row: int) -> Place:
        return Place(*(column[row].as_py() for column in self.places))


@lru_cache(16)
def _opened(index: str) -> _Index:
    table = pa.ipc.open_file(pa.memory_map(str(local_copy(index)))).read_all()
    keys, folders, members = (
        table[name].to_numpy() if len(table) else np.zeros(0, np.uint64) for name in INDEX_COLUMNS
    )
    return _Index(keys, folders, members, [table[name] for name in Place._fields])


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
            "name": pa.array([_encoded(posixpath.basename(name)) for name in names], pa.binary()),
            "archive": pa.array([number] * len(names), pa.int32()),
            "offset": pa.array(offsets, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "deflated": pa.array(deflated, pa.bool_()),
        }
    )


def _folder_key(name: str) -> int:
    """What the folder of a member is looked up by; 0 for hidden files, which belong to none."""
    folder, file = posixpath.split(name)
    return 0 if file.startswith(".") else member_key(folder) or 0


def _tar_members(archive: str) -> Iterable[tuple[str, int, int, bool]]:
    with open_archive(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue] -- else it keeps every header
            if member.isreg():
                yield member.name, member.offset_data, member.size, False


def _zip_members(archive: str) -> Iterable[tuple[str, int, int, bool]]:
    with open_archive(archive) as stream, zipfile.ZipFile(stream) as content:
        for member in content.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(
                    f"{archive}: {member.filename} is packed in a rare way; zip it again as usual"
                )
            if not member.is_dir():
                # Where the content starts is told by the lengths in the local header, not in the directory.
                stream.seek(member.header_offset)
                name, extra = _ZIP_HEADER.unpack(stream.read(_ZIP_HEADER.size))
                start = member.header_offset + _ZIP_HEADER.size + name + extra
                yield (
                    member.filename,
                    start,
                    member.compress_size,
                    member.compress_type == zipfile.ZIP_DEFLATED,
                )
