"""The specification of a manifest: all settings that determine how a record becomes tokens and views.

The key of a manifest is a hash of its specification. Settings that only affect how samples are batched are
not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from data.sources.locations import SourceFiles, source_files
from lladav.config.schema import (
    Config,
    ImageMode,
    MissingMark,
    Pixels,
    SourceFormat,
    Suffix,
    Supervise,
    Template,
)
from lladav.errors import UserError
from lladav.inputs.chat import SYSTEM_PROMPT, TEXT_VERSION, tokenizer_file
from lladav.inputs.images import ViewGeometry, sample_frames, spread_frames
from lladav.inputs.video_files import Clip
from lladav.storage import absolute, absolute_model, location, version

VERSION = 4
"""Increased when the same settings give another manifest; ``TEXT_VERSION`` when they give other token ids."""


@dataclass(frozen=True)
class ManifestSpec:
    """Sources, tokenizer, template and view geometry of a stage; paths are absolute or URIs.

    The names of the fields are part of the manifest's key and of its file.
    """

    root: str
    sources: list[SourceFiles]
    tokenizer: str
    geometry: ViewGeometry
    frames_per_second: float
    max_frames: int
    folder_frames: int
    images: ImageMode
    template: Template
    missing_mark: MissingMark
    supervise: Supervise
    eos_tail: int
    max_length: int
    suffixes: dict[str, Suffix]
    seed: int

    @classmethod
    def of(cls, config: Config) -> ManifestSpec:
        """The specification of the configured stage; raises ``UserError`` if a source is missing."""
        stage, images = config.stage, config.model.images
        return cls(
            root=absolute(config.data.root),
            sources=source_files(config),
            tokenizer=absolute_model(config.model.tokenizer),
            geometry=ViewGeometry.of(config.model),
            frames_per_second=images.frames_per_second,
            max_frames=images.max_frames,
            folder_frames=images.folder_frames,
            images=stage.images,
            template=stage.template,
            missing_mark=config.data.missing_mark,
            supervise=config.objective.supervise,
            eos_tail=config.objective.eos_tail,
            max_length=stage.max_length,
            suffixes=stage.suffixes,
            seed=config.train.seed if stage.suffixes else 0,
        )

    def frames_of(self, clip: Clip) -> list[int]:
        """Indices of the frames that training takes of a video file, as the released trainer does."""
        return sample_frames(clip.frames, clip.rate, self.frames_per_second, self.max_frames)

    def frames_of_folder(self, files: int) -> list[int]:
        """Indices of the frames that training takes of a folder of ``files`` frames, as released."""
        return spread_frames(files, min(self.folder_frames, self.max_frames))

    def key(self) -> str:
        """A hash of the settings and of the size and version of every source file.

        Raises ``UserError`` if the tokenizer is missing.
        """
        versions = [VERSION, TEXT_VERSION, SYSTEM_PROMPT]
        text = json.dumps([*versions, self.to_json(), list(self._file_versions())], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The values as JSON; ``from_json`` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ManifestSpec:
        typed = {
            "sources": [_source(source) for source in values["sources"]],
            "geometry": ViewGeometry(**values["geometry"] | {"pixels": Pixels(values["geometry"]["pixels"])}),
            "images": ImageMode(values["images"]),
            "template": Template(values["template"]),
            "missing_mark": MissingMark(values["missing_mark"]),
            "supervise": Supervise(values["supervise"]),
            "suffixes": {name: Suffix(**suffix) for name, suffix in values["suffixes"].items()},
        }
        return cls(**values | typed)

    def _file_versions(self) -> Iterator[tuple[str, int, str | int]]:
        for source in self.sources:
            for path in (*source.annotations, *source.archives, source.folder or source.annotations[0]):
                yield path, *version(location(path))
        file = tokenizer_file(self.tokenizer)
        if not file.is_file():
            raise UserError(
                f"{file}: no such tokenizer; point model.tokenizer at a folder that holds tokenizer.json"
            )
        yield hashlib.sha256(file.read_bytes()).hexdigest(), 0, 0


def _source(values: dict[str, Any]) -> SourceFiles:
    return SourceFiles(
        values["name"],
        SourceFormat(values["format"]),
        tuple(values["annotations"]),
        values["folder"],
        tuple(values["archives"]),
    )
