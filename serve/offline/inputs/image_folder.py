"""A folder of images: each image is a row, and its path is the id."""

from __future__ import annotations

from collections.abc import Iterator

from upath import UPath

from lladav.storage import as_user_error, file_infos
from serve.offline.inputs.shards import CHECK, SHARD_ROWS, InputShard, ReadRow

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def shards(folder: UPath, first: int) -> Iterator[InputShard]:
    """Shards of the sorted images below a folder."""
    with as_user_error(f"{folder}: cannot be read", CHECK):
        names = sorted(name for name in file_infos(folder) if name.lower().endswith(SUFFIXES))
    for start in range(0, len(names), SHARD_ROWS):
        part = tuple(names[start : start + SHARD_ROWS])
        yield InputShard(str(folder), first + start, len(part), names=part)


def read(shard: InputShard) -> Iterator[ReadRow]:
    """The rows of a shard; the images are read later."""
    return ({"id": name, "image": name} for name in shard.names)
