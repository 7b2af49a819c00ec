"""Small data sets in every format, and settings that read them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lladav.config.schema import (
    Config,
    DataConfig,
    ImagesConfig,
    ModelConfig,
    SourceConfig,
    SourceFormat,
    StageConfig,
    TrainConfig,
    VisionConfig,
)

Records = Sequence[Mapping[str, Any]]
Media = Mapping[str, bytes]


def settings(root: Path, tokenizer: Path, sources: Mapping[str, SourceConfig], **stage: Any) -> Config:
    """Settings of a stage that reads all of ``sources``; any number of bad samples is allowed."""
    values = {"name": "test", "global_batch": 4, "max_length": 1000, "sources": list(sources)} | stage
    return Config(
        stage=StageConfig(**values),
        model=ModelConfig(
            name="tiny",
            vision=VisionConfig(image_size=28, patch_size=14),
            images=ImagesConfig(grid=2, frame_side=1, max_frames=4),
            tokenizer=str(tokenizer),
        ),
        data=DataConfig(name="test", root=str(root), sources=dict(sources), bad_sample_budget=1.0),
        train=TrainConfig(micro_batch=2),
    )


def image_file(width: int, height: int, seed: int = 0, suffix: str = "PNG") -> bytes:
    """An image of random pixels."""
    pixels = np.random.default_rng([seed, width, height]).integers(0, 255, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, suffix)
    return stream.getvalue()


def animation_file(frames: int, milliseconds: int, suffix: str = "GIF") -> bytes:
    """An animation whose frames are uniformly grey and increasingly bright."""
    first, *rest = [Image.new("RGB", (30, 20), (10 * n,) * 3) for n in range(frames)]
    stream = io.BytesIO()
    first.save(stream, suffix, save_all=True, append_images=rest, duration=milliseconds, lossless=True)
    return stream.getvalue()


def turns(*values: str) -> list[dict[str, str]]:
    """A conversation that starts with a human turn."""
    return [{"from": "human" if n % 2 == 0 else "gpt", "value": value} for n, value in enumerate(values)]


def record(name: str, *images: str, answer: str = "Seven.") -> dict[str, Any]:
    """A record with these images, each with a mark."""
    fields = {} if not images else {"image": images[0] if len(images) == 1 else list(images)}
    return {"id": name, **fields, "conversations": turns("<image>\n" * len(images) + "What is it?", answer)}


def write_json(root: Path, records: Records, name: str = "records.json") -> str:
    """A JSON list; returns its path under ``root``."""
    (root / name).write_text(json.dumps(records, indent=1), encoding="utf-8")
    return name


def write_lines(root: Path, records: Records, name: str = "records.jsonl") -> str:
    """JSON lines; returns their path under ``root``."""
    (root / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return name


def write_parquet(root: Path, records: Records, media: Media, row_group: int = 2) -> str:
    """Rows with embedded images (records with none or one); returns the file's path under ``root``."""
    rows = [
        {
            "id": record["id"],
            "image": {"bytes": media[record["image"]], "path": record["image"]}
            if "image" in record
            else None,
            "conversations": record["conversations"],
        }
        for record in records
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "records.parquet", row_group_size=row_group)
    return "records.parquet"


def write_arrow(root: Path, records: Records, media: Media, batch: int = 2) -> str:
    """A folder as ``datasets.save_to_disk`` writes it, with a column of lists of images; returns its path
    under ``root``."""
    kept = ("id", "conversations")
    rows = [
        {**{key: record[key] for key in kept}, "images": _hub_images(record, media)} for record in records
    ]
    table = pa.Table.from_pylist(rows)
    (root / "dataset").mkdir()
    name = "data-00000-of-00001.arrow"
    path = str(root / "dataset" / name)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        for part in table.to_batches(max_chunksize=batch):
            stream.write_batch(part)
    state = {"_data_files": [{"filename": name}], "_split": None}
    (root / "dataset" / "state.json").write_text(json.dumps(state))
    return "dataset"


def _hub_images(record: Mapping[str, Any], media: Media) -> list[dict[str, Any]]:
    return [{"bytes": media[name], "path": name} for name in names_of(record)]


def names_of(record: Mapping[str, Any]) -> list[str]:
    """The names of the images of a record."""
    image = record.get("image", [])
    return image if isinstance(image, list) else [image]


def write_shards(root: Path, records: Records, media: Media, shards: int = 2) -> str:
    """WebDataset shards whose samples have the same keys in each; returns their glob under ``root``.

    Records do not name their images.
    """
    size = -(-len(records) // shards)
    for shard in range(shards):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as tar:
            for number, record in enumerate(records[shard * size : (shard + 1) * size]):
                fields = {key: value for key, value in record.items() if key != "image"}
                files = {f"{number:04}.json": json.dumps(fields).encode()}
                files |= {f"{number:04}.{n}.png": media[name] for n, name in enumerate(names_of(record))}
                for name, content in files.items():
                    _add(tar, name, content)
    return "shard-*.tar"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_folder(root: Path, media: Media) -> str:
    """A folder of files; returns its path under ``root``."""
    for name, content in media.items():
        file = root / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return "images"


def write_tars(root: Path, media: Media, archives: int = 2) -> str:
    """Several tars, each with every n-th file; returns their glob under ``root``."""
    for number in range(archives):
        with tarfile.open(root / f"images_{number}.tar", "w") as tar:
            for name, content in list(media.items())[number::archives]:
                _add(tar, f"./{name}", content)
    return "images_*.tar"


def write_zip(root: Path, media: Media, method: int = zipfile.ZIP_DEFLATED) -> str:
    """A zip; returns its path under ``root``."""
    with zipfile.ZipFile(root / f"images_{method}.zip", "w", method) as archive:
        for name, content in media.items():
            archive.writestr(name, content)
    return f"images_{method}.zip"


def json_source(root: Path, records: Records, media: Media) -> SourceConfig:
    """A JSON list and a folder of media."""
    return SourceConfig(
        SourceFormat.json, write_json(root, records), write_folder(root, media) if media else None
    )


IMAGES = {
    "a.png": image_file(30, 30),
    "wide.png": image_file(90, 30),
    "c.gif": animation_file(3, 1000),
}
RECORDS = [
    record("text"),
    record("one", "wide.png"),
    record("two", "a.png", "wide.png"),
    {"id": "clip", "video": "c.gif", "conversations": turns("<image>What?", "That.")},
]
"""One record of each kind, over ``IMAGES``."""
