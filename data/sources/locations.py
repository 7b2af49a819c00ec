"""The files that a stage's sources consist of, found once from the settings.

Paths are absolute, so that processes with another working folder find the same files.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lladav.errors import UserError
from lladav.schema import Config, SourceConfig, SourceFormat

ARCHIVES = (".tar", ".zip")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class SourceFiles:
    """One data set: its record files in order; its media: a folder, archives, or neither (in the records)."""

    name: str
    format: SourceFormat
    annotations: tuple[str, ...]
    folder: str | None
    archives: tuple[str, ...]


def source_files(config: Config) -> list[SourceFiles]:
    """The files of the stage's sources; raises ``UserError`` for what is absent or unfit."""
    root = Path(config.data.root).absolute()
    return [_source(name, config.data.sources[name], root) for name in config.stage.sources]


def _source(name: str, source: SourceConfig, root: Path) -> SourceFiles:
    annotations = _matches(root, source.annotations, f"data.sources.{name}.annotations")
    media = _matches(root, source.media, f"data.sources.{name}.media") if source.media else []
    folder = media[0] if len(media) == 1 and Path(media[0]).is_dir() else None
    archives = [] if folder else _unpacked(media)
    _check_archives(archives, f"data.sources.{name}.media={source.media}")
    return SourceFiles(name, source.format, tuple(annotations), folder, tuple(archives))


def _matches(root: Path, pattern: str, key: str) -> list[str]:
    found = sorted(glob.glob(str(root / pattern), recursive=True))  # noqa: PTH207 -- patterns may be absolute
    if not found:
        raise UserError(f"{key}={pattern}: nothing there under {root}; prepare the data or set data.root")
    return found


def _unpacked(archives: Sequence[str]) -> list[str]:
    """The archives without those that lie there unpacked as well, as a glob of both finds them."""
    present = set(archives)
    return [archive for archive in archives if _tar_of(archive) not in present]


def _tar_of(archive: str) -> str | None:
    """What a compressed archive is called once it is unpacked."""
    suffix = next((suffix for suffix in COMPRESSED if archive.endswith(suffix)), None)
    return archive.removesuffix(suffix) + ".tar" if suffix else None


def _check_archives(archives: Sequence[str], key: str) -> None:
    for archive in archives:
        if archive.endswith(COMPRESSED):
            raise UserError(
                f"{key}: {archive} is compressed, single pictures cannot be reached; decompress it"
            )
        if not archive.endswith(ARCHIVES):
            raise UserError(f"{key}: {archive} is no tar or zip; name one folder, or archives only")
