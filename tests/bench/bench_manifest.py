"""Building of a manifest: records per second and peak memory, from synthetic records and small images.

    python tests/bench/bench_manifest.py
    python tests/bench/bench_manifest.py --records 1000000 --images 100000 --ray
    python tests/bench/bench_manifest.py --media tar --format jsonl

Records are conversations of two to six turns; nine of ten name an image, and images repeat. By default one
process builds the manifest; ``--ray`` uses all cores as a training run does, its start not included. Then the
manifest is opened again, and the first epoch is planned. Peak memory is that of this process, above what it
has before the build: with ``--ray`` the records are in other processes. Beside other programs, compare
records per second of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import numpy as np  # noqa: E402 - the path comes first
from PIL import Image  # noqa: E402

from data.manifest.manifest import Manifest, manifest_in, open_manifest  # noqa: E402
from data.manifest.ray_map import ray_map  # noqa: E402
from data.pipeline.plan import Plan  # noqa: E402
from lladav.cluster import connect  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.memory import peak_above  # noqa: E402

WORDS = (
    "the a cat dog two red blue house tree stands behind near large small picture shows which and of".split()
)
SIZES = ((64, 48), (96, 64), (48, 48), (80, 120))
AGAINST = "nothing; compare runs of the same size on the same machine"


def main(arguments: argparse.Namespace) -> None:
    """Write the data set, build its manifest, and report."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        config = load(write_data_set(Path(name), arguments))
        mapper = map
        if arguments.ray:
            stack.enter_context(connect(config.cluster))
            mapper = ray_map
        built: list[Manifest] = []
        cost = measured(lambda: built.append(open_manifest(config, mapper=mapper, report=print)))
        _report(config, built[0], cost, arguments)


class Cost(NamedTuple):
    """What some work takes of this process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measured(work: Callable[[], object]) -> Cost:
    """Do some work; return what it takes."""
    start, cpu = time.perf_counter(), time.process_time()
    peak = peak_above(work)
    return Cost(time.perf_counter() - start, time.process_time() - cpu, peak)


def _report(config: Config, manifest: Manifest, built: Cost, arguments: argparse.Namespace) -> None:
    manifest_in.cache_clear()
    again = measured(lambda: open_manifest(config)).seconds
    planning = measured(lambda: Plan.of(manifest, config).global_batch(0)).seconds
    records = manifest.summary.records
    rows = [
        ("records", f"{records:,}"),
        ("records/s", f"{records / built.seconds:,.0f}"),
        ("records/s of CPU time", "-" if arguments.ray else f"{records / built.cpu_seconds:,.0f}"),
        ("peak memory", f"{built.peak_bytes / 1e6:.0f} MB"),
        ("size on disk", f"{size_of(manifest) / 1e6:.1f} MB"),
        ("open again", f"{again:.2f} s"),
        ("plan an epoch", f"{planning:.2f} s"),
    ]
    table(("manifest", f"{arguments.format}, {arguments.media}"), rows)
    details = {"records": records, "cores": os.cpu_count() if arguments.ray else 1}
    details |= {"cpu_seconds": round(built.cpu_seconds, 2), "peak_mb": round(built.peak_bytes / 1e6)}
    report("manifest", round(records / built.seconds), "records/s", AGAINST, **details)


def size_of(manifest: Manifest) -> int:
    """Bytes of the manifest's files."""
    return sum(file.stat().st_size for file in Path(str(manifest.folder)).iterdir())


def write_data_set(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Write records and images to ``folder``; returns the settings that read them."""
    random = np.random.default_rng(0)
    WRITERS[arguments.media](folder, images(arguments.images, random))
    lines = map(json.dumps, records(arguments.records, arguments.images, random))
    with (folder / "records").open("w", encoding="utf-8") as file:
        if arguments.format == "jsonl":
            file.writelines(f"{line}\n" for line in lines)
        else:
            file.write(f"[{next(lines)}")
            file.writelines(f",\n{line}" for line in lines)
            file.write("]")
    media = "images.tar" if arguments.media == "tar" else "images"
    source = f"{{format: {arguments.format}, annotations: records, media: {media}}}"
    tokenizer = ROOT / "tests/golden/tokenizer"
    sources = (f"data.sources.mine={source}", f"data.root={folder}", f"model.tokenizer={tokenizer}")
    return ["stage=finetune", "model=llada_v_8b", "data=mine", *sources]


def records(count: int, images: int, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Conversations; every tenth has no image."""
    for number in range(count):
        turns = []
        for turn in range(0, 2 * int(random.integers(1, 4)), 2):
            mark = "<image>\n" if number % 10 and turn == 0 else ""
            turns.append({"from": "human", "value": mark + sentence(8, random)})
            turns.append({"from": "gpt", "value": sentence(25, random)})
        image = {"image": f"{number % images:07}.png"} if number % 10 else {}
        yield {"id": str(number), **image, "conversations": turns}


def sentence(words: int, random: np.random.Generator) -> str:
    """Some random words."""
    return " ".join(WORDS[n] for n in random.integers(0, len(WORDS), words)) + "."


def images(count: int, random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Names and contents of small PNG files."""
    contents = []
    for size in SIZES:
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (*size[::-1], 3), np.uint8)).save(stream, "PNG")
        contents.append(stream.getvalue())
    for number in range(count):
        yield f"{number:07}.png", contents[number % len(contents)]


def write_folder(folder: Path, files: Iterator[tuple[str, bytes]]) -> None:
    """Write the files below ``images``."""
    (folder / "images").mkdir()
    for name, content in files:
        (folder / "images" / name).write_bytes(content)


def write_tar(folder: Path, files: Iterator[tuple[str, bytes]]) -> None:
    """Write the files to ``images.tar``."""
    with tarfile.open(folder / "images.tar", "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


WRITERS = {"folder": write_folder, "tar": write_tar}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--media", choices=WRITERS, default="folder")
    parser.add_argument("--format", choices=("json", "jsonl"), default="json")
    parser.add_argument("--ray", action="store_true", help="build with all cores")
    main(parser.parse_args())
