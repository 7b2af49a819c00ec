"""The files of a stage's sources, resolved once from the settings.

They are absolute paths or URIs, so that processes with another working folder find the same files.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass

from upath import UPath

from lladav import storage
from lladav.config.schema import Config, SourceConfig, SourceFormat
from lladav.errors import UserError
from lladav.storage import as_user_error, is_folder, local_path, location

ARCHIVES = (".tar", ".zip")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class SourceFiles:
    """One data set: its annotation files in order, and either a media folder or archives.

    A source has neither if its media are embedded in the records.
    """

    name: str
    format: SourceFormat
    annotations: tuple[str, ...]
    folder: str | None
    archives: tuple[str, ...]


def source_files(config: Config) -> list[SourceFiles]:
    """The files of the stage's sources; raises ``UserError`` if a file is missing or cannot be used."""
    root = location(config.data.root)
    return [_source(name, config.data.sources[name], root) for name in config.stage.sources]


def _source(name: str, source: SourceConfig, root: UPath) -> SourceFiles:
    annotations = _matches(root, source.annotations, f"data.sources.{name}.annotations")
    if source.format is SourceFormat.arrow and is_folder(location(annotations[0])):
        annotations = _matches(root, f"{source.annotations}/*.arrow", f"data.sources.{name}.annotations")
    media = _matches(root, source.media, f"data.sources.{name}.media") if source.media else []
    folder = media[0] if len(media) == 1 and is_folder(location(media[0])) else None
    archives = [] if folder else _without_packed_copies(media)
    _check_archives(archives, f"data.sources.{name}.media={source.media}")
    return SourceFiles(name, source.format, tuple(annotations), folder, tuple(archives))


def _matches(root: UPath, pattern: str, key: str) -> list[str]:
    with as_user_error(f"{key}={pattern}: cannot be read", "check data.root and the credentials"):
        if local := local_path(root):
            found = sorted(glob.glob(str(local / pattern), recursive=True))  # noqa: PTH207 -- the pattern may be absolute
        else:
            found = [str(file) for file in storage.glob(root, pattern)]
    if not found:
        raise UserError(f"{key}={pattern}: no such file under {root}; prepare the data or set data.root")
    return found


def _without_packed_copies(archives: Sequence[str]) -> list[str]:
    """The archives without compressed ones whose decompressed copy is also listed (a glob matches both)."""
    present = set(archives)
    return [archive for archive in archives if _decompressed_name(archive) not in present]


def _decompressed_name(archive: str) -> str | None:
    """The name of a compressed archive after decompression; None for other files."""
    suffix = next((suffix for suffix in COMPRESSED if archive.endswith(suffix)), None)
    return archive.removesuffix(suffix) + ".tar" if suffix else None


def _check_archives(archives: Sequence[str], key: str) -> None:
    for archive in archives:
        if archive.endswith(COMPRESSED):
            raise UserError(f"{key}: {archive} is compressed, so single files cannot be read; decompress it")
        if not archive.endswith(ARCHIVES):
            raise UserError(f"{key}: {archive} is not a tar or zip; name one folder, or archives only")
