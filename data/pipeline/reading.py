"""Reading of samples: a manifest row becomes token ids and views by parsing its record and decoding its
media.

Reading needs no Ray; tests and evaluation use it without.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from data.manifest.encoding import Encoder
from data.manifest.manifest import Manifest, manifest_in
from data.manifest.quarantine import Reject
from data.records.parsing import parse
from data.records.record import BadSample, Medium, Reason, Record, errors_as_bad_sample
from data.sources.annotations import describe_record, read_record
from data.sources.archives import FRAMES, MediaLocation
from data.sources.media import MediaStore, display_name
from lladav.inputs.clips import clip_frames, folder_frames
from lladav.inputs.image_files import read_image
from lladav.inputs.images import prepare_image, prepare_video
from lladav.inputs.samples import Sample, Visual, VisualKind, VisualShape


class SampleReader:
    """Reads samples of a manifest in any order."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._spec = manifest.spec
        self._encoder = Encoder(self._spec)
        self._stores = [
            MediaStore(source, manifest.indexes.get(source.name)) for source in self._spec.sources
        ]

    def read(self, index: int) -> Sample:
        """The sample with number ``index`` of ``Selection.rows``: a manifest row, or a copy of one.

        The id of a copy differs, so that its noise does. Raises ``BadSample`` if an image or video is
        damaged, or if it or the record has changed since the scan.
        """
        copy, row = divmod(index, len(self._manifest))
        with errors_as_bad_sample():
            sample = self._read(self._manifest.row(row))
        return replace(sample, id=f"{sample.id}~{copy}") if copy else sample

    def reject(self, index: int, bad: BadSample) -> Reject:
        """The quarantine line of a sample that could not be read."""
        row = self._manifest.row(index % len(self._manifest))
        source = self._spec.sources[row["source"]]
        where = describe_record(
            source.annotations[row["file"]], source.format, row["position"], row["extent"]
        )
        return Reject.of(source.name, row["id"], self._record_id(row), where, bad)

    def _record_id(self, row: dict[str, Any]) -> str:
        try:
            with errors_as_bad_sample():
                return self._record(row).id
        except BadSample:
            return ""

    def _record(self, row: dict[str, Any]) -> Record:
        source = self._spec.sources[row["source"]]
        path = source.annotations[row["file"]]
        return parse(read_record(path, source.format, row["position"], row["extent"]))

    def _read(self, row: dict[str, Any]) -> Sample:
        # The scan has parsed and encoded the record before. Token ids in the manifest would save this second
        # pass: 0.2 of 10 ms for a photo, 0.5 of 0.6 ms for a text of 1,900 tokens (one core,
        # tests/bench/bench_data.py --parts). But at 5 bytes per token a manifest of 10 million photos would
        # grow from 2 to 30 GB, and the record has to be read in any case: it has the names of its media or
        # their bytes.
        record = self._record(row)
        shapes = shapes_of(row)
        if len(record.media) != len(shapes):
            raise _changed(Reason.bad_record, "the record")
        encoded = self._encoder.encode(record, row["source"], row["suffix"], shapes)
        if encoded.length != row["length"]:
            raise _changed(Reason.bad_record, "the record")
        locations = [MediaLocation(*values) for values in _zipped(row, MediaLocation)]
        media = list(zip(record.media, locations, shapes, strict=True))[: encoded.visuals]
        return Sample(row["id"], encoded.text, [self._visual(row["source"], *medium) for medium in media])

    def _visual(self, source: int, medium: Medium, location: MediaLocation, expected: VisualShape) -> Visual:
        store, name, geometry = self._stores[source], display_name(medium), self._spec.geometry
        if expected.kind is VisualKind.video:
            visual = self._video(store, medium, location)
            has_changed = visual.shape.views != expected.views  # token counts do not depend on a video's size
        else:
            content = store.read(medium, location)
            image = read_image(io.BytesIO(content), name, geometry.pixels)
            visual = prepare_image(image, expected.kind, geometry)
            has_changed = visual.shape != expected
        if has_changed:
            raise _changed(Reason.bad_image, name)
        return visual

    def _video(self, store: MediaStore, medium: Medium, location: MediaLocation) -> Visual:
        """The views of a video; only one frame is held in memory at a time."""
        spec, name, geometry = self._spec, display_name(medium), self._spec.geometry
        if location.archive == FRAMES:
            files = store.frames(name, location)
            if len(files) != location.size:
                raise _changed(Reason.bad_image, name)
            frames = folder_frames(files, spec.frames_of_folder(len(files)), name, geometry.pixels)
            return prepare_video(frames, geometry)
        with store.stream(medium, location) as stream:
            return prepare_video(clip_frames(stream, spec.frames_of, name, geometry.pixels), geometry)


def shapes_of(row: dict[str, Any]) -> list[VisualShape]:
    """The shapes of the images or the video of a manifest row."""
    return [VisualShape(VisualKind(kind), *rest) for kind, *rest in _zipped(row, VisualShape)]


def _changed(reason: Reason, name: str) -> BadSample:
    return BadSample(reason, f"{name} has changed since the manifest was built")


@lru_cache(4)
def open_reader(folder: str) -> SampleReader:
    """A reader of the manifest in a folder, created once per process."""
    return SampleReader(manifest_in(folder))


def read_samples(manifest: Manifest, indices: Iterable[int]) -> Iterator[Sample]:
    """The samples in these manifest rows, one at a time; raises ``BadSample`` as ``SampleReader.read``."""
    reader = open_reader(str(manifest.folder))
    for index in indices:
        yield reader.read(int(index))


def _zipped(row: dict[str, Any], kind: type) -> list[tuple]:
    """The values of the columns named like the fields of ``kind``, one tuple per image or video."""
    return list(zip(*(row[name] for name in kind.__annotations__), strict=True))
