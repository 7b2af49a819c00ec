"""One pass over a chunk of records: what the plan needs to know of each sample, and what must be left out.

Opens headers of images, never their pixels; lists the packets of videos whose header does not count frames.
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
from data.manifest.spec import Preparation
from data.records.parsing import parse, record_id
from data.records.record import BadSample, Reason, Record, contained
from data.sources.annotations import Chunk, Raw, read_chunk
from data.sources.archives import FRAMES, Place
from data.sources.media import MediaStore, shown
from data.sources.visuals import Opener, clip_header, image_size
from lladav.inputs.chat import TEXT_VERSION
from lladav.inputs.images import view_count
from lladav.inputs.types import VisualKind, VisualShape
from lladav.storage import AnyPath, location, read_text

ORDERS = "preparation.json"
"""The file in a manifest's folder that says how its samples are made."""

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
"""A row for each sample. The lists have an element for each picture of the record, kept by the cut or not."""


@dataclass(frozen=True)
class Scan:
    """Rows of the samples that can be used, and the others."""

    table: pa.Table
    rejects: list[Reject]


def write_orders(folder: Path, preparation: Preparation, indexes: dict[str, str]) -> None:
    """Tell the processes that scan and read what to do; ``indexes``: by source, the file of its archives."""
    orders = {"text_version": TEXT_VERSION, "preparation": preparation.to_json(), "indexes": indexes}
    (folder / ORDERS).write_text(json.dumps(orders, indent=1), encoding="utf-8")


def read_orders(folder: AnyPath) -> tuple[Preparation, dict[str, str]]:
    """How the samples of a manifest are made, and the index file of each source with archives."""
    orders = json.loads(read_text(folder / ORDERS))
    return Preparation.from_json(orders["preparation"]), orders["indexes"]


def scan_chunk(folder: str, chunk: Chunk) -> Scan:
    """Scan one chunk by the orders in ``folder``; can run in any process."""
    return _scanner(folder).scan(chunk)


@lru_cache(2)
def _scanner(folder: str) -> Scanner:
    return Scanner(location(folder))


class Scanner:
    """Looks at records without decoding pictures."""

    def __init__(self, folder: AnyPath) -> None:
        self._preparation, indexes = read_orders(folder)
        self._encoder = Encoder(self._preparation)
        self._stores = [MediaStore(s, indexes.get(s.name)) for s in self._preparation.sources]

    def scan(self, chunk: Chunk) -> Scan:
        """The rows of a chunk's samples, in order, and its rejects."""
        rows, rejects = [], []
        for number, raw in enumerate(read_chunk(chunk)):
            try:
                with contained():
                    rows.append(self._row(chunk, number, raw))
            except BadSample as bad:
                rejects.append(self._reject(chunk, number, raw, bad))
        return Scan(pa.Table.from_pylist(rows, SCHEMA), rejects)

    def _row(self, chunk: Chunk, number: int, raw: Raw) -> dict[str, Any]:
        record, sample = parse(raw), self._sample_id(chunk, number)
        places = [self._stores[chunk.source].locate(medium, record.is_video) for medium in record.media]
        sizes = [self._size(chunk.source, record, *pair) for pair in zip(record.media, places, strict=True)]
        suffix = self._encoder.draws_suffix(chunk.source, sample)
        encoded = self._encoder.encode(record, chunk.source, suffix, sizes)
        return {
            "id": sample,
            "source": chunk.source,
            "file": chunk.file,
            "position": int(chunk.positions[number]),
            "extent": int(chunk.extents[number]),
            **_columns(VisualShape, sizes),
            **_columns(Place, places),
            "text_tokens": encoded.length - encoded.visual_tokens,
            "visual_tokens": encoded.visual_tokens,
            "length": encoded.length,
            "supervised": int(np.count_nonzero(encoded.text.supervised)),
            "suffix": suffix,
            "was_cut": encoded.was_cut,
        }

    def _size(self, source: int, record: Record, medium: str | bytes, place: Place) -> VisualShape:
        store, geometry = self._stores[source], self._preparation.geometry
        if place.archive == FRAMES:
            return self._folder_size(store.frames(shown(medium), place), shown(medium))
        with store.stream(medium, place) as stream:
            if record.is_video:
                clip = clip_header(stream, shown(medium))
                frames = len(self._preparation.frames_of(clip))
                return VisualShape(VisualKind.video, clip.width, clip.height, frames)
            width, height = image_size(stream, shown(medium), geometry.pixels)
        if not width * height:
            raise BadSample(Reason.bad_image, f"{shown(medium)} has {width}x{height} pixels")
        kind = self._encoder.kind_of(record)
        return VisualShape(kind, width, height, view_count(kind, width, height, geometry))

    def _folder_size(self, files: list[Opener], name: str) -> VisualShape:
        frames = self._preparation.frames_of_folder(len(files))
        with files[frames[0]]() as stream:
            size = image_size(stream, name, self._preparation.geometry.pixels)
        return VisualShape(VisualKind.video, *size, len(frames))

    def _sample_id(self, chunk: Chunk, number: int) -> str:
        """The source, its file and the record's index there: unlike the record's own id, surely unique."""
        told = chunk.path.removeprefix(f"{self._preparation.root.rstrip('/')}/")
        file = told.encode(errors="backslashreplace").decode()
        return f"{self._preparation.sources[chunk.source].name}:{file}#{chunk.first + number}"

    def _reject(self, chunk: Chunk, number: int, raw: Raw, bad: BadSample) -> Reject:
        source, sample = self._preparation.sources[chunk.source].name, self._sample_id(chunk, number)
        return Reject.of(source, sample, record_id(raw), chunk.place(number), bad)


def _columns(kind: type, values: list[Any]) -> dict[str, list[Any]]:
    """Objects with the same fields as one list for each field."""
    return {name: [getattr(value, name) for value in values] for name in kind.__annotations__}
