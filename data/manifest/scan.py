"""The scan of a chunk of records: a manifest row for each usable sample, a reject for each other record.

The scan reads the headers of images, never their pixels. It lists the packets of a video if its header does
not count the frames.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.manifest.encoding import Encoder
from data.manifest.quarantine import Reject
from data.manifest.spec import ManifestSpec
from data.records.parsing import parse, record_id
from data.records.record import BadSample, Medium, Reason, Record, errors_as_bad_sample
from data.sources.annotations import Chunk, RawRecord, read_chunk
from data.sources.archives import FRAMES, MediaLocation
from data.sources.media import MediaStore, display_name
from lladav.inputs.chat import TEXT_VERSION
from lladav.inputs.clips import Opener, clip_header
from lladav.inputs.image_files import image_size
from lladav.inputs.images import view_count
from lladav.inputs.samples import VisualKind, VisualShape
from lladav.storage import AnyPath, location, read_text

SPEC_FILE = "preparation.json"
"""File in a manifest's folder: its specification and the archive index of each source."""

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.int16(),
        "file": pa.int32(),
        "position": pa.int64(),
        "extent": pa.int64(),
        "kind": pa.list_(pa.int8()),
        "width": pa.list_(pa.int32()),
        "height": pa.list_(pa.int32()),
        "views": pa.list_(pa.int32()),
        "archive": pa.list_(pa.int32()),
        "offset": pa.list_(pa.int64()),
        "size": pa.list_(pa.int64()),
        "deflated": pa.list_(pa.bool_()),
        "text_tokens": pa.int32(),
        "visual_tokens": pa.int32(),
        "length": pa.int32(),
        "supervised": pa.int32(),
        "suffix": pa.bool_(),
        "was_cut": pa.bool_(),
    }
)
"""One row per sample. Lists have an element for each image or video of the record, also for those that
``max_length`` cuts off: ``kind`` to ``views`` are its ``VisualShape``, ``archive`` to ``deflated`` its
``MediaLocation``."""


@dataclass(frozen=True)
class Scan:
    """The manifest rows of a chunk and its rejects."""

    table: pa.Table
    rejects: list[Reject]
    read_bytes: int
    """``Chunk.read_bytes``."""


def write_spec(folder: Path, spec: ManifestSpec, indexes: dict[str, str]) -> None:
    """Write what processes need to scan and to read; ``indexes`` has the archive index of each source."""
    # The file keeps the key "preparation": manifests of earlier versions are still in use.
    content = {"text_version": TEXT_VERSION, "preparation": spec.to_json(), "indexes": indexes}
    (folder / SPEC_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_spec(folder: AnyPath) -> tuple[ManifestSpec, dict[str, str]]:
    """The specification of a manifest, and the archive index of each source that has archives."""
    content = json.loads(read_text(folder / SPEC_FILE))
    return ManifestSpec.from_json(content["preparation"]), content["indexes"]


def scan_chunk(folder: str, chunk: Chunk) -> Scan:
    """Scan one chunk, in any process, by the specification in ``folder``."""
    return _scanner(folder).scan(chunk)


@lru_cache(2)
def _scanner(folder: str) -> Scanner:
    return Scanner(location(folder))


class Scanner:
    """Scans chunks for the manifest whose specification is in ``folder``."""

    def __init__(self, folder: AnyPath) -> None:
        self._spec, indexes = read_spec(folder)
        self._encoder = Encoder(self._spec)
        self._stores = [MediaStore(source, indexes.get(source.name)) for source in self._spec.sources]

    def scan(self, chunk: Chunk) -> Scan:
        """The manifest rows and rejects of a chunk, in order."""
        rows, rejects = [], []
        for number, raw in enumerate(read_chunk(chunk)):
            try:
                with errors_as_bad_sample():
                    rows.append(self._row(chunk, number, raw))
            except BadSample as bad:
                rejects.append(self._reject(chunk, number, raw, bad))
        return Scan(pa.Table.from_pylist(rows, SCHEMA), rejects, chunk.read_bytes)

    def _row(self, chunk: Chunk, number: int, raw: RawRecord) -> dict[str, Any]:
        record, sample = parse(raw), self._sample_id(chunk, number)
        locations = [self._stores[chunk.source].locate(medium, record.is_video) for medium in record.media]
        shapes = [
            self._shape(chunk.source, record, *pair) for pair in zip(record.media, locations, strict=True)
        ]
        suffix = self._encoder.draws_suffix(chunk.source, sample)
        encoded = self._encoder.encode(record, chunk.source, suffix, shapes)
        return {
            "id": sample,
            "source": chunk.source,
            "file": chunk.file,
            "position": int(chunk.positions[number]),
            "extent": int(chunk.extents[number]),
            **_columns(VisualShape, shapes),
            **_columns(MediaLocation, locations),
            "text_tokens": encoded.length - encoded.visual_tokens,
            "visual_tokens": encoded.visual_tokens,
            "length": encoded.length,
            "supervised": int(np.count_nonzero(encoded.text.supervised)),
            "suffix": suffix,
            "was_cut": encoded.was_cut,
        }

    def _shape(self, source: int, record: Record, medium: Medium, location: MediaLocation) -> VisualShape:
        """The shape of an image or video from its header."""
        store, geometry, name = self._stores[source], self._spec.geometry, display_name(medium)
        if location.archive == FRAMES:
            return self._frames_shape(store.frames(name, location), name)
        with store.stream(medium, location) as stream:
            if record.is_video:
                clip = clip_header(stream, name)
                frames = len(self._spec.frames_of(clip))
                return VisualShape(VisualKind.video, clip.width, clip.height, frames)
            width, height = image_size(stream, name, geometry.pixels)
        if not width * height:
            raise BadSample(Reason.bad_image, f"{name} has {width}x{height} pixels")
        kind = self._encoder.kind_of(record)
        return VisualShape(kind, width, height, view_count(kind, width, height, geometry))

    def _frames_shape(self, files: list[Opener], name: str) -> VisualShape:
        frames = self._spec.frames_of_folder(len(files))
        with files[frames[0]]() as stream:
            size = image_size(stream, name, self._spec.geometry.pixels)
        return VisualShape(VisualKind.video, *size, len(frames))

    def _sample_id(self, chunk: Chunk, number: int) -> str:
        """Source, file and number of the record in the file: unique, which the record's own id may not be."""
        relative = chunk.path.removeprefix(f"{self._spec.root.rstrip('/')}/")
        file = relative.encode(errors="backslashreplace").decode()
        return f"{self._spec.sources[chunk.source].name}:{file}#{chunk.first + number}"

    def _reject(self, chunk: Chunk, number: int, raw: RawRecord, bad: BadSample) -> Reject:
        source, sample = self._spec.sources[chunk.source].name, self._sample_id(chunk, number)
        return Reject.of(source, sample, record_id(raw), chunk.describe(number), bad)


def _columns(kind: type, values: list[Any]) -> dict[str, list[Any]]:
    """Objects of class ``kind`` as one list for each of its fields."""
    return {name: [getattr(value, name) for value in values] for name in kind.__annotations__}
