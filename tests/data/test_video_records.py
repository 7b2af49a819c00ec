"""Videos in any form give the frames that the released trainer takes, or their record is a counted reject."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.manifest.manifest import Manifest, open_manifest
from data.pipeline.reading import read_samples
from data.records.record import BadSample
from data.sources import bytes_at
from lladav.config.schema import Pixels, SourceConfig, SourceFormat
from lladav.errors import UserError
from lladav.inputs.packing import expand_placeholders
from lladav.inputs.samples import Sample, VisualKind
from tests.data import build
from tests.lladav.inputs import recorded

RECORD = {"id": "r", "video": "clips/a", "conversations": build.turns("<image>\nWhat happens?", "It grows.")}
Writer = Callable[[Path, Mapping[str, bytes]], str]


def on_disk(root: Path, files: Mapping[str, bytes]) -> str:
    return build.write_folder(root, files)


def in_tars(root: Path, files: Mapping[str, bytes]) -> str:
    return build.write_tars(root, files)


def in_zip(root: Path, files: Mapping[str, bytes]) -> str:
    return build.write_zip(root, files)


def in_stored_zip(root: Path, files: Mapping[str, bytes]) -> str:
    return build.write_zip(root, files, zipfile.ZIP_STORED)


WRITERS = (on_disk, in_tars, in_zip, in_stored_zip)


def frame(level: int, width: int = 30) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 20), (level,) * 3).save(stream, "PNG")
    return stream.getvalue()


def folder(frames: int) -> dict[str, bytes]:
    """Frames that get brighter in the order of their names, not of storage, and files of other folders."""
    files = {f"clips/a/{number:02d}.png": frame(10 * number) for number in reversed(range(frames))}
    others = {"clips/a.json": b"{}", "clips/ab/00.png": frame(255), "clips/a/deeper/00.png": frame(255)}
    return others | files | {"clips/a/.00.png": b"hidden"}


def manifest_of(root: Path, tokenizer: Path, media: str, **settings: int) -> Manifest:
    source = SourceConfig(SourceFormat.json, build.write_json(root, [RECORD]), media)
    config = build.settings(root, tokenizer, {"source": source})
    for name, value in settings.items():
        setattr(config.model.images, name, value)
    return open_manifest(config)


def sample_of(manifest: Manifest) -> Sample:
    assert not manifest.summary.reasons
    (sample,) = read_samples(manifest, [0])
    assert len(expand_placeholders(sample, manifest.spec.geometry).ids) == manifest.lengths[0]
    return sample


def levels(sample: Sample) -> list[int]:
    (visual,) = sample.visuals
    assert visual.shape.kind is VisualKind.video
    return [int(view[0, 5, 5]) for view in visual.views]


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_of_frames_is_read_in_the_order_of_its_names(
    write: Writer, tmp_path: Path, tokenizer: Path
) -> None:
    manifest = manifest_of(tmp_path, tokenizer, write(tmp_path, folder(12)), max_frames=32)
    assert levels(sample_of(manifest)) == [0, 10, 20, 30, 40, 60, 70, 80, 90, 110]


@pytest.mark.parametrize("write", WRITERS)
def test_frames_of_a_folder_are_limited_like_those_of_a_file(
    write: Writer, tmp_path: Path, tokenizer: Path
) -> None:
    manifest = manifest_of(tmp_path, tokenizer, write(tmp_path, folder(9)), max_frames=3)
    assert levels(sample_of(manifest)) == [0, 40, 80]


@pytest.mark.parametrize("write", WRITERS)
def test_a_missing_folder_is_counted(write: Writer, tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UserError, match="no usable record"):
        manifest_of(tmp_path, tokenizer, write(tmp_path, {"clips/b/00.png": frame(0)}))


def test_a_folder_is_not_an_image(tmp_path: Path, tokenizer: Path) -> None:
    record = build.record("r", "clips/a")
    source = build.json_source(tmp_path, [record, build.record("text")], folder(3))
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"source": source}))
    assert manifest.summary.reasons == {"missing_file": 1}


def test_a_folder_that_has_changed_since_the_scan_is_not_used(tmp_path: Path, tokenizer: Path) -> None:
    manifest = manifest_of(tmp_path, tokenizer, on_disk(tmp_path, folder(3)))
    for path in (tmp_path / "images/clips/a").glob("0*.png"):
        path.unlink()
    with pytest.raises(BadSample, match="has changed since the manifest was built"):
        next(read_samples(manifest, [0]))


def test_a_damaged_frame_of_a_folder_is_a_bad_sample(tmp_path: Path, tokenizer: Path) -> None:
    manifest = manifest_of(tmp_path, tokenizer, on_disk(tmp_path, folder(3)))
    (tmp_path / "images/clips/a/01.png").write_bytes(b"no image")
    with pytest.raises(BadSample, match=r"bad_image: frame 1 of clips/a: "):
        next(read_samples(manifest, [0]))


@cache
def video_of(kind: str) -> bytes:
    return recorded.video(recorded.KINDS[kind], 60, rate=10)


@pytest.mark.parametrize("kind", ["mp4 h264", "webm vp9", "matroska h264", "avi mpeg4", "mpegts h264"])
@pytest.mark.parametrize("write", WRITERS)
def test_a_video_gives_a_frame_a_second_in_any_container(
    write: Writer, kind: str, tmp_path: Path, tokenizer: Path
) -> None:
    manifest = manifest_of(tmp_path, tokenizer, write(tmp_path, {"clips/a": video_of(kind)}), max_frames=32)
    (visual,) = sample_of(manifest).visuals
    reference = recorded.everything(video_of(kind))
    tile = manifest.spec.geometry.tile
    expected = [reference[n].resize((tile, tile), Image.Resampling.BICUBIC) for n in (0, 10, 20, 30, 40, 50)]
    assert np.array_equal(visual.views, np.stack([np.asarray(e).transpose(2, 0, 1) for e in expected]))


@pytest.mark.parametrize("kind", ["mp4 h264", "webm vp9", "matroska h264", "avi mpeg4"])
def test_a_video_cut_short_is_counted(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    content = video_of(kind)
    files = {"clips/a": content[: len(content) * 2 // 3]}
    records = [RECORD, build.record("text")]
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, records), on_disk(tmp_path, files))
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"source": source}))
    assert manifest.summary.reasons == {"bad_image": 1}


def test_a_large_member_of_a_deflated_zip_is_read_from_a_temporary_file(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytes_at, "MAX_BYTES_IN_MEMORY", 1000)
    manifest = manifest_of(tmp_path, tokenizer, in_zip(tmp_path, {"clips/a": video_of("mp4 h264")}))
    assert len(sample_of(manifest).visuals[0].views) == 4


def test_the_pixels_setting_gives_another_manifest(tmp_path: Path, tokenizer: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    source = build.json_source(tmp_path, [build.record("r", "a.jpg")], {"a.jpg": stream.getvalue()})
    config = build.settings(tmp_path, tokenizer, {"source": source})
    sizes = {}
    for pixels in Pixels:
        config.model.images.pixels = pixels
        manifest = open_manifest(config)
        (visual,) = sample_of(manifest).visuals
        sizes[pixels] = (visual.shape.width, visual.shape.height), manifest.folder
    assert sizes[Pixels.displayed][0] == (20, 40)
    assert sizes[Pixels.released][0] == (40, 20)
    assert sizes[Pixels.displayed][1] != sizes[Pixels.released][1]
