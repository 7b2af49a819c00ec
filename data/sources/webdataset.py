"""Samples of WebDataset shards: tar files in which the files of a sample follow each other.

The files of a sample have the same path up to the first dot of the name: ``0001.json`` is a record,
``0001.jpg`` an image of it. ``position`` and ``extent`` are the bytes of a sample in the shard, headers
included. Images are read from the shard in place; the scan reads their headers only.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from data.records.parsing import IMAGE_KEYS, VIDEO_KEYS
from data.records.record import StoredFile
from data.sources.bytes_at import open_archive, stream_at
from lladav.errors import UserError
from lladav.storage import file_size, location

RECORD, VIDEOS = ".json", (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm")


def shard_samples(path: str) -> Iterator[Iterator[tuple[int, int]]]:
    """(position, extent) of all samples of a shard, in one iterable.

    Raises ``UserError`` for a damaged shard.
    """
    yield _extents(path)


def shard_share(path: str, position: int, extent: int) -> float:
    """The part of a shard up to the end of a sample, from 0 to 1."""
    return (position + extent) / file_size(location(path))


def read_shard_samples(
    path: str, positions: Sequence[int], extents: Sequence[int]
) -> Iterator[bytes | dict[str, Any]]:
    """The records of samples, with their images and videos as ``StoredFile``."""
    for position, extent in zip(positions, extents, strict=True):
        yield _record(path, position, extent)


def _extents(path: str) -> Iterator[tuple[int, int]]:
    try:
        with open_archive(path) as stream, tarfile.open(fileobj=stream, mode="r:") as shard:
            for _, members in groupby(_files(shard), key=lambda member: _sample_of(member.name)):
                files = list(members)
                yield files[0].offset, _end(files[-1]) - files[0].offset
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: damaged archive ({error}); download it again") from None


def _files(shard: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in shard:
        shard.members = []  # pyright: ignore[reportAttributeAccessIssue] -- tarfile would keep every header
        if member.isreg():
            yield member


def _sample_of(name: str) -> str:
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.partition(".")[0])


def _end(member: tarfile.TarInfo) -> int:
    blocks = -(-member.size // tarfile.BLOCKSIZE)
    return member.offset_data + blocks * tarfile.BLOCKSIZE


def _record(path: str, position: int, extent: int) -> bytes | dict[str, Any]:
    """The record of a sample; its text if that is no JSON object, empty fields if there is none."""
    text, media = b"{}", []
    with tarfile.open(fileobj=stream_at(path, position, extent), mode="r:") as sample:
        for member in _files(sample):
            if member.name.lower().endswith(RECORD):
                content = sample.extractfile(member)
                text = content.read() if content else text
            else:
                media.append(StoredFile(member.name, path, position + member.offset_data, member.size))
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _with_media(fields, media) if isinstance(fields, dict) else text


def _with_media(fields: Mapping[str, Any], media: Sequence[StoredFile]) -> dict[str, Any]:
    """The record with files of the shard in place of their names; it need not name them."""
    keys = [key for key in (*IMAGE_KEYS, *VIDEO_KEYS) if fields.get(key)]
    if not keys:
        images, videos = ([e for e in media if e.name.lower().endswith(ends)] for ends in (IMAGES, VIDEOS))
        return {**fields, "images": images, "videos": videos}
    named = {name: each for each in media for name in (posixpath.basename(each.name), each.name)}
    return {**fields, **{key: _replaced(fields[key], named) for key in keys}}


def _replaced(value: Any, named: Mapping[str, StoredFile]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, named) for each in value]
    return named.get(value, value) if isinstance(value, str) else value
