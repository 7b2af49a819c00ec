"""The scan of a chunk of records: a manifest row for each usable sample, a reject for each other record.

The scan reads the headers of images, never their pixels. It lists the packets of a video if its header does
not count the frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data.manifest.encoding import Encoder, SampleCounts
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
        return Scan(_table(chunk, rows), rejects, chunk.read_bytes)

    def _row(self, chunk: Chunk, number: int, raw: RawRecord) -> _Row:
        record, sample = parse(raw), self._sample_id(chunk, number)
        locations = [self._stores[chunk.source].locate(medium, record.is_video) for medium in record.media]
        shapes = [
            self._shape(chunk.source, record, *pair) for pair in zip(record.media, locations, strict=True)
        ]
        suffix = self._encoder.draws_suffix(chunk.source, sample)
        counts = self._encoder.count(record, chunk.source, suffix, shapes)
        return _Row(number, sample, shapes, locations, counts, suffix)

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


class _Row(NamedTuple):
    """A usable sample; ``number`` is that of its record in the chunk."""

    number: int
    id: str
    shapes: list[VisualShape]
    locations: list[MediaLocation]
    counts: SampleCounts
    suffix: bool


def _table(chunk: Chunk, rows: list[_Row]) -> pa.Table:
    """The rows as a table of ``SCHEMA``."""
    numbers = np.array([row.number for row in rows], np.int64)
    lengths, visual_tokens = (
        np.array([getattr(row.counts, name) for row in rows], np.int32)
        for name in ("length", "visual_tokens")
    )
    columns = {
        "id": [row.id for row in rows],
        "source": np.full(len(rows), chunk.source),
        "file": np.full(len(rows), chunk.file),
        "position": chunk.positions[numbers],
        "extent": chunk.extents[numbers],
        **_list_columns(VisualShape, [row.shapes for row in rows]),
        **_list_columns(MediaLocation, [row.locations for row in rows]),
        "text_tokens": lengths - visual_tokens,
        "visual_tokens": visual_tokens,
        "length": lengths,
        "supervised": [row.counts.supervised for row in rows],
        "suffix": [row.suffix for row in rows],
        "was_cut": [row.counts.was_cut for row in rows],
    }
    return pa.table(columns, SCHEMA)


def _list_columns(kind: type, values: Sequence[Sequence[Any]]) -> dict[str, pa.Array]:
    """Lists of objects of class ``kind`` as a column of lists for each of its fields."""
    offsets = pa.array(np.cumsum([0, *map(len, values)]), pa.int32())
    flat = list(chain.from_iterable(values))
    return {
        name: pa.ListArray.from_arrays(
            offsets, pa.array([getattr(value, name) for value in flat], SCHEMA.field(name).type.value_type)
        )
        for name in kind.__annotations__
    }
