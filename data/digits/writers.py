"""Writers of the published data sets' formats: JSON list and folder or tars, JSON lines and zip, parquet.

Archives have fixed dates and owners, so that the same seed gives the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.digits.records import DigitRecord, DigitVisual
from data.digits.scenes import paint

FRAME_MILLISECONDS = 1000
JPEG_QUALITY = 92
FILES_PER_ARCHIVE = 2000
"""Number of images per tar or folder."""

ZIP_DATE = (1980, 1, 1, 0, 0, 0)

Provenance = dict[str, list[int]]
"""The glyphs in each image, by the path of the image below the set (``archive!member`` in an archive)."""


def write_json_folder(records: Sequence[DigitRecord], folder: Path, suffix: str = "jpg") -> Provenance:
    """The format of LLaVA-Pretrain: ``annotations.json`` and ``images/00000/ID.jpg``."""
    shown = {}
    for number, (name_of_file, visual) in enumerate(_named(records, suffix)):
        path = f"{number // FILES_PER_ARCHIVE:05d}/{name_of_file}"
        file = folder / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(visual, suffix))
        shown[f"images/{path}"] = visual.glyphs
    paths = [path.removeprefix("images/") for path in shown]
    _write_list(folder / "annotations.json", _as_dicts(records, paths))
    return shown


def write_json_tars(records: Sequence[DigitRecord], folder: Path) -> Provenance:
    """The format of MAmmoTH-VL: ``annotations.json``, ``images_00.tar``, ``images_01.tar``, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [(f"images/{path}", visual) for path, visual in _named(records, "png")]
    shown = {}
    for number, start in enumerate(range(0, len(named), FILES_PER_ARCHIVE)):
        archive = f"images_{number:02d}.tar"
        part = named[start : start + FILES_PER_ARCHIVE]
        with tarfile.open(folder / archive, "w") as tar:
            for path, visual in part:
                _add_to_tar(tar, path, encoded(visual, "png"))
        shown |= {f"{archive}!{path}": visual.glyphs for path, visual in part}
    _write_list(folder / "annotations.json", _as_dicts(records, [path for path, _ in named]))
    return shown


def write_jsonl_zip(records: Sequence[DigitRecord], folder: Path) -> Provenance:
    """The format of VisualWebInstruct: ``annotations.jsonl`` and ``images.zip``."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [(f"images/{path}", visual) for path, visual in _named(records, "png")]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path, visual in named:
            archive.writestr(zipfile.ZipInfo(path, ZIP_DATE), encoded(visual, "png"))
    _write_lines(folder / "annotations.jsonl", _as_dicts(records, [path for path, _ in named]))
    return {f"images.zip!{path}": visual.glyphs for path, visual in named}


def write_parquet(records: Sequence[DigitRecord], folder: Path) -> Provenance:
    """The format of LLaVA-NeXT: one parquet file with columns id, image {bytes, path} and conversations."""
    folder.mkdir(parents=True, exist_ok=True)
    named = list(_named(records, "png"))
    rows = [
        {
            "id": record.id,
            "image": {"bytes": encoded(visual, "png"), "path": path},
            "conversations": record.conversations(),
        }
        for record, (path, visual) in zip(records, named, strict=True)
    ]
    file = "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), folder / file)
    return {f"{file}!{path}": visual.glyphs for path, visual in named}


def write_questions(records: Sequence[DigitRecord], folder: Path) -> Provenance:
    """Held-out questions: ``questions.jsonl`` (id, type, split, media, question, answer) and ``images/``."""
    shown = write_json_folder(records, folder, "png")
    (folder / "annotations.json").unlink()
    paths = iter([path.removeprefix("images/") for path in shown])
    _write_lines(folder / "questions.jsonl", [_question(record, paths) for record in records])
    return shown


def encoded(visual: DigitVisual, suffix: str) -> bytes:
    """An image file, or an animated GIF with one frame per second for a video."""
    first, *rest = [paint(scene) for scene in visual.scenes]
    stream = io.BytesIO()
    if rest:
        first.save(
            stream, "GIF", save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, optimize=False
        )
    elif suffix == "jpg":
        first.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        first.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _named(records: Sequence[DigitRecord], suffix: str) -> Iterator[tuple[str, DigitVisual]]:
    """All images and videos of the records, in order, with their file names."""
    for record in records:
        for number, visual in enumerate(record.visuals):
            index = f"-{number}" if len(record.visuals) > 1 else ""
            yield f"{record.id}{index}.{'gif' if visual.is_video else suffix}", visual


def _as_dicts(records: Sequence[DigitRecord], paths: Sequence[str]) -> list[dict]:
    remaining = iter(paths)
    return [
        {"id": record.id, **_media(record, remaining), "conversations": record.conversations()}
        for record in records
    ]


def _media(record: DigitRecord, paths: Iterator[str]) -> dict[str, str | list[str]]:
    """The ``image`` or ``video`` key of a record: a single path, or a list of several."""
    own = [next(paths) for _ in record.visuals]
    if not own:
        return {}
    key = "video" if record.visuals[0].is_video else "image"
    return {key: own[0] if len(own) == 1 else own}


def _question(record: DigitRecord, paths: Iterator[str]) -> dict:
    ((question, answer),) = record.pairs
    return {
        "id": record.id,
        "type": record.kind,
        "split": record.split,
        **_media(record, paths),
        "question": question,
        "answer": answer,
    }


def _add_to_tar(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _write_list(file: Path, values: Sequence[dict]) -> None:
    file.write_text("[\n" + ",\n".join(map(json.dumps, values)) + "\n]\n")


def _write_lines(file: Path, values: Sequence[dict]) -> None:
    file.write_text("".join(f"{json.dumps(value)}\n" for value in values))
