"""From a row of the manifest to a sample: the record is read again, its pictures decoded and tiled.

Needs no Ray: the pipeline's tasks, tests and evaluation use it alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from data.manifest.encoding import Encoder
from data.manifest.manifest import Manifest, manifest_in
from data.manifest.quarantine import Reject
from data.records.parsing import parse
from data.records.record import BadSample, Reason, Record, contained
from data.sources.annotations import place_of, read_record
from data.sources.archives import FRAMES, Place
from data.sources.media import MediaStore, shown
from data.sources.visuals import clip_frames, decode_image, folder_frames
from lladav.inputs.images import prepare_image, prepare_video
from lladav.inputs.types import Sample, Visual, VisualKind, VisualShape

CHANGED = "the record is not what it was when the manifest was made"


class SampleReader:
    """Reads samples of a manifest in any order."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._preparation = manifest.preparation
        self._encoder = Encoder(manifest.preparation)
        indexes, sources = manifest.indexes, manifest.preparation.sources
        self._stores = [MediaStore(source, indexes.get(source.name)) for source in sources]

    def read(self, index: int) -> Sample:
        """The sample in this row; raises ``BadSample`` if an image is damaged or the record has changed."""
        row = self._manifest.row(index)
        record = self._record(row)
        sizes = [VisualShape(VisualKind(kind), *rest) for kind, *rest in _zipped(row, VisualShape)]
        if len(record.media) != len(sizes):
            raise BadSample(Reason.bad_record, CHANGED)
        encoded = self._encoder.encode(record, row["source"], row["suffix"], sizes)
        if encoded.length != row["length"]:
            raise BadSample(Reason.bad_record, CHANGED)
        pictures = list(zip(record.media, _zipped(row, Place), sizes, strict=True))[: encoded.visuals]
        visuals = [
            self._visual(row["source"], medium, Place(*place), size) for medium, place, size in pictures
        ]
        return Sample(row["id"], encoded.text, visuals)

    def reject(self, index: int, bad: BadSample) -> Reject:
        """What goes to quarantine of a sample that could not be read."""
        row = self._manifest.row(index)
        source = self._preparation.sources[row["source"]]
        where = place_of(source.annotations[row["file"]], source.format, row["position"], row["extent"])
        return Reject.of(source.name, row["id"], self._own_id(row), where, bad)

    def _own_id(self, row: dict[str, Any]) -> str:
        try:
            with contained():
                return self._record(row).id
        except BadSample:
            return ""

    def _record(self, row: dict[str, Any]) -> Record:
        source = self._preparation.sources[row["source"]]
        place = row["position"], row["extent"]
        return parse(read_record(source.annotations[row["file"]], source.format, *place))

    def _visual(self, source: int, medium: str | bytes, place: Place, size: VisualShape) -> Visual:
        store, name = self._stores[source], shown(medium)
        if size.kind is VisualKind.video:
            return self._clip(store, medium, place, size)
        visual = self._image(store.read(medium, place), name, size)
        if visual.shape != size:
            raise _changed(name)
        return visual

    def _image(self, content: bytes, name: str, size: VisualShape) -> Visual:
        geometry = self._preparation.geometry
        return prepare_image(decode_image(content, name, geometry.pixels), size.kind, geometry)

    def _clip(self, store: MediaStore, medium: str | bytes, place: Place, size: VisualShape) -> Visual:
        """The frames of a clip, one in memory at a time; their size has no part in the number of tokens."""
        orders, name, geometry = self._preparation, shown(medium), self._preparation.geometry
        if place.archive == FRAMES:
            files = store.frames(name, place)
            if len(files) != place.size:
                raise _changed(name)
            frames = folder_frames(files, orders.frames_of_folder(len(files)), name, geometry.pixels)
            visual = prepare_video(frames, geometry)
        else:
            with store.stream(medium, place) as stream:
                frames = clip_frames(stream, orders.frames_of, name, geometry.pixels)
                visual = prepare_video(frames, geometry)
        if len(visual.views) != size.views:
            raise _changed(name)
        return visual


def _changed(name: str) -> BadSample:
    return BadSample(Reason.bad_image, f"{name} is not what it was when the manifest was made")


@lru_cache(4)
def open_reader(folder: str) -> SampleReader:
    """A reader of the manifest in a folder, made once in each process."""
    return SampleReader(manifest_in(folder))


def read_samples(manifest: Manifest, indices: Iterable[int]) -> Iterator[Sample]:
    """The samples in these rows, one after the other; a damaged one raises ``BadSample``."""
    reader = open_reader(str(manifest.folder))
    for index in indices:
        yield reader.read(int(index))


def _zipped(row: dict[str, Any], kind: type) -> list[tuple]:
    """The pictures' values of the columns that are called after the fields of ``kind``."""
    return list(zip(*(row[name] for name in kind.__annotations__), strict=True))
